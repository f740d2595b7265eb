"""The adapters of every vLLM backend as one: what is served under which name, and its changes.

A version's name at the replicas means one content for ever, so two versions live side by side, and
a change of what is live is a change of a name in the snapshot: requests under way finish on the
version that they began with.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
import msgspec

from gateway.adapters.agent import AgentClient, AgentError
from gateway.adapters.canary import Seen, judged
from gateway.adapters.coming import coming
from gateway.adapters.engine import Engine
from gateway.adapters.keeper import (
    AdapterKeeper,
    Door,
    Loadable,
    LoadFailed,
    News,
    Place,
    Pull,
    ReplicaAway,
)
from gateway.adapters.manifest import ShelfError
from gateway.adapters.registry import Files, Registry, Standing
from gateway.adapters.shelf import Shelf
from gateway.adapters.state import (
    NEW,
    AdapterState,
    StateError,
    canary_version,
    given_up,
    live_version,
    pinned,
    previous_version,
    promoted,
    rolled_back,
    stepped,
    tried,
)
from gateway.complaints import Complaint
from gateway.errors import SwitchboardError, said
from gateway.policy.live import Live
from gateway.types.backends import Adapter, Canary, Target
from gateway.types.snapshot import Snapshot

log = logging.getLogger("switchboard.adapters")

Noted = Callable[..., Awaitable[None]]
"""Writes into the audit log what a canary did by itself: the action, its subject, details."""

FOLLOW_EVERY_S = 0.5
"""How often changes by other gateways are looked for."""

ROUND_S = 2.0
"""How often canaries are judged."""


TOLD = 3
"""So many adapters are named where several have one thing in common."""

CLEAN_EVERY_S = 3600.0
GRACE_S = 7 * 86_400.0
"""How long what nobody declares any more stays on the shelf at least."""


class StateBook(Protocol):
    """Where states are kept. Its calls may take long: they are made in threads."""

    def version(self) -> int:
        """Grows with every change, by whomever."""

    def states(self) -> dict[str, AdapterState]: ...

    def save(self, target: str, state: AdapterState, change: str, author: str) -> None: ...

    def seen(self, target: str, since: float) -> Seen:
        """What a target's attempts did since an instant."""


class UnknownAdapter(Exception):
    """There is no such adapter."""


