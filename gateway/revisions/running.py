"""The revision that this process serves, and how it comes to another one.

Whoever sets a revision to run writes it into the store; every process that shares the store looks
whether its last one is still the one that it serves. A new one is compiled beside the one that
runs, and what is wrong with it never replaces what is right.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from gateway.complaints import Complaint
from gateway.config.load import Loaded, load, load_texts
from gateway.errors import ConfigError, SwitchboardError
from gateway.revisions.files import stamps
from gateway.revisions.opening import Home, Opening
from gateway.store.revisions import Guard, Kind, Moved, Revision, Revisions, before
from gateway.types.snapshot import Snapshot

log = logging.getLogger("switchboard")

NOTICE_EVERY_S = 0.5
"""How often the store is asked for a new revision."""

FILES_EVERY_S = 0.5
"""How often watched files are looked at."""

DRIFT_EVERY_S = 5.0
"""How often files that are not watched are looked at, to tell that they drift."""

PATIENCE_S = 5.0
"""How long a new revision waits for the adapters that it brings: they are no condition, but a
request had better find them loaded."""

AT_ONCE_S = 0.3
"""… and one that is gone back to: whoever goes back is in a hurry."""

Swap = Callable[[Snapshot, float], Awaitable[list[str]]]
"""Builds what a snapshot needs beside the running one, waits so many seconds at most for what it
brings to be loaded, and serves it from now on; answers warnings, such as of a target that takes no
connection."""


class Served(msgspec.Struct, frozen=True):
    """A revision that is served now, and what there is to know about it. `unchanged`: it ran
    already, with this content."""

    revision: Revision
    warnings: tuple[str, ...] = ()
    unchanged: bool = False


class NothingBefore(SwitchboardError):
    """There is no revision to go back to."""


class Running:
    """The revision that this process serves. All changes go one after the other."""

    def __init__(
        self,
        book: Revisions,
        home: Home,
        swap: Swap,
        opening: Opening | None = None,
        *,
        now: Callable[[], float],
    ) -> None:
        self.book = book
        self.revision = opening.revision if opening is not None else None
        self.problem: str | None = None
        self.errors = 0
        self.drift: str | None = None
        self.look_every_s = NOTICE_EVERY_S
        self._home = home
        self._swap = swap
        self._now = now
        self._compiled = opening.compiled if opening is not None else ""
        self._seen = self.seq
        self._snapshot = opening.snapshot if opening is not None else None
        self._changing = asyncio.Lock()
        if opening is not None and opening.problem is not None:
            self._seen = opening.last
            self.wrong(opening.problem)

    @property
    def env(self) -> Mapping[str, str]:
        """What variables stand for."""
        return self._home.env

    @property
    def seq(self) -> int:
        """The number of the revision that is served; 0 before the first."""
        return self.revision.seq if self.revision is not None else 0

    @property
    def is_last(self) -> bool:
        """Whether it is the store's last as far as is known: not where that cannot be served."""
        return self._seen == self.seq

    def told(self) -> dict[str, object]:
        """What `/ready` says of it."""
        revision = self.revision
        return {
            "revision": None if revision is None else brief(revision),
            "configuration_error": self.problem,
            "drift": self.drift,
        }

    # ------------------------------------------------------------ what comes from the store

    async def follow_store(self) -> None:
        """Serves each new revision of the store, whoever set it to run."""
        away = Complaint(log, "the store's revisions could not be read")
        while True:
            await asyncio.sleep(self.look_every_s)
            try:
                await self.notice()
                away.over()
            except SwitchboardError as error:
                away.about(error)
            except Exception:
                log.exception("the store's revisions could not be read")

    async def notice(self) -> None:
        """Serves the store's last revision if it is another than the one that is served.

        One that cannot be served here is not tried again until there is another.
        """
        if await asyncio.to_thread(self.book.last_seq) == self._seen:
            return
        async with self._changing:
            latest = await asyncio.to_thread(self.book.latest)
            if latest is None or latest.seq == self._seen:
                return
            self._seen = latest.seq
            try:
                await self._serve(latest, await self._compile(latest.files, latest.environment))
            except ConfigError as error:
                self.wrong(f"revision {latest.seq} by {latest.author} cannot be served:\n{error}")
            except Exception as error:
                log.exception("revision %d cannot be served", latest.seq)
                self.wrong(f"revision {latest.seq} cannot be served: {error}")

    async def serve_revision(self, revision: Revision) -> None:
        """Brings this process to a revision of the store. Raises ConfigError."""
        async with self._changing:
            await self._serve(revision, await self._compile(revision.files, revision.environment))

    # ------------------------------------------------------------ what is set to run here

    async def check(self, files: Mapping[str, str], environment: str | None = None) -> Loaded:
        """What files would be, compiled as they would be served here. Raises ConfigError."""
        return await self._compile(files, environment)

    async def apply(
        self,
        files: Mapping[str, str],
        author: str,
        *,
        kind: Kind = "apply",
        note: str = "",
        environment: str | None = None,
        guard: Guard | None = None,
        after: int | None = None,
    ) -> Served:
        """Serves these files from now on, as a revision; the one that runs if it has them already.

        Raises ConfigError, and Moved when `after` is not the one that runs, nor the last that is
        known here. Either way what ran before serves on.
        """
        async with self._changing:
            if after is not None and after not in (self.seq, self._seen):
                raise Moved(f"revision {self.seq} has come since revision {after}")
            try:
                loaded = await self._compile(files, environment)
            except ConfigError as error:
                self.wrong(f"what {author} applied is wrong, the old serves on:\n{error}")
                raise
            hash, texts = loaded.snapshot.hash, dict(loaded.texts)
            running = self.revision
            if running is not None and self.is_last and running.same_as(hash, texts):
                self.problem = None
                return Served(running, unchanged=True)

            def save() -> Revision | None:
                return self.book.save(
                    hash,
                    texts,
                    author,
                    self._now(),
                    kind=kind,
                    note=note,
                    environment=environment,
                    guard=guard,
                    after=self._seen if running is not None else None,
                )

            return await self._take(loaded, hash, save, PATIENCE_S)

    async def roll_back(
        self,
        to: str | int | None,
        author: str,
        *,
        steps: int = 1,
        kind: Kind = "rollback",
        note: str = "",
        of: int | None = None,
    ) -> Served:
        """Serves what ran before: `steps` contents ago, or the revision of that number or hash.

        With `of` only while the revision of that number runs. Raises NothingBefore, ConfigError and
        Moved; what ran serves on then.
        """
        async with self._changing:
            if of is not None and not of == self.seq == self._seen:
                raise Moved(f"revision {self._seen} has come since revision {of}")
            target = await asyncio.to_thread(gone_back_to, self.book, to, steps)
            loaded = await self._compile(target.files, target.environment)
            after = self._seen

            def save() -> Revision:
                return self.book.go_back(
                    target, author, self._now(), kind=kind, note=note, after=after or None
                )

            return await self._take(loaded, target.hash, save, AT_ONCE_S)

    async def _take(
        self,
        loaded: Loaded,
        hash: str,
        save: Callable[[], Revision | None],
        patience_s: float,
    ) -> Served:
        """Serves a snapshot and writes it down; where it cannot be written the old one is back."""
        old = self._snapshot
        try:
            warnings = await self._swapped(loaded, hash, patience_s)
        except SwitchboardError as error:
            self.wrong(f"snapshot {hash[:12]} cannot be served, the old serves on: {error}")
            raise
        try:
            saved = await asyncio.to_thread(save)
            revision = saved or await asyncio.to_thread(self.book.latest)
            assert revision is not None
        except BaseException:
            if old is not None:
                await self._swap(old, 0.0)
            raise
        self._took(revision, loaded)
        return Served(revision, (*map(str, loaded.warnings), *warnings))

    async def _serve(self, revision: Revision, loaded: Loaded) -> None:
        back = revision.kind in ("rollback", "guard")
        await self._swapped(loaded, revision.hash, AT_ONCE_S if back else PATIENCE_S)
        self._took(revision, loaded)

    async def _swapped(self, loaded: Loaded, hash: str, patience_s: float) -> list[str]:
        """Serves it under that hash; the warnings, which are in the log as well."""
        snapshot = msgspec.structs.replace(loaded.snapshot, hash=hash)
        warnings = await self._swap(snapshot, patience_s)
        for warning in warnings:
            log.warning("%s", warning)
        return warnings

    def _took(self, revision: Revision, loaded: Loaded) -> None:
        self._snapshot = msgspec.structs.replace(loaded.snapshot, hash=revision.hash)
        self._compiled = loaded.snapshot.hash
        self._seen = revision.seq
        self.revision = revision
        self.problem = None
        self.drift = None
        log.info(
            "serving snapshot %s: revision %d, %s by %s",
            revision.hash[:12],
            revision.seq,
            revision.kind,
            revision.author,
        )

    async def _compile(self, files: Mapping[str, str], environment: str | None) -> Loaded:
        home = self._home
        return await asyncio.to_thread(load_texts, files, home.directory, home.env, environment)

    def wrong(self, said: str) -> None:
        """Something was to be served that cannot be."""
        self.problem = said
        self.errors += 1
        log.error("%s", said)

    def guard_ended(self, seq: int, verdict: str) -> None:
        """The guard of that revision is over."""
        if self.revision is not None and self.revision.seq == seq:
            self.revision = msgspec.structs.replace(self.revision, verdict=verdict)

    # ------------------------------------------------------------ files

    async def follow_files(self) -> None:
        """Looks at the files whenever one of them changes, or what is served; see
        `look_at_files`."""
        home = self._home
        seen, served = None, self.seq
        away = Complaint(log, "the changed files could not be served")
        while True:
            found = await asyncio.to_thread(stamps, home.directory)
            if found != seen or served != self.seq:
                changed, seen, served = found != seen, found, self.seq
                try:
                    await self.look_at_files(changed=changed)
                    away.over()
                except Moved:  # another process was first: it is noticed, and looked at again
                    seen = None
                except SwitchboardError as error:
                    away.about(error)
                    seen = None
                except Exception:
                    log.exception("the changed files could not be served")
            await asyncio.sleep(FILES_EVERY_S if home.watch else DRIFT_EVERY_S)

    async def look_at_files(self, *, changed: bool = True) -> None:
        """Serves changed files if they are watched and right, and tells how they drift if not.

        Files that have not changed are served by nobody: what was set to run since is newer.
        """
        home = self._home
        try:
            loaded = await asyncio.to_thread(load, home.directory, home.env, home.environment)
        except ConfigError as error:
            if home.watch and changed:
                self.wrong(f"the changed files are wrong, the old ones serve on:\n{error}")
            self.drift = f"the files are wrong:\n{error}"
            return
        hash, texts = loaded.snapshot.hash, dict(loaded.texts)
        if self.revision is not None and (
            hash == self._compiled or self.revision.same_as(hash, texts)
        ):
            self.drift = None
            if home.watch and changed:
                self.problem = None
            return
        self.drift = f"the files differ from revision {self.seq}: {_changed(self, texts)}"
        if not home.watch or not changed:
            return
        if await asyncio.to_thread(self.book.was_left, hash, texts):
            self.drift = (
                f"the files hold what was rolled back: revision {self.seq} is served until they "
                "change"
            )
            log.warning("%s; `switchboard apply` would serve them all the same", self.drift)
            return
        await self.apply(texts, "serve --watch", kind="watch", environment=home.environment)


def gone_back_to(book: Revisions, to: str | int | None, steps: int) -> Revision:
    """The revision that is meant. Raises NothingBefore."""
    if to is None:
        found = before(book.list(1000), steps)
        if found is None:
            raise NothingBefore(
                "there is no revision before the first"
                if steps == 1
                else f"there are no {steps} revisions to go back"
            )
        return found
    found = book.find(to)
    if found is None:
        raise NothingBefore(f"there is no revision {to}; `switchboard history` lists them")
    return found


def brief(revision: Revision) -> dict[str, object]:
    """A revision without its files, ready for JSON."""
    told = msgspec.structs.asdict(revision)
    told["files"] = sorted(revision.files)
    told["guard"] = None if revision.guard is None else msgspec.structs.asdict(revision.guard)
    return told


def _changed(running: Running, texts: Mapping[str, str]) -> str:
    there = running.revision.files if running.revision is not None else {}
    names = sorted(n for n in {*there, *texts} if there.get(n) != texts.get(n))
    return ", ".join(names)
