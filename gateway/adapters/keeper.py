"""Keeps the adapters of one vLLM backend where they are needed, at each of its replicas.

A load is per replica and lost at its restart, so each replica is looked at again and again. What a
request needs and is not there is loaded while it waits: one load at a time for an adapter at a
replica, however many wait for it. A load that fails takes the replica out of that adapter's choice
for a while, and of nothing else.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import httpx
import msgspec

from gateway.adapters.engine import Engine, read
from gateway.adapters.placement import Homes
from gateway.adapters.whereabouts import Whereabouts
from gateway.errors import SwitchboardError, said
from gateway.policy.live import Live
from gateway.types.backends import Backend, Target

log = logging.getLogger("switchboard.adapters")

LOOK_EVERY_S = 1.0
"""A restarted replica has its adapters again within two of these after it is healthy."""

LOOK_TIMEOUT_S = 5.0
ASK_EVERY_S = 2.0
"""How often an engine is asked for its metrics: writing them takes it some milliseconds."""
LOAD_TIMEOUT_S = 60.0
RETRY_S = 15.0
"""How long a replica that could not load an adapter is out of its choice; doubles each time."""
LONGEST_RETRY_S = 600.0
FORGET_S = 30.0
"""How long after an adapter's name was given up it is unloaded: requests may be on their way."""


class LoadFailed(Exception):
    """An adapter could not be loaded at a replica; the text says why."""


class ReplicaAway(LoadFailed):
    """… because the replica cannot be reached: it says nothing against the adapter."""


class Loadable(msgspec.Struct, frozen=True):
    """One set of files under the name that replicas serve it by. `path` is as they see it.

    `targets` are what it serves as: their estimates learn whether it is resident. `adapter` is its
    declared name.
    """

    served: str
    path: str
    adapter: str
    digest: str = ""
    targets: tuple[Target, ...] = ()


Pull = Callable[[str, str], Awaitable[str]]
"""Brings (a replica's machine, a digest) together; the path there. Raises SwitchboardError."""


class Door(Protocol):
    """What keeps everybody from a replica whose model sleeps: it would hang."""

    def enter_if_awake(self, server: str) -> bool:
        """Whether something may be sent there now; then `leave` has to follow."""

    async def enter(self, server: str) -> None:
        """Back when it is awake; then `leave` has to follow. Raises SwitchboardError."""

    def leave(self, server: str) -> None: ...


Place = tuple[str, str, str]
"""A backend, one of its replicas, and the name that an adapter is served by there."""


class News(Protocol):
    """Who tells other workers what this one learns of replicas."""

    def loaded(self, place: Place) -> None: ...

    def gone(self, place: Place) -> None: ...

    def used(self, place: Place) -> None: ...


class ReplicaState(msgspec.Struct, frozen=True):
    """What the last look at a replica found: what it has of ours, and all that it lists. `failed`
    says why an adapter could not be loaded."""

    reachable: bool = False
    loaded: frozenset[str] = frozenset()
    failed: Mapping[str, str] = {}
    error: str = "not looked at yet"
    listed: frozenset[str] = frozenset()
    asleep: bool = False


class _Model(msgspec.Struct):
    id: str
    parent: str | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class _Answer(msgspec.Struct):
    model: str | None = None


_models = msgspec.json.Decoder(_Models)
_answer = msgspec.json.Decoder(_Answer)

