"""One run: the world is set up, clients ask, the monkey harms, and at the end all is checked."""

import asyncio
import random
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from gateway.app import Gateway
from gateway.revisions.opening import Home, open_home
from gateway.serving import listening
from gateway.store.keys import Keys
from tests.chaos import checks
from tests.chaos.monkey import Monkey
from tests.chaos.operator import Operator
from tests.chaos.servers import Backend, Provider, Replica, until_it_answers
from tests.chaos.story import Story
from tests.chaos.traffic import Told, asked, drawn
from tests.chaos.world import ENVIRONMENT, World
from tests.gateway.support import Served, serving_client

CLIENTS = 8
SLOW_S = 10.0
"""A request that takes longer is told of."""
WITH_REPLICAS_S = 20.0
"""For so long there has to be traffic while our own servers are well."""


class Run(msgspec.Struct, frozen=True):
    """How it is run. `most_s` bounds it where our own servers take long to start."""

    seed: int
    seconds: float
    most_s: float
    replicas: bool = True
    aloud: bool = False


class Done(msgspec.Struct, frozen=True):
    """What came of a run."""

    run: Run
    wrongs: list[checks.Wrong]
    told: list[Told]
    acts: dict[str, int]
    story: Story
    reasons: dict[str, int]
    """Why attempts were made, and how often."""
    verdicts: dict[str, int]
    """How guards ended, and how often."""

    def by_target(self) -> dict[str, int]:
        """How many answers each target gave."""
        count: dict[str, int] = {}
        for told in self.told:
            if told.answer is not None:
                target = told.answer.headers.get("x-switchboard-target", str(told.answer.status))
                count[target] = count.get(target, 0) + 1
        return dict(sorted(count.items()))

    def report(self) -> str:
        """What was done; and of what is wrong, the seed and the story."""
        head = (
            f"seed {self.run.seed}: {len(self.told)} requests, answered by {self.by_target()};"
            f" told to come back: {sum(told.shed for told in self.told)}; asked: {self.reasons};"
            f" done to them: {dict(sorted(self.acts.items()))}; guards: {self.verdicts}"
        )
        if not self.wrongs:
            return head
        first = self.wrongs[:20]
        lines = [f"{each.since:8.3f} to {each.until:.3f}: {each.what}" for each in first]
        timeline = self.story.around(first[0].since, first[0].until)
        return "\n".join(
            [head, f"{len(self.wrongs)} things are wrong:", *lines, "around the first:", timeline]
        )


async def run(how: Run) -> Done:
    """Runs it, in a folder of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        providers = [Provider(f"p{n}", folder) for n in range(3)]
        replicas = [Replica(f"v{n}", folder) for n in range(2 if how.replicas else 0)]
        servers: list[Backend] = [*providers, *replicas]
        for server in servers:
            stack.callback(server.stop)
        for provider in providers:
            provider.launch()
        for provider in providers:
            await asyncio.wait_for(until_it_answers(provider), 60)
        return await _run(how, folder, providers, replicas)


async def _run(how: Run, folder: Path, providers: list[Provider], replicas: list[Replica]) -> Done:
    directory = folder / "configuration"
    directory.mkdir()
    world = World(directory, providers, replicas)
    world.write(world.texts(0))
    async with _serving(Home(directory, environment=ENVIRONMENT, watch=True), folder) as served:
        keys = [Keys(served.gateway.store).create(f"client-{n}").secret for n in range(3)]
        await asyncio.to_thread(served.gateway.keyring.refresh)
        story, began = Story(aloud=how.aloud), time.time()
        rng = random.Random(how.seed)
        draws = random.Random(rng.random())
        operator = Operator(served, story, draws, world, [*providers, *replicas])
        monkey = Monkey(served, story, draws, operator, providers, replicas)
        monkey.start_replicas()
        over = _End(how, story, [*replicas])
        told: list[Told] = []
        clients = [
            asyncio.create_task(
                _client(random.Random(rng.random()), n, keys, bool(replicas), served, story, told,
                        over)
            )
            for n in range(CLIENTS)
        ]  # fmt: skip
        try:
            await monkey.run(over)
            await asyncio.gather(*clients)
        finally:
            for client in clients:
                client.cancel()
        await asyncio.to_thread(served.gateway.writer.flush)
        reader = served.gateway.reader
        listed = await asyncio.to_thread(reader.recent, limit=None)
        rows = [await asyncio.to_thread(reader.find, row["id"]) for row in listed]
    servers: list[Backend] = [*providers, *replicas]
    seen = checks.Seen(
        told,
        [row for row in rows if row is not None],
        {each.name: each.entries() for each in providers},
        {each.url: each.name for each in servers},
        operator.known,
        story,
        began,
        operator.wrongs,
    )
    return Done(
        how, checks.wrongs(seen), told, monkey.done, story, _reasons(seen), dict(operator.verdicts)
    )


def _reasons(seen: checks.Seen) -> dict[str, int]:
    attempts = [attempt for row in seen.rows for attempt in row["attempts"]]
    return dict(Counter(attempt["reason"] for attempt in attempts))


@asynccontextmanager
async def _serving(home: Home, folder: Path) -> AsyncIterator[Served]:
    """The gateway of files that are watched, and an administrator's client of it."""
    store, opening = open_home(home, f"sqlite:///{folder}/switchboard.db")
    gateway = Gateway(opening.snapshot, store, home=home, opening=opening)
    key = Keys(store).create("test", role="admin").secret
    await gateway.start()
    async with listening(gateway, "127.0.0.1", 0, opening.snapshot.server) as port:
        async with serving_client(gateway, port, key) as served:
            yield served
    await gateway.stop()


class _End:
    """When to stop: after the time, and not before our own servers had their share of it."""

    def __init__(self, how: Run, story: Story, replicas: list[Replica]) -> None:
        self._how = how
        self._story = story
        self._replicas = replicas
        self._well_since: float | None = None

    def __call__(self) -> bool:
        now = self._story.now()
        if now >= self._how.most_s:
            return True
        if self._replicas and self._well_since is None:
            if not any(self._story.healthy(each.name, now, now) for each in self._replicas):
                return False
            self._well_since = now
        served = self._well_since is None or now - self._well_since >= WITH_REPLICAS_S
        return now >= self._how.seconds and served


async def _client(
    rng: random.Random,
    number: int,
    keys: list[str],
    ours: bool,
    served: Served,
    story: Story,
    told: list[Told],
    over: _End,
) -> None:
    count = 0
    while not over():
        count += 1
        plan = drawn(rng, number * 1_000_000 + count, keys, ours)
        told.append(await asked(plan, served.port, story))
        if told[-1].until - told[-1].since > SLOW_S:
            story.tell(f"{plan.tag} for {plan.model} took {told[-1].until - told[-1].since:.1f} s")
        await asyncio.sleep(0.5 if told[-1].shed else rng.expovariate(20.0))
