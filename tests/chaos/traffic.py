"""The clients: mixed requests, some in a hurry, some that go away; each keeps what it was told."""

import asyncio
import random
from collections.abc import Mapping, Sequence

import msgspec

from tests.chaos.servers import WORDS
from tests.chaos.story import Story
from tests.chaos.world import CANDIDATES, DESK, HOUSE, TINY
from tests.faults.client import Answer, Patience, ask

GIVEN_UP_S = 300.0
"""After this long without an end a request counts as lost."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One request as drawn. `tag` is its first word, by which it is known everywhere.

    `leaves_after` is how many pieces the client reads before it goes away, None if it stays.
    """

    tag: str
    model: str
    words: int
    most: int
    streams: bool
    asks_usage: bool
    key: str
    within_s: float | None = None
    leaves_after: int | None = None

    @property
    def text(self) -> str:
        """What is asked, and what a provider says back."""
        return " ".join([self.tag, *(f"w{n}" for n in range(1, self.words))])

    @property
    def said(self) -> str:
        """A provider's whole answer."""
        return " ".join(self.text.split()[: self.most])

    @property
    def candidates(self) -> tuple[str, ...]:
        """The targets that may answer it."""
        if "/" in self.model:
            return (self.model,)
        routes = {**CANDIDATES, **HOUSE}
        return routes["general" if self.model == "auto" else self.model]


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it for its client, from when to when in the story's time.

    `answer` is None where the client left before a whole head, or none came; `lost` says why.
    """

    @property
    def shed(self) -> bool:
        """Whether it was told to come back: there was more to do than there was room."""
        answer = self.answer
        return (
            answer is not None
            and answer.status == 429
            and "retry-after" in answer.headers
            and (answer.error or {}).get("code") == "overloaded"
        )

    plan: Plan
    since: float
    until: float
    answer: Answer | None
    left: bool = False
    lost: str = ""


def drawn(rng: random.Random, number: int, keys: Sequence[str], ours: bool) -> Plan:
    """The next request."""
    models: list[str] = ["auto", "auto", *CANDIDATES]
    models += [f"p{rng.randrange(3)}/{WORDS}"]
    if ours:
        models += ["house", "house", "private", DESK, TINY]
    model = rng.choice(models)
    words = rng.randint(4, 60)
    house = "/" in model or model in HOUSE
    plan = Plan(
        tag=f"t{number}",
        model=model,
        words=words if model in CANDIDATES or model == "auto" else 8,
        most=rng.randint(4, 16) if house else rng.choice([1000, rng.randint(2, 60)]),
        streams=rng.random() < 0.6,
        asks_usage=rng.random() < 0.5 or house,
        key=rng.choice(keys),
    )
    chance = rng.random()
    if chance < 0.1:
        return msgspec.structs.replace(plan, within_s=rng.choice([0.05, 0.2, 1.0]))
    if chance < 0.2:
        return msgspec.structs.replace(plan, leaves_after=rng.choice([0, 0, 1, 3, 10]))
    return plan


async def asked(plan: Plan, port: int, story: Story) -> Told:
    """Sends one request and keeps what is told."""
    body: dict[str, object] = {
        "model": plan.model,
        "messages": [{"role": "user", "content": plan.text}],
        "max_tokens": plan.most,
        "temperature": 0,
        "ignore_eos": True,
    }
    if plan.streams:
        body["stream"] = True
        if plan.asks_usage:
            body["stream_options"] = {"include_usage": True}
    headers: Mapping[str, str] = {"authorization": f"Bearer {plan.key}"}
    if plan.within_s is not None:
        headers = {**headers, "x-request-timeout": f"{plan.within_s:g}"}
    since = story.now()
    patience = Patience(plan.leaves_after, 0.03)
    try:
        async with asyncio.timeout(GIVEN_UP_S):
            answer = await ask(port, body, headers, patience)
    except (EOFError, OSError, TimeoutError) as error:
        left = patience.left
        return Told(
            plan=plan, since=since, until=story.now(), answer=None, left=left,
            lost="" if left else repr(error),
        )  # fmt: skip
    return Told(plan=plan, since=since, until=story.now(), answer=answer, left=patience.left)