_NONSENSE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""How a body that is not what it should be shows."""


class _Failure(msgspec.Struct, frozen=True):
    reason: str
    pause_s: float
    until: float


class AdapterKeeper:
    """Looks after the adapters of one vLLM backend."""

    def __init__(
        self,
        backend: Backend,
        live: Live,
        client: httpx.AsyncClient,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float],
        pull: Pull | None = None,
        told: Callable[[str, str, Engine], None] | None = None,
        door: Door | None = None,
        news: News | None = None,
        leads: Callable[[], bool] = lambda: True,
    ) -> None:
        """`pull` brings files to a replica that shares no directory with us; `told` hears what each
        replica's engine says of itself."""
        self._told = told
        self._door = door
        self._news = news
        self._leads = leads
        self._backend = backend
        self._live = live
        self.whereabouts = Whereabouts(live)
        live.witnesses[backend.name] = self.whereabouts
        self._client = client
        self._sleep = sleep
        self._pull = pull
        self._clock = clock
        self._wanted: dict[str, Loadable] = {}
        self._present: frozenset[str] = frozenset()
        self._dropped: dict[str, float] = {}
        self._loads: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._failures: dict[tuple[str, str], _Failure] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self.backend = backend.name
        self.states: dict[str, ReplicaState] = {url: ReplicaState() for url in backend.replicas}
        self._ask_at: dict[str, float] = {}
        self.engines: dict[str, Engine] = {}
        """What each replica's engine told last."""
        self.ready: set[tuple[str, str]] = set()
        """(replica, served name) of what is loaded there: what dispatch looks at."""

    def serve(
        self,
        backend: Backend,
        wanted: Iterable[Loadable],
        present: Iterable[str],
        pinned: Collection[str] = (),
    ) -> None:
        """From now on `wanted` may be asked for; `present` of it is kept loaded at its homes, and
        `pinned` of it in use there.

        What is no longer wanted is unloaded a while later. Replicas may have come and gone.
        """
        now = self._clock()
        before = self._wanted
        self._backend = backend
        self._wanted = {each.served: each for each in wanted}
        self._present = frozenset(present)
        for served in before:
            if served not in self._wanted:
                self._dropped.setdefault(served, now)
        for served in self._wanted:
            self._dropped.pop(served, None)
        replicas = backend.replicas
        self.states = {url: self.states.get(url, ReplicaState()) for url in replicas}
        self.ready = {pair for pair in self.ready if pair[0] in self.states}
        targets = {each.served: each.targets for each in self._wanted.values()}
        slots = backend.cpu_slots or backend.slots
        self.whereabouts.serve(replicas, slots, targets, pinned, now)

    def used(self, replica: str, served: str) -> None:
        """A request for the adapter is being sent to the replica."""
        self.whereabouts.used(replica, served, self._clock())
        if self._news is not None:
            self._news.used((self.backend, replica, served))

    def loaded_elsewhere(self, replica: str, served: str) -> None:
        """Another worker has it loaded there: no load of ours is needed."""
        if replica in self.states and served in self._wanted:
            self.ready.add((replica, served))
            self.whereabouts.loaded(replica, served, None, self._clock())
            self.whereabouts.bar(replica, served, "")

    def gone_elsewhere(self, replica: str, served: str) -> None:
        """Another worker has seen that it is not there, unless we are just loading it."""
        key = (replica, served)
        if key in self.ready and key not in self._loads:
            self.ready.discard(key)
            self.whereabouts.gone(replica, served, self._clock())

    async def run(self) -> None:
        """Looks at every replica for ever; one that is slow to answer holds up no other."""
        async with asyncio.TaskGroup() as group:
            tending: dict[str, asyncio.Task[None]] = {}
            while True:
                self.whereabouts.refresh(self._clock())
                for replica in self.states:
                    if replica not in tending or tending[replica].done():
                        tending[replica] = group.create_task(self._tend(replica))
                await self._sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """One look at every replica, loading what should be there and is missing."""
        await asyncio.gather(*(self._tend(replica) for replica in self.states))

    async def bring(self, replicas: Collection[str], names: Collection[str]) -> None:
        """Back when each of `names` is loaded where it would be at home if these replicas were all
        there are, but for what cannot be loaded there; see `late`."""

        async def to(replica: str) -> None:
            await self._tend(replica)
            state = self.states.get(replica)
            if state is None or not state.reachable:
                return
            homes = self.whereabouts.homes_among(replicas, self._clock())
            try:
                await self._fill(replica, names, homes)
            except Exception:  # it must not keep anybody from serving what else is new
                log.exception("%s at %s could not be filled", self.backend, replica)

        await asyncio.gather(*(to(replica) for replica in replicas if replica in self.states))

    def late(self, replicas: Collection[str], names: Collection[str]) -> dict[str, str]:
        """What of `names` should be loaded at one of these replicas, if they were all there are,
        and is at none, with the reason. What they have no room for is loaded when it is asked for.
        """
        now, there = self._clock(), [url for url in replicas if url in self.states]
        homes = self.whereabouts.homes_among(there, now)
        found = {}
        for served in sorted(
            {name for url in there for name in self.whereabouts.wanted_at(url, names, now, homes)}
        ):
            if any((url, served) in self.ready for url in there):
                continue
            failures = [self._failures.get((url, served)) for url in there]
            reasons = [failure.reason for failure in failures if failure is not None]
            if not any(self.states[url].reachable for url in there):
                found[served] = f"no replica of {self.backend} can be reached"
            else:
                found[served] = reasons[0] if reasons else "it takes longer"
        return found

    async def ensure(self, replica: str, served: str) -> None:
        """Back when the adapter is loaded at the replica. Raises LoadFailed.

        However many wait for it, it is loaded once; whoever goes away does not stop the load.
        """
        key = (replica, served)
        if key in self.ready:
            return
        failure = self._failures.get(key)
        if failure is not None and self._clock() < failure.until:
            raise LoadFailed(failure.reason)
        wanted = self._wanted.get(served)
        if wanted is None:
            raise LoadFailed(f"{served} is not served any more")
        load = self._loads.get(key)
        if load is None:
            load = self._loads[key] = asyncio.create_task(self._load(replica, wanted))
            load.add_done_callback(lambda load: self._ended(key, load))
        await asyncio.shield(load)

    def _ended(self, key: tuple[str, str], load: "asyncio.Task[None]") -> None:
        """Those who waited may all have left: then nobody else asks how it ended."""
        self._loads.pop(key, None)
        if not load.cancelled():
            load.exception()

    @asynccontextmanager
    async def awake(self, replica: str) -> AsyncIterator[None]:
        """Keeps the replica's model awake meanwhile, after waking it. Raises LoadFailed."""
        if self._door is None:
            yield
            return
        try:
            await self._door.enter(replica)
        except SwitchboardError as error:
            raise LoadFailed(str(error)) from error
        try:
            yield
        finally:
            self._door.leave(replica)

    async def unload(self, replica: str, served: str) -> None:
        """Takes an adapter's name from a replica; the engine forgets its weights in its own time.

        Raises LoadFailed.
        """
        answer = await self._post(replica, "unload_lora_adapter", {"lora_name": served})
        if not answer.is_success and answer.status_code != 404:
            raise LoadFailed(_said(answer))
        self._gone(replica, served)

    def gone(self, replica: str, served: str) -> None:
        """A replica said that it does not know the adapter: it was restarted a moment ago."""
        self._gone(replica, served)

    def failed(self, replica: str, served: str, reason: str) -> None:
        """The replica is out of that adapter's choice for a while, longer each time."""
        key = (replica, served)
        before = self._failures.get(key)
        pause_s = RETRY_S if before is None else min(2 * before.pause_s, LONGEST_RETRY_S)
        self._failures[key] = _Failure(reason, pause_s, self._clock() + pause_s)
        if before is None or before.reason != reason:
            log.error("%s at %s cannot load %s: %s", self.backend, replica, served, reason)
        self._gone(replica, served)
        self.whereabouts.bar(replica, served, reason)

    async def probe(self, replica: str, served: str) -> None:
        """Asks the adapter for one token. Raises LoadFailed unless it answers under its name."""
        body = {"model": served, "prompt": ".", "max_tokens": 1, "temperature": 0}
        answer = await self._post(replica, "completions", body)
        if not answer.is_success:
            raise LoadFailed(f"it does not answer: {_said(answer)}")
        try:
            name = _answer.decode(answer.content).model
        except _NONSENSE as error:
            raise LoadFailed(f"its answer cannot be read: {said(error)}") from error
        if name != served:
            raise LoadFailed(f"{name} answers in its place")

    # ------------------------------------------------------------ one replica

    async def _tend(self, replica: str) -> None:
        """One turn. What goes wrong in it unforeseen is told, and the next goes on."""
        try:
            await self._look_at(replica)
        except Exception:
            log.exception("%s at %s could not be looked after", self.backend, replica)

    async def _look_at(self, replica: str) -> None:
        before = self.states.get(replica)
        if before is None:
            return  # it left before its turn came
        known = {served for url, served in self.ready if url == replica}
        try:
            present = await self._listed(replica)
        except (httpx.HTTPError, LoadFailed) as error:
            # Nothing is known of what it holds: a restart loses everything.
            why = str(error) if isinstance(error, LoadFailed) else said(error)
            self._show(replica, before, ReplicaState(error=why))
            return
        if replica not in self.states:
            return  # it left while it was looked at
        state = ReplicaState(True, present, {}, "", present)
        if not before.reachable:
            self._forgive(replica)
        self._let_in(replica)
        self.states[replica] = msgspec.structs.replace(before, reachable=True, error="")
        await self._ask_engine(replica)
        self._found(replica, present, known)
        if self._door is None or self._door.enter_if_awake(replica):
            try:
                if self._leads():
                    await self._fill(replica, self._present)
                    await self._keep_pinned(replica)
                    await self._tidy(replica, present)
            finally:
                if self._door is not None:
                    self._door.leave(replica)
        self._show(replica, before, state)

    def _show(self, replica: str, before: ReplicaState, state: ReplicaState) -> None:
        if replica not in self.states:
            return
        if state.reachable:
            loaded = frozenset(served for url, served in self.ready if url == replica)
            failed = {
                served: failure.reason
                for (url, served), failure in self._failures.items()
                if url == replica and served in self._wanted
            }
            asleep = self._live.server(replica).asleep
            state = ReplicaState(True, loaded, failed, "", state.listed, asleep)
        if (state.reachable, state.error) != (before.reachable, before.error):
            level = logging.INFO if state.reachable else logging.WARNING
            news = state.error or f"serves {', '.join(sorted(state.loaded)) or 'no adapter'}"
            log.log(level, "%s at %s: %s", self.backend, replica, news)
        self.states[replica] = state

    def _forgive(self, replica: str) -> None:
        """It was away and is back: what failed meanwhile says nothing about it now."""
        for key in [key for key in self._failures if key[0] == replica]:
            del self._failures[key]
            self.whereabouts.bar(*key, "")

    def _let_in(self, replica: str) -> None:
        """What failed long enough ago may be asked for again; how often it failed is kept."""
        now = self._clock()
        for (url, served), failure in self._failures.items():
            if url == replica and now >= failure.until:
                self.whereabouts.bar(replica, served, "")

    def _found(self, replica: str, present: frozenset[str], known: Collection[str]) -> None:
        """Takes what the replica lists for the truth, apart from loads that are under way, or that
        ended since it was asked: only of what was `known` to be there then can it say otherwise."""
        for served in self._wanted:
            key = (replica, served)
            if served in present:
                self._loaded(replica, served, None)
            elif key in self.ready and served in known and key not in self._loads:
                self._gone(replica, served)

    async def _fill(self, replica: str, names: Collection[str], homes: Homes | None = None) -> None:
        """Loads what of `names` is at home there, or would be by `homes`."""
        now = self._clock()
        for served in self.whereabouts.wanted_at(replica, names, now, homes):
            key = (replica, served)
            failure = self._failures.get(key)
            if key in self.ready or (failure is not None and now < failure.until):
                continue
            try:
                await self.ensure(replica, served)
            except LoadFailed:
                continue  # kept as a failure, and shown

    async def _keep_pinned(self, replica: str) -> None:
        """Uses the pinned ones that would be evicted soon: the least that keeps them in memory."""
        for served in self.whereabouts.slipping(replica, self._clock()):
            try:
                await self.probe(replica, served)
            except (LoadFailed, httpx.HTTPError) as error:
                log.warning(
                    "%s at %s: %s could not be kept: %s", self.backend, replica, served, said(error)
                )
            else:
                self.whereabouts.kept(replica, served, self._clock())

    async def _tidy(self, replica: str, present: frozenset[str]) -> None:
        """Unloads what was given up a while ago, and what an earlier gateway left behind."""
        now = self._clock()
        ours = {each.adapter for each in self._wanted.values()}
        for served in present:
            name, at, _ = served.partition("@")
            if served in self._wanted or not at:
                continue
            if name not in ours and served not in self._dropped:
                continue  # somebody else's
            since = self._dropped.setdefault(served, now)
            if now - since >= FORGET_S:
                try:
                    await self.unload(replica, served)
                except (LoadFailed, httpx.HTTPError) as error:
                    log.warning("%s at %s keeps %s: %s", self.backend, replica, served, said(error))

    async def _ask_engine(self, replica: str) -> None:
        """How busy it is, how many adapters it holds, and whether it was started anew."""
        now = self._clock()
        if now < self._ask_at.get(replica, now):
            return
        self._ask_at[replica] = now + ASK_EVERY_S
        try:
            page = await self._client.get(
                f"{replica}/metrics", headers=self._headers(), timeout=LOOK_TIMEOUT_S
            )
            page.raise_for_status()
        except httpx.HTTPError as error:
            log.debug("%s at %s tells no metrics: %s", self.backend, replica, error)
            return
        engine, before = read(page.text), self.engines.get(replica)
        self.engines[replica] = engine
        if before is not None and before.started != engine.started:
            log.info("%s at %s was started anew", self.backend, replica)
            self.whereabouts.restarted(replica, self._clock())
        slots = self._backend.cpu_slots or self._backend.slots or engine.slots
        self.whereabouts.holds(replica, slots, self._clock())
        self._live.server(replica).told(engine.running + engine.waiting)
        if self._told is not None:
            self._told(self.backend, replica, engine)

    async def _listed(self, replica: str) -> frozenset[str]:
        """The names of what it serves. Raises LoadFailed where its list cannot be read."""
        answer = await self._client.get(
            f"{replica}/v1/models", headers=self._headers(), timeout=LOOK_TIMEOUT_S
        )
        answer.raise_for_status()
        try:
            models = _models.decode(answer.content)
        except _NONSENSE as error:
            raise LoadFailed(f"its list of models cannot be read: {said(error)}") from error
        return frozenset(model.id for model in models.data)

    # ------------------------------------------------------------ one load

    async def _load(self, replica: str, adapter: Loadable) -> None:
        """Raises LoadFailed. Loads at one replica go one after the other: each holds its engine."""
        turn = self._turns.setdefault(replica, asyncio.Lock())
        async with turn:
            began = self._clock()
            try:
                seconds = self._clock() - began if await self._put(replica, adapter) else None
                if adapter.served not in await self._listed(replica):
                    raise LoadFailed("says that it is loaded, but does not list it")
            except httpx.HTTPError as error:
                text = said(error)
                self.failed(replica, adapter.served, text)
                away = isinstance(error, httpx.TransportError)
                raise (ReplicaAway(text) if away else LoadFailed(text)) from error
            except (LoadFailed, SwitchboardError) as error:
                text = str(error)
                self.failed(replica, adapter.served, text)
                raise LoadFailed(text) from error
        self._failures.pop((replica, adapter.served), None)
        took = "before" if seconds is None else f"in {seconds:.3f} s"
        log.info("%s at %s loaded %s %s", self.backend, replica, adapter.served, took)
        self._loaded(replica, adapter.served, seconds)

    async def _put(self, replica: str, adapter: Loadable) -> bool:
        """Whether it was loaded just now: it may have been there. Raises LoadFailed."""
        path = adapter.path
        if self._pull is not None and self._backend.agent is not None:
            path = await self._pull(replica, adapter.digest)
        body = {"lora_name": adapter.served, "lora_path": path}
        answer = await self._post(replica, "load_lora_adapter", body)
        if not answer.is_success and "already been loaded" not in answer.text:
            raise LoadFailed(_said(answer))
        return answer.is_success

    async def _post(self, replica: str, path: str, body: Mapping[str, object]) -> httpx.Response:
        return await self._client.post(
            f"{replica}/v1/{path}", json=body, headers=self._headers(), timeout=LOAD_TIMEOUT_S
        )

    # ------------------------------------------------------------ what is known

    def _loaded(self, replica: str, served: str, seconds: float | None) -> None:
        if self._news is not None and (replica, served) not in self.ready:
            self._news.loaded((self.backend, replica, served))
        self.ready.add((replica, served))
        self.whereabouts.loaded(replica, served, seconds, self._clock())
        self.whereabouts.bar(replica, served, "")

    def _gone(self, replica: str, served: str) -> None:
        if self._news is not None and (replica, served) in self.ready:
            self._news.gone((self.backend, replica, served))
        self.ready.discard((replica, served))
        self.whereabouts.gone(replica, served, self._clock())

    def _headers(self) -> dict[str, str]:
        key = self._backend.api_key
        return {"authorization": f"Bearer {key}"} if key is not None else {}


def _said(answer: httpx.Response) -> str:
    """What a refusal says, without the JSON around it."""
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        message = answer.text
    return f"{answer.status_code}: {str(message)[:300]}"