class Fleet:
    """The adapters of one gateway."""

    def __init__(
        self,
        live: Live,
        client: httpx.AsyncClient,
        book: StateBook,
        *,
        changed: Callable[[], None],
        clock: Callable[[], float],
        now: Callable[[], float],
        agent_key: str | None = None,
        told: Callable[[str, str, Engine], None] | None = None,
        door: Door | None = None,
        news: News | None = None,
        leads: Callable[[], bool] = lambda: True,
        noted: Noted | None = None,
    ) -> None:
        """`changed` is called when what `dress` makes may have changed; `now` is in Unix time. Of
        several workers only the one that `leads` fills replicas by itself, tidies them and judges
        canaries; `news` tells the others what was learned."""
        self._agent_key = agent_key
        self._told = told
        self._door = door
        self._news = news
        self._leads = leads
        self._noted = noted
        self._clean_at = now() + CLEAN_EVERY_S
        self.keepers: dict[str, AdapterKeeper] = {}
        self.registry = Registry(self._learnt)
        self._live = live
        self._client = client
        self._book = book
        self._changed = changed
        self._clock = clock
        self._now = now
        self._snapshot: Snapshot | None = None
        self._adapters: dict[str, Adapter] = {}
        self._states: dict[str, AdapterState] = {}
        self._version = -1
        self._serving: dict[str, Files] = {}
        self._before: dict[str, Files] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._changes: dict[str, asyncio.Lock] = {}
        self._writing = asyncio.Lock()
        self._switching: dict[str, asyncio.Task[None]] = {}

    # ------------------------------------------------------------ a snapshot

    def serve(self, snapshot: Snapshot) -> None:
        """Looks after the adapters of `snapshot` from now on."""
        self._snapshot = snapshot
        self._adapters = {adapter.target: adapter for adapter in snapshot.adapters}
        self._serving = {t: f for t, f in self._serving.items() if t in self._adapters}
        for name in self.keepers.keys() - snapshot.backends.keys():
            del self.keepers[name]
            self._running.pop(name).cancel()
        for name, backend in snapshot.backends.items():
            if backend.kind == "vllm" and name not in self.keepers:
                keeper = AdapterKeeper(
                    backend,
                    self._live,
                    self._client,
                    clock=self._clock,
                    pull=self._puller(name),
                    told=self._told,
                    door=self._door,
                    news=self._news,
                    leads=self._leads,
                )
                self.keepers[name] = keeper
                self._running[name] = asyncio.create_task(keeper.run())
        self.registry.settle(snapshot.backends, snapshot.adapters)
        self._learnt()

    async def warm(self, snapshot: Snapshot, patience_s: float) -> list[str]:
        """Loads what `snapshot` brings at the replicas that it leaves, while the one before serves.

        Waits `patience_s` at most: what is late goes on beside, and is answered as warnings.
        `serve` has to follow, with the one snapshot or the other.
        """
        comes = coming(self._snapshot, snapshot) if self._snapshot is not None else None
        if comes is None:
            return []
        self.serve(comes.snapshot)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                known = self._named(comes.adapters)  # they wait for nobody else's files
                await self._bring(known, snapshot)
                await self.registry.settled({adapter.target for adapter in comes.adapters})
                if (named := self._named(comes.adapters)) != known:
                    await self._bring(named, snapshot)
        return self._late(comes.adapters, snapshot)

    async def _bring(self, named: Mapping[str, Collection[str]], snapshot: Snapshot) -> None:
        """Loads what is named, by backend, at the replicas that `snapshot` leaves."""
        await asyncio.gather(
            *(
                self.keepers[name].bring(snapshot.backends[name].replicas, served)
                for name, served in named.items()
            )
        )

    def _named(self, adapters: Iterable[Adapter]) -> dict[str, list[str]]:
        """By backend, the names that replicas serve these by, as far as their files are known."""
        found: dict[str, list[str]] = {}
        for adapter in adapters:
            if adapter.target in self._serving:
                found.setdefault(adapter.backend, []).append(self._serving[adapter.target].served)
        return found

    def _late(self, adapters: Collection[Adapter], snapshot: Snapshot) -> list[str]:
        """What there is to say of those that should be loaded by now and are nowhere."""
        late = {
            (name, served): why
            for name, names in self._named(adapters).items()
            for served, why in self.keepers[name]
            .late(snapshot.backends[name].replicas, names)
            .items()
        }
        reasons: dict[str, list[str]] = {}
        for adapter in adapters:
            files = self._serving.get(adapter.target)
            if files is None:
                live = live_version(adapter, self._state(adapter.target))
                why = self.registry.standing(adapter.target, live).problem
            elif (why := late.get((adapter.backend, files.served), "")) == "":
                continue
            reasons.setdefault(why, []).append(adapter.target)
        return sorted(_late(targets, why) for why, targets in reasons.items())

    async def run(self) -> None:
        """Judges canaries and follows what other gateways change, for ever."""
        judge_at = self._clock() + ROUND_S
        away = Complaint(log, "adapters' states stay as they are")
        while True:
            await asyncio.sleep(FOLLOW_EVERY_S)
            try:
                await self.look()
                if self._clock() >= judge_at:
                    judge_at = self._clock() + ROUND_S
                    await self._round()
                away.over()
            except SwitchboardError as error:
                away.about(error)
            except Exception:  # a store that is away for a while must not end it for good
                log.exception("canaries could not be judged; tried again in %g s", ROUND_S)

    async def look(self) -> None:
        """Takes in what other workers have changed, now."""
        if await self.follow():
            self._learnt()

    async def _round(self) -> None:
        if not self._leads():
            return
        for target in list(self._adapters):
            await self._judge(target)
        if self._now() >= self._clean_at:
            self._clean_at = self._now() + CLEAN_EVERY_S
            await self.clean()

    async def stop(self) -> None:
        """Ends everything that goes on beside serving."""
        tasks = [*self._running.values(), *self._switching.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.registry.stop()

    async def present(self) -> None:
        """Everything known and, where it is to be, loaded: looks at every replica once, now."""
        await self.registry.settled()
        while self._switching:
            await asyncio.gather(*self._switching.values())
        await asyncio.gather(*(keeper.look() for keeper in self.keepers.values()))

    def dress(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with each adapter's target as it is now: its name at the replicas, its
        canary, or why it cannot be used."""
        ours = {adapter.target for adapter in snapshot.adapters}
        targets = {
            name: self._dressed(target) if name.partition("@")[0] in ours else target
            for name, target in snapshot.targets.items()
        }
        return msgspec.structs.replace(snapshot, targets=targets)

    def _dressed(self, target: Target) -> Target:
        name = target.name.partition("@")[0]
        adapter = self._adapters.get(name)
        if adapter is None:
            return _served(target, None, "it is not declared any more")
        if target.version is not None:
            standing = self.registry.standing(name, target.version)
            return _served(target, standing.files, standing.problem)
        state = self._state(name)
        files = self._serving.get(name)
        standing = self.registry.standing(name, live_version(adapter, state))
        dressed = _served(target, files, standing.problem)
        trial = canary_version(adapter, state)
        if trial is None or self.registry.standing(name, trial.version).files is None:
            return dressed
        canary = Canary(f"{name}@{trial.version}", trial.share)
        return msgspec.structs.replace(dressed, canary=canary)

    def shelves(self) -> list[Shelf]:
        """Where adapters' files lie on this machine."""
        if self._snapshot is None:
            return []
        places = {each.shelf_here for each in self._snapshot.backends.values() if each.shelf_here}
        return [Shelf(Path(place)) for place in sorted(places)]

    def _puller(self, backend: str) -> Pull:
        async def pull(replica: str, digest: str) -> str:
            assert self._snapshot is not None
            agent = self._snapshot.backends[backend].agent
            if agent is None or self._agent_key is None:
                raise AgentError("SWITCHBOARD_AGENT_KEY is not set, here where the gateway runs")
            url = agent.format(host=urlsplit(replica).netloc.rpartition(":")[0])
            return await AgentClient(url, self._agent_key, self._client).ensure(digest)

        return pull

    # ------------------------------------------------------------ cleaning

    async def clean(self) -> None:
        """Takes off the shelves what no replica can still need.

        What is declared is touched, so that no other gateway on the same shelf takes it off. Where
        a replica cannot be reached nothing is: nobody knows what it holds.
        """
        for keeper in self.keepers.values():
            if not all(state.reachable for state in keeper.states.values()):
                return
        held = {
            served.rpartition("@")[2].rpartition("-")[2]
            for keeper in self.keepers.values()
            for state in keeper.states.values()
            for served in state.listed
        }
        known = {files.digest for target in self._adapters for files in self._files_of(target)}
        await asyncio.to_thread(_clean, self.shelves(), known, held, self._now())

    def _files_of(self, target: str) -> list[Files]:
        return [files for files, _ in self._all_files(target, self._adapters[target])]

    # ------------------------------------------------------------ commands

    async def promote(self, target: str, version: str, author: str) -> AdapterState:
        """`version` is live once it is loaded and has answered at every replica that needs it.

        Raises UnknownAdapter, StateError, LoadFailed; then nothing has changed.
        """
        adapter = self._adapter(target)
        async with self._turn(target):
            await self.look()
            state = promoted(adapter, self._state(target), version)
            await self._prepared(adapter, self._files(target, version))
            await self._set(target, state, f"promote {version}", author)
        return state

    async def roll_back(self, target: str, author: str) -> AdapterState:
        """The version before is live again, or the canary ends. Raises as `promote` does."""
        adapter = self._adapter(target)
        async with self._turn(target):
            await self.look()
            state = rolled_back(adapter, self._state(target))
            await self._set(target, state, "rollback", author)
        return state

    async def try_out(self, target: str, version: str, share: float, author: str) -> AdapterState:
        """`version` gets a share of the requests once it is ready, as for `promote`."""
        adapter = self._adapter(target)
        async with self._turn(target):
            await self.look()
            state = tried(adapter, self._state(target), version, share, self._now())
            await self._prepared(adapter, self._files(target, version))
            await self._set(target, state, f"canary {version} at {100 * share:.4g} %", author)
        return state

    async def pin(self, target: str, pin: bool, author: str) -> AdapterState:
        """Placement keeps it in use, or no longer."""
        self._adapter(target)
        async with self._turn(target):
            await self.look()
            state = pinned(self._state(target), pin)
            await self._set(target, state, "pin" if pin else "unpin", author)
        return state

    async def load(self, target: str, replica: str | None = None) -> dict[str, float]:
        """Loads what the target means at a replica, or at all; seconds by replica.

        Raises UnknownAdapter, StateError, LoadFailed.
        """
        files, keeper = self._meant(target), self._keeper(target)
        took = {}
        for url in self._chosen(keeper, replica):
            async with keeper.awake(url):
                began = self._clock()
                await keeper.ensure(url, files.served)
                took[url] = self._clock() - began
        return took

    async def unload(self, target: str, replica: str | None = None) -> list[str]:
        """Takes it from a replica, or from all, until it is asked for again; where it was."""
        files, keeper = self._meant(target), self._keeper(target)
        urls = [url for url in self._chosen(keeper, replica) if (url, files.served) in keeper.ready]
        for url in urls:
            async with keeper.awake(url):
                await keeper.unload(url, files.served)
        return urls

    def known(self) -> Iterator[dict[str, Any]]:
        """Every adapter as `adapters list` shows it, apart from its use."""
        for target, adapter in self._adapters.items():
            yield self._shown(target, adapter)

    def unusable(self) -> dict[str, str]:
        """What is wrong with versions' files, by the name of the version's target."""
        return {
            f"{target}@{version.name}" if version.name else target: standing.problem
            for target, adapter in self._adapters.items()
            for version in adapter.versions
            if (standing := self.registry.standing(target, version.name)).failed
        }

    def shown(self, target: str) -> dict[str, Any]:
        """One adapter. Raises UnknownAdapter."""
        return self._shown(target.partition("@")[0], self._adapter(target))

    def find(self, name: str) -> str:
        """The target of an adapter that is named in full, or alone where that is enough.

        Raises UnknownAdapter.
        """
        plain, at, version = name.partition("@")
        found = [t for t, a in self._adapters.items() if plain in (t, a.name)]
        if len(found) == 1:
            return found[0] + at + version
        if found:
            raise UnknownAdapter(f"'{plain}' is several: {', '.join(sorted(found))}")
        known = ", ".join(sorted(self._adapters)) or "none"
        raise UnknownAdapter(f"there is no adapter '{plain}'; declared: {known}")

    # ------------------------------------------------------------ what is served

    def _learnt(self) -> None:
        """Takes in what the registry and the states say; then tells keepers, and whoever asked."""
        for target, adapter in self._adapters.items():
            wanted = self.registry.standing(target, live_version(adapter, self._state(target)))
            serving = self._serving.get(target)
            if wanted.files is None or wanted.files == serving:
                continue
            if serving is None:
                self._serving[target] = wanted.files
            elif target not in self._switching:
                self._switch_later(adapter, wanted.files)
        self._tell_keepers()
        self._changed()

    def _switch_later(self, adapter: Adapter, files: Files) -> None:
        """Content that changed under the same name is prepared as a promoted version is."""
        task = asyncio.create_task(self._switch(adapter, files))
        self._switching[adapter.target] = task
        task.add_done_callback(lambda _: self._switching.pop(adapter.target, None))

    async def _switch(self, adapter: Adapter, files: Files) -> None:
        self._tell_keepers()
        try:
            await self._prepared(adapter, files)
        except LoadFailed as error:
            log.error("%s stays as it was: %s", adapter.target, error)
            return
        self._serve(adapter.target, files)
        self._tell_keepers()
        self._changed()

    def _serve(self, target: str, files: Files) -> None:
        before = self._serving.get(target)
        if before is not None and before != files:
            self._before[target] = before
        self._serving[target] = files

    def _tell_keepers(self) -> None:
        assert self._snapshot is not None
        for name, keeper in self.keepers.items():
            loadables = {each.served: each for each in self._loadables(name)}
            pinned = [
                files.served
                for target, files in self._serving.items()
                if self._state(target).pinned
            ]
            present = self._to_be_present(name)
            keeper.serve(self._snapshot.backends[name], loadables.values(), present, pinned)

    def _loadables(self, backend: str) -> Iterator[Loadable]:
        """Everything that may be asked of a backend's replicas, with the targets that it serves."""
        assert self._snapshot is not None
        targets = self._snapshot.targets
        for target, adapter in self._adapters.items():
            if adapter.backend != backend:
                continue
            names: dict[str, list[str]] = {}
            held: dict[str, Files] = {}
            for files, name in self._all_files(target, adapter):
                held[files.served] = files
                names.setdefault(files.served, []).extend([name] if name in targets else [])
            for served, files in held.items():
                known = tuple(targets[name] for name in names[served])
                yield Loadable(served, files.path, adapter.name, files.digest, known)

    def _all_files(self, target: str, adapter: Adapter) -> Iterator[tuple[Files, str]]:
        """(files, the target's name that means them) of what is live, was live, or is written."""
        if target in self._serving:
            yield self._serving[target], target
        if target in self._before:
            yield self._before[target], ""
        for version in adapter.versions:
            files = self.registry.standing(target, version.name).files
            if files is not None:
                yield files, f"{target}@{version.name}" if version.name else ""

    def _to_be_present(self, backend: str) -> list[str]:
        """What is kept loaded: what is live, what was before, and a canary."""
        found = []
        for target, adapter in self._adapters.items():
            if adapter.backend != backend:
                continue
            state = self._state(target)
            found += [held[target] for held in (self._serving, self._before) if target in held]
            trial = canary_version(adapter, state)
            for name in (trial.version if trial else None, previous_version(adapter, state)):
                files = self.registry.standing(target, name).files if name is not None else None
                found += [files] if files is not None else []
        return [files.served for files in found]

    # ------------------------------------------------------------ changes

    async def _prepared(self, adapter: Adapter, files: Files) -> None:
        """Loaded and probed at every replica that serves the adapter and can be reached.

        Raises LoadFailed: one replica that does not take it is enough.
        """
        self._tell_keepers()
        keeper = self.keepers[adapter.backend]
        serving = self._serving.get(adapter.target)
        replicas = [
            url
            for url, state in keeper.states.items()
            if state.reachable and (serving is None or (url, serving.served) in keeper.ready)
        ]
        replicas = replicas or [url for url, state in keeper.states.items() if state.reachable]
        if not replicas:
            raise LoadFailed(f"no replica of {adapter.backend} can be reached")
        done = await asyncio.gather(
            *(self._prepared_at(keeper, url, files) for url in replicas), return_exceptions=True
        )
        failures = [error for error in done if error is not None]
        for error in failures:
            if len(failures) == len(done) or not isinstance(error, ReplicaAway):
                raise error
        for error in failures:
            # It has gone away meanwhile; what it must have is loaded when it is back.
            log.warning("not ready there, and live without it: %s", error)

    async def _prepared_at(self, keeper: AdapterKeeper, replica: str, files: Files) -> None:
        try:
            async with keeper.awake(replica):
                await keeper.ensure(replica, files.served)
                await keeper.probe(replica, files.served)
        except (LoadFailed, httpx.HTTPError) as error:
            text = str(error) if isinstance(error, LoadFailed) else said(error)
            away = isinstance(error, ReplicaAway | httpx.TransportError)
            kind = ReplicaAway if away else LoadFailed
            raise kind(f"{files.served} at {replica}: {text}") from error

    async def _set(self, target: str, state: AdapterState, change: str, author: str) -> None:
        """Keeps the new state, then serves it. One at a time, and never between the looks of
        `follow`, which would take a state read before the change for news."""
        async with self._writing:
            await asyncio.to_thread(self._book.save, target, state, change, author)
            self._states[target] = state
            adapter = self._adapters.get(target)
            if adapter is not None:
                files = self.registry.standing(target, live_version(adapter, state)).files
                if files is not None:
                    self._serve(target, files)
            self._tell_keepers()
            self._changed()
        log.info("%s: %s, by %s", target, change, author)

    @property
    def states(self) -> Mapping[str, AdapterState]:
        """What commands have made of adapters, by target."""
        return self._states

    def know(self, states: Mapping[str, AdapterState]) -> None:
        """What was known before, until the store can be read."""
        self._states = dict(states)

    async def follow(self) -> bool:
        """Reads the states again if anybody changed any; whether so."""
        async with self._writing:
            version = await asyncio.to_thread(self._book.version)
            if version == self._version:
                return False
            self._states = await asyncio.to_thread(self._book.states)
            self._version = version
        return True

    async def _judge(self, target: str) -> None:
        """Steps a canary up, or ends it and says why."""
        adapter, state = self._adapters[target], self._state(target)
        trial = canary_version(adapter, state)
        if trial is None:
            return
        name = f"{target}@{trial.version}"
        seen = await asyncio.to_thread(self._book.seen, name, trial.since)
        live = await asyncio.to_thread(self._book.seen, target, trial.since)
        verdict = judged(seen, live, self._now() - trial.since)
        if verdict.go is None:
            return
        async with self._turn(target):
            await self.look()
            if self._state(target) != state:
                return  # somebody was quicker, here or at another worker
            if not verdict.go:
                log.warning("the canary %s goes back: %s", name, verdict.why)
                gone = given_up(state, f"{trial.version} went back: {verdict.why}")
                await self._stepped(
                    target, gone, f"canary {trial.version} ends", "canary end", name, verdict.why
                )
                return
            above = stepped(adapter, state, self._now())
            share = above.canary.share if above.canary is not None else 1.0
            what = f"canary {trial.version} to {100 * share:.4g} %: {verdict.why}"
            await self._stepped(target, above, what, "canary step", name, verdict.why, share=share)

    async def _stepped(
        self,
        target: str,
        state: AdapterState,
        what: str,
        action: str,
        name: str,
        why: str,
        **detail: float,
    ) -> None:
        """What a canary comes to by itself: set, and in the audit log."""
        await self._set(target, state, what, "the canary itself")
        if self._noted is not None:
            await self._noted(action, name, why=why, **detail)

    # ------------------------------------------------------------ what other workers know

    def loaded_elsewhere(self, place: Place) -> None:
        """Another worker has an adapter loaded."""
        backend, replica, served = place
        if backend in self.keepers:
            self.keepers[backend].loaded_elsewhere(replica, served)

    def gone_elsewhere(self, place: Place) -> None:
        """Another worker has seen that one is not there."""
        backend, replica, served = place
        if backend in self.keepers:
            self.keepers[backend].gone_elsewhere(replica, served)

    def used_elsewhere(self, place: Place, times: int) -> None:
        """Another worker has sent requests for one."""
        backend, replica, served = place
        if backend in self.keepers:
            keeper = self.keepers[backend]
            keeper.whereabouts.used_elsewhere(replica, served, times, self._clock())

    # ------------------------------------------------------------ looking up

    def _state(self, target: str) -> AdapterState:
        return self._states.get(target, NEW)

    def _turn(self, target: str) -> asyncio.Lock:
        return self._changes.setdefault(target, asyncio.Lock())

    def _adapter(self, target: str) -> Adapter:
        found = self._adapters.get(target.partition("@")[0])
        if found is None:
            raise UnknownAdapter(f"there is no adapter '{target}'")
        return found

    def _keeper(self, target: str) -> AdapterKeeper:
        return self.keepers[self._adapter(target).backend]

    def _files(self, target: str, version: str) -> Files:
        standing = self.registry.standing(target, version)
        if standing.files is None:
            raise StateError(f"{target}@{version} cannot be used: {standing.problem}")
        return standing.files

    def _meant(self, target: str) -> Files:
        """The files of `backend/model+adapter`, or of one version of it."""
        name, _, version = target.partition("@")
        adapter = self._adapter(name)
        serving = self._serving.get(name)
        if not version and serving is not None:
            return serving
        return self._files(name, version or live_version(adapter, self._state(name)))

    def _chosen(self, keeper: AdapterKeeper, replica: str | None) -> Sequence[str]:
        if replica is None:
            return list(keeper.states)
        if replica not in keeper.states:
            known = ", ".join(keeper.states)
            raise UnknownAdapter(f"{keeper.backend} has no replica {replica}; it has {known}")
        return [replica]

    def _shown(self, target: str, adapter: Adapter) -> dict[str, Any]:
        state = self._state(target)
        live, before = live_version(adapter, state), previous_version(adapter, state)
        trial = canary_version(adapter, state)
        serving = self._serving.get(target)
        standing = self.registry.standing(target, live)
        return {
            "target": target,
            "live": live,
            "serving": serving.served if serving is not None else None,
            "previous": before,
            "canary": msgspec.to_builtins(trial) if trial is not None else None,
            "ended": state.ended,
            "pinned": state.pinned,
            "quality": self._quality(target),
            "problem": "" if serving is not None and not standing.failed else standing.problem,
            "versions": [
                _version(version.name, self.registry.standing(target, version.name))
                for version in adapter.versions
            ],
            "replicas": self._residency(target, adapter),
        }

    def _quality(self, target: str) -> dict[str, float]:
        """What each route takes its P(right) for."""
        routes = self._snapshot.routes.values() if self._snapshot is not None else ()
        return {
            route.name: candidate.quality
            for route in routes
            for candidate in route.candidates
            if candidate.target == target
        }

    def _residency(self, target: str, adapter: Adapter) -> dict[str, dict[str, Any]]:
        """By replica: which of the adapter's names it has, with P(resident), or why it has not."""
        keeper = self.keepers[adapter.backend]
        found: dict[str, dict[str, Any]] = {}
        names = {files.served for files, _ in self._all_files(target, adapter)}
        for url, state in keeper.states.items():
            estimate = self._live.estimates.get((target, url))
            found[url] = {
                "reachable": state.reachable,
                "loaded": sorted(served for served in names if (url, served) in keeper.ready),
                "failed": {name: why for name, why in state.failed.items() if name in names},
                "p_resident": estimate.loaded if estimate is not None else 0.0,
            }
        return found


def _late(targets: Sequence[str], why: str) -> str:
    whose, more = ", ".join(targets[:TOLD]), len(targets) - TOLD
    whose += f" and {more} more" if more > 0 else ""
    return f"{whose} {'is' if len(targets) == 1 else 'are'} loaded nowhere yet: {why}"


def _clean(shelves: Iterable[Shelf], known: set[str], held: set[str], now: float) -> None:
    """In a thread. `held` are the beginnings of digests that replicas serve."""
    for shelf in shelves:
        here = shelf.digests()
        needed = {digest for digest in here if digest in known or digest[:8] in held}
        for digest in needed:
            try:
                shelf.touch(digest)
            except ShelfError as error:
                log.error("%s", error)
        for digest in shelf.clean(needed, GRACE_S, now):
            log.info("%s: sha256:%s was needed no more", shelf.root, digest)


def _version(name: str, standing: Standing) -> dict[str, Any]:
    shown: dict[str, Any] = {"version": name, "problem": standing.problem}
    if standing.files is not None:
        shown |= msgspec.to_builtins(standing.files)
    return shown


def _served(target: Target, files: Files | None, problem: str) -> Target:
    if files is None:
        return msgspec.structs.replace(target, missing=f"its adapter cannot be used: {problem}")
    return msgspec.structs.replace(target, served=files.served)
