"""Every declared adapter's files, version by version: fetched, checked, mixed, on the shelf.

Whatever takes long goes on in threads, beside serving; what has changed is told when it is known.
"""

import asyncio
import logging
import posixpath
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from gateway.adapters import check, files, manifest, mix, sources
from gateway.adapters.manifest import Entry, directory_name
from gateway.adapters.shelf import Shelf
from gateway.types.backends import Adapter, Backend, Version

log = logging.getLogger("switchboard.adapters")

MIXED = "mixed"
"""The mark under which the shelf remembers what a recipe came to."""

AT_ONCE = 4
"""Versions that are fetched, hashed or mixed at the same time."""


TELL_EVERY_S = 5.0
"""How often the log says how far a fetch has come."""

Key = tuple[str, str]
"""An adapter's target, and a version's name."""

Heard = Callable[[Key, int, int | None], None]
"""Takes whose files are being fetched, how many bytes there are, and of how many if that is known.
It may be called in any thread."""


def log_now_and_then() -> Heard:
    """Tells the log how far each fetch has come."""
    told: dict[Key, float] = {}

    def heard(key: Key, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now >= told.setdefault(key, now) + TELL_EVERY_S:
            told[key] = now
            log.info("%s: %s fetched", name_of(key), _megabytes(done, total))

    return heard


def name_of(key: Key) -> str:
    """The name of a version's target."""
    target, version = key
    return f"{target}@{version}" if version else target


def _megabytes(done: int, total: int | None) -> str:
    of = f" of {total / 1e6:,.0f}" if total else ""
    return f"{done / 1e6:,.0f}{of} MB"


class Unusable(Exception):
    """A version whose files cannot be used; the text says why."""


class Files(msgspec.Struct, frozen=True):
    """One version's files on the shelf. `path` is as replicas see it, `size` in bytes.

    `served` is the name by which replicas serve it: the same name always means the same content.
    """

    served: str
    digest: str
    path: str
    rank: int
    size: int
    warnings: tuple[str, ...] = ()


class Standing(msgspec.Struct, frozen=True):
    """What is known of one version: its files, or why there are none."""

    files: Files | None = None
    problem: str = "its files are being fetched"
    failed: bool = False


UNKNOWN = Standing()


class Registry:
    """The versions of every declared adapter."""

    def __init__(self, changed: Callable[[], None], progress: Heard | None = None) -> None:
        """`changed` is called on the event loop whenever something new is known; `progress` hears
        of fetches, the log if left out."""
        self._changed = changed
        self._progress = progress or log_now_and_then()
        self._fetching: dict[Key, str] = {}
        self._standings: dict[Key, Standing] = {}
        self._made_of: dict[Key, tuple[Backend, Adapter, Version]] = {}
        self._tasks: dict[Key, asyncio.Task[Standing]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    def settle(self, backends: Mapping[str, Backend], adapters: Sequence[Adapter]) -> None:
        """Sees to every version of `adapters`; what is declared as before is not looked at again,
        unless it failed or lies on this machine, where it may have been changed. What is known of a
        version stays known meanwhile, whatever else was changed beside it."""
        # Where replicas are says nothing of files.
        places = {n: msgspec.structs.replace(each, replicas=()) for n, each in backends.items()}
        wanted = {
            (adapter.target, version.name): (places[adapter.backend], adapter, version)
            for adapter in adapters
            for version in adapter.versions
        }
        for key in self._standings.keys() - wanted.keys():
            del self._standings[key]
        # What nothing is known of is seen to first.
        for key, made_of in sorted(wanted.items(), key=lambda each: each[0] in self._standings):
            before = self._made_of.get(key)
            if before is None or before[2] != made_of[2]:
                self._standings.pop(key, None)
            if key in self._tasks and before == made_of:
                continue
            self._start(key, made_of)
        self._made_of = wanted

    def standing(self, target: str, version: str) -> Standing:
        """What is known of a version."""
        key = (target, version)
        found = self._standings.get(key)
        if found is None:
            so_far = self._fetching.get(key)
            found = UNKNOWN if so_far is None else Standing(problem=f"{UNKNOWN.problem}: {so_far}")
        return found

    def standings(self) -> dict[Key, Standing]:
        """What is known of every version."""
        return {key: self.standing(*key) for key in self._made_of}

    async def settled(self, targets: Collection[str] | None = None) -> None:
        """Back when nothing is being fetched, checked or mixed any more; of `targets`, if given."""
        while tasks := [
            task
            for (target, _), task in self._tasks.items()
            if targets is None or target in targets
        ]:
            await asyncio.wait(tasks)

    async def stop(self) -> None:
        """Gives up what is under way; a thread's work ends by itself and is kept."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------ one version

    def _start(self, key: Key, made_of: tuple[Backend, Adapter, Version]) -> None:
        before = self._tasks.pop(key, None)
        if before is not None:
            before.cancel()
        task = self._tasks[key] = asyncio.create_task(self._see_to(*made_of))

        def done(task: asyncio.Task[Standing]) -> None:
            if self._tasks.get(key) is task:
                del self._tasks[key]
                self._fetching.pop(key, None)
                if not task.cancelled():
                    self._standings[key] = task.result()
                    self._changed()

        task.add_done_callback(done)

    async def _see_to(self, backend: Backend, adapter: Adapter, version: Version) -> Standing:
        name = name_of((adapter.target, version.name))
        try:
            if version.mix:
                parts = await self._parts(adapter, version)
                async with self._slots:
                    found = await asyncio.to_thread(_mixed, backend, adapter, version, parts)
            else:
                async with self._slots:
                    found = await asyncio.to_thread(self._fetched, backend, adapter, version)
        except (
            Unusable,
            sources.SourceError,
            manifest.ShelfError,
            files.AdapterError,
            mix.MixError,
            OSError,
        ) as error:
            log.error("%s cannot be used: %s", name, error)
            return Standing(None, str(error), failed=True)
        known = self._standings.get((adapter.target, version.name))
        if known is None or known.files != found:
            for warning in found.warnings:
                log.warning("%s: %s", name, warning)
        return Standing(found, "")

    async def _parts(self, adapter: Adapter, version: Version) -> list[tuple[Files, float]]:
        """The files of a mix's parts, waited for."""
        base = adapter.target.partition("+")[0]
        parts = []
        for part, weight in version.mix.items():
            name, _, number = part.partition("@")
            key = (f"{base}+{name}", number)
            task = self._tasks.get(key)
            standing = await asyncio.shield(task) if task is not None else self._standings.get(key)
            if standing is None or standing.files is None:
                why = standing.problem if standing is not None else "it is not declared"
                raise Unusable(f"its part {part} cannot be used: {why}")
            parts.append((standing.files, weight))
        return parts

    def _fetched(self, backend: Backend, adapter: Adapter, version: Version) -> Files:
        """In a thread: the version's source, on the shelf and checked."""
        assert version.source is not None
        key = (adapter.target, version.name)

        def progress(done: int, total: int | None) -> None:
            self._fetching[key] = _megabytes(done, total)
            self._progress(key, done, total)

        place = Shelf(Path(backend.shelf_here))
        entry = sources.fetch(
            version.source,
            base=Path(backend.adapters_here),
            into=place,
            progress=progress,
            sha256=version.sha256,
            # Without a store declared the configuration may name any directory of this machine.
            outside=backend.shelf_here.startswith(backend.adapters_here + "/.switchboard"),
        )
        return _checked(backend, adapter, version, place, entry)


def _mixed(
    backend: Backend, adapter: Adapter, version: Version, parts: Sequence[tuple[Files, float]]
) -> Files:
    """In a thread: the mix, made once for the same parts, weights and rank."""
    place = Shelf(Path(backend.shelf_here))
    recipe = mix.recipe(
        [(part.digest, weight) for part, weight in parts], version.rank, version.dtype
    )
    digest = place.seen.get(recipe, MIXED)
    try:
        entry = place.touch(digest) if digest is not None else None
    except manifest.ShelfError:
        entry = None  # it was removed; it can be made again
    if entry is None:
        with place.staging() as folder:
            report = mix.mix(
                [mix.Part(place.path(part.digest), weight, part.served) for part, weight in parts],
                folder / "mix",
                rank=version.rank,
                max_rank=backend.max_rank,
                dtype=version.dtype,
                base_matches=adapter.base_matches,
            )
            log.info("%s: %s", adapter.target, report)
            entry = place.put(folder / "mix", move=True)
        place.remember(recipe, MIXED, entry.digest)
    return _checked(backend, adapter, version, place, entry)


def _checked(
    backend: Backend, adapter: Adapter, version: Version, place: Shelf, entry: Entry
) -> Files:
    """Raises Unusable with everything that is wrong, before any replica sees the files."""
    read = files.read(place.path(entry.digest))
    base = files.read_base(Path(adapter.base_config)) if adapter.base_config else None
    findings = check.check(
        read,
        base,
        name=adapter.name,
        base_id=adapter.base_id,
        max_rank=backend.max_rank,
        base_matches=adapter.base_matches,
    )
    if wrong := [str(finding) for finding in findings if finding.severity == "error"]:
        raise Unusable("; ".join(wrong))
    label = f"{version.name}-{entry.digest[:8]}" if version.name else entry.digest[:8]
    return Files(
        served=f"{adapter.name}@{label}",
        digest=entry.digest,
        path=posixpath.join(backend.shelf_on_replicas, directory_name(entry.digest)),
        rank=read.rank,
        size=entry.size,
        warnings=tuple(str(finding) for finding in findings),
    )
