"""What teams do to a running gateway: apply, roll back, reload from files, drain, promote.

Each command's outcome is looked at when it is done: whether what is served now is what was asked
for, and, after what is refused, still what was served before.
"""

import asyncio
import contextlib
import os
import random
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from gateway.errors import ConfigError
from gateway.types.snapshot import Snapshot
from tests.chaos.checks import Wrong
from tests.chaos.servers import WORDS, Backend, Replica
from tests.chaos.story import Drain, Story
from tests.chaos.world import CANDIDATES, ENVIRONMENT, OVERLAY, World
from tests.gateway.files import SWITCHBOARD
from tests.gateway.support import Served

Act = tuple[str, Callable[[], Awaitable[None]]]

PATIENCE_S = 60.0
"""How long a command may take: the machine is busy, and servers may not answer."""

DRAINED_S = (0.3, 1.5, 4.0)
SHARES = (0.0, 0.0, 0.3)

NEEDED = "would leave no candidate"
"""In what is said of a drain that is refused."""

SPOILT = (
    ("gateway.yaml", "backends: [\n"),
    ("gateway.yaml", "default_route: general\nbackends: {p0: {kind: openai}}\n"),
    (OVERLAY, "backends: {p0: {models: {words: {price: much}}}}\n"),
    ("routes/second.yaml", "name: second\nvalue: much\npolicy: hasty\ncandidates: []\n"),
    ("routes/rough.yaml", "name: general\nvalue: 1 usd\npolicy: no-such\ncandidates: []\n"),
)
"""Files as they must not be: no YAML, no configuration, none that fits to the others."""


class Operator:
    """Commands, at random. Those that change what is served come one after the other."""

    def __init__(
        self,
        served: Served,
        story: Story,
        rng: random.Random,
        world: World,
        servers: Sequence[Backend],
    ) -> None:
        self._served = served
        self._story = story
        self._rng = rng
        self._world = world
        self._subjects = [
            *(each.url for each in servers if isinstance(each, Replica)),
            *(each.name for each in servers if not isinstance(each, Replica)),
            *(f"{each.name}/{WORDS}" for each in servers if not isinstance(each, Replica)),
        ]
        self._files = world.texts(0)
        self._disk = dict(self._files)
        self._spoilt: set[str] = set()
        self._number = 0
        self._version = "v1"
        self._draining: dict[str, asyncio.Task[None]] = {}
        first = world.compiled(self._files)
        self.known: dict[str, Snapshot] = {first.hash: first}
        """Each snapshot that was served, by its hash."""
        self.verdicts: Counter[str] = Counter()
        """How guards ended, and how often."""
        self.wrongs: list[Wrong] = []
        """What a command did otherwise than it must."""

    def acts(self) -> list[Act]:
        """What may be done whatever there is."""
        return [
            ("apply", self._apply),
            ("apply", self._apply),
            ("apply under guard", self._apply_guarded),
            ("apply what is wrong", self._apply_wrong),
            ("roll back", self._roll_back),
            ("reload", self._reload),
            ("reload what is wrong", self._reload_wrong),
            ("drain", self._drain),
            ("drain", self._drain),
        ]

    def acts_on_adapters(self) -> list[Act]:
        """What may be done while one of our own servers is well."""
        return [("promote", self._promote)] * 3

    async def end(self) -> None:
        """Back when all that was drained is enabled again."""
        await asyncio.gather(*self._draining.values())

    # ---------------------------------------------------------------- revisions

    async def _apply(self) -> None:
        """Other texts by the admin API; one in four times some that were there before."""
        number = self._next() if self._rng.random() < 0.75 else self._rng.randint(0, self._number)
        environment = None if self._rng.random() < 0.25 else ENVIRONMENT
        texts = self._world.texts(number)
        want = await self._known(texts, environment)
        since = self._told(f"apply {number}" + ("" if environment else " without the overlay"))
        answer = await self._post(
            "revisions", files=texts, note=f"number {number}", environment=environment
        )
        if answer.status_code != 200 or answer.json()["hash"] != want:
            self._wrong(since, f"apply {number}: {_said(answer)}")
        self._serves(since, f"applied {number}", want)

    async def _apply_guarded(self) -> None:
        """What is under guard is kept, or gone back from: what the guard says is what is served."""
        number = self._next()
        before, texts = self._hash, self._world.texts(number)
        want = await self._known(texts)
        since = self._told(f"apply {number} under guard")
        window = self._rng.choice((0.5, 2.0))
        answer = await self._post(
            "revisions", files=texts, environment=ENVIRONMENT, guard={"window": window, "errors": 0}
        )
        if answer.status_code != 200 or answer.json()["hash"] != want:
            self._wrong(since, f"apply {number} under guard: {_said(answer)}")
            return
        book, seq, verdict = self._served.gateway.running.book, answer.json()["seq"], ""
        async with asyncio.timeout(PATIENCE_S):
            while not verdict:
                await asyncio.sleep(0.1)
                found = await asyncio.to_thread(book.find, seq)
                verdict = "lost" if found is None else found.verdict
        self.verdicts[verdict.partition(":")[0]] += 1
        kept = verdict.startswith("kept")
        if not kept and not verdict.startswith("rolled back"):
            self._wrong(since, f"the guard of {number} says: {verdict}")
        self._serves(since, f"the guard: {verdict}", want if kept else before)

    async def _apply_wrong(self) -> None:
        path, text = self._rng.choice(SPOILT)
        before = self._hash
        since = self._told(f"apply a wrong {path}")
        answer = await self._post(
            "revisions", files={**self._files_now(), path: text}, environment=ENVIRONMENT
        )
        if answer.status_code != 422 or not answer.json().get("problems"):
            self._wrong(since, f"apply a wrong {path}: {_said(answer)}")
        self._serves(since, "refused it", before)

    async def _roll_back(self) -> None:
        """What ran before is served again; there may have been nothing before."""
        before = self._hash
        since = self._told("roll back")
        answer = await self._post("rollback")
        want = answer.json().get("hash", before)
        refused = answer.status_code == 404
        if not (refused or answer.status_code == 200) or (want == before) != refused:
            self._wrong(since, f"roll back: {_said(answer)}")
        if want not in self.known:
            self._wrong(since, f"roll back to {want[:12]}, which was never served")
        self._serves(since, "had nothing before" if refused else "rolled back", want)

    # ---------------------------------------------------------------- files

    async def _reload(self) -> None:
        """Changed files, one after the other; what was wrong is mended first.

        The prices are new each time: what was rolled back would not be served from the files.
        """
        number = self._next()
        since = self._told(f"reload {number}")
        new = self._world.texts(number)
        route = f"routes/{self._rng.choice(list(CANDIDATES))}.yaml"
        steps = [(path, self._files[path]) for path in self._spoilt]
        changed = (route, OVERLAY, "gateway.yaml")
        self._files |= {path: new[path] for path in changed}
        steps += [(path, new[path]) for path in changed]
        for path, text in steps:
            self._disk[path] = text
            with contextlib.suppress(ConfigError):  # as long as another one is wrong
                want = await self._known(self._disk)
            self._world.write({path: text})
        self._spoilt.clear()
        await self._until(since, f"reload {number}", lambda: self._hash == want)
        self._serves(since, f"reloaded {number}", want)

    async def _reload_wrong(self) -> None:
        """A file that is wrong, until the next reload; nothing that is served changes."""
        path, text = self._rng.choice(SPOILT)
        before, errors = self._hash, self._served.gateway.running.errors
        since = self._told(f"reload a wrong {path}")
        self._disk[path] = text
        self._spoilt.add(path)
        self._world.write({path: text})
        running = self._served.gateway.running
        await self._until(since, f"see a wrong {path}", lambda: running.errors > errors)
        if path == OVERLAY and "gateway.yaml" in self._spoilt:
            path = "gateway.yaml"  # nothing can be laid over what is no YAML
        if running.problem is None or path not in running.problem:
            self._wrong(since, f"a wrong {path} is told as {running.problem}")
        self._serves(since, "the old serves on", before)

    # ---------------------------------------------------------------- traffic, adapters

    async def _drain(self) -> None:
        """No requests, or few, for a target, a backend or a replica; after a while all again."""
        subject = self._rng.choice(self._subjects)
        share, seconds = self._rng.choice(SHARES), self._rng.choice(DRAINED_S)
        if subject not in self._draining or self._draining[subject].done():
            work = self._held_back(subject, share, seconds)
            self._draining[subject] = asyncio.create_task(work)

    async def _held_back(self, subject: str, share: float, seconds: float) -> None:
        drain = self._story.drain(subject) if share == 0.0 else Drain(subject, 0.0)
        since = self._told(f"give {subject} {share:.0%}")
        give = self._by_command if self._rng.random() < 0.25 else self._by_api
        said = await give(subject, share)
        drain.kept_since = self._story.now()
        if NEEDED in said:
            drain.kept_since, drain.until = None, self._story.now()
            self._told(f"{subject} is needed")
            return
        if said:
            self._wrong(since, f"give {subject} {share:.0%}: {said}")
        await asyncio.sleep(seconds)
        drain.kept_until = self._told(f"enable {subject}")
        said = await give(subject, 1.0)
        if said:
            self._wrong(since, f"enable {subject}: {said}")
        drain.until = self._told(f"enabled {subject}")

    async def _by_api(self, subject: str, share: float) -> str:
        """What is wrong with it, if anything."""
        answer = await self._post("weights", subject=subject, share=share, why="chaos")
        return "" if answer.status_code == 200 else _said(answer)

    async def _by_command(self, subject: str, share: float) -> str:
        """The same by `switchboard drain`, `enable` or `weight`."""
        words = {0.0: ("drain", subject), 1.0: ("enable", subject)}
        gateway = f"http://127.0.0.1:{self._served.port}"
        process = await asyncio.create_subprocess_exec(
            SWITCHBOARD,
            *words.get(share, ("weight", subject, f"{share:.0%}")),
            *("--gateway", gateway),
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, "SWITCHBOARD_ADMIN_KEY": self._served.key or ""},
        )
        out, err = await process.communicate()
        return "" if process.returncode == 0 else f"{process.returncode} {err or out!r}"

    async def _promote(self) -> None:
        """The version that is not live, by a promotion or a rollback of the one that is."""
        back = self._version == "v2" and self._rng.random() < 0.5
        self._version = "v2" if self._version == "v1" else "v1"
        what, more = ("rollback", {}) if back else ("promote", {"version": self._version})
        since = self._told(f"{what} desk to {self._version}")
        answer = await self._post(f"adapters/{what}/desk", **more)
        while answer.status_code == 409 and self._story.now() - since < PATIENCE_S:
            # While no replica can be asked nothing changes; whoever commands tries again.
            await asyncio.sleep(1.0)
            answer = await self._post(f"adapters/{what}/desk", **more)
        if answer.status_code != 200:
            self._wrong(since, f"{what} desk to {self._version}: {_said(answer)}")
            return
        state = answer.json()
        since = self._told(f"desk is {self._version}")
        if state["live"] != self._version:
            self._wrong(since, f"desk is {state}, not {self._version}")

    # ---------------------------------------------------------------- what is seen of it

    @property
    def _hash(self) -> str:
        return self._served.gateway.pipeline.plane.snapshot.hash

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _files_now(self) -> dict[str, str]:
        return self._world.texts(self._number)

    async def _known(self, texts: dict[str, str], environment: str | None = ENVIRONMENT) -> str:
        """The hash of what these texts will be."""
        snapshot = await asyncio.to_thread(self._world.compiled, texts, environment)
        self.known[snapshot.hash] = snapshot
        return snapshot.hash

    async def _post(self, path: str, **body: Any) -> httpx.Response:
        client = self._served.client
        return await client.post(f"/admin/{path}", json=body, timeout=PATIENCE_S)

    def _told(self, what: str) -> float:
        self._story.tell(what)
        return self._story.now()

    def _serves(self, since: float, done: str, want: str) -> None:
        self._told(f"{done}: {self._hash[:12]}")
        if self._hash != want:
            self._wrong(since, f"{done}, and {self._hash[:12]} is served instead of {want[:12]}")

    async def _until(self, since: float, what: str, holds: Callable[[], bool]) -> None:
        """Files are looked at every while."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not holds():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except TimeoutError:
            self._wrong(since, f"{what}: it did not come in {PATIENCE_S:g} s")

    def _wrong(self, since: float, what: str) -> None:
        self.wrongs.append(Wrong(what, since, self._story.now()))


def _said(answer: httpx.Response) -> str:
    return f"{answer.status_code} {answer.text[:300]}"
