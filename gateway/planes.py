"""Planes: what serves one snapshot, built beside the one that serves, then put in its place.

What can fail is done before anything has changed: litellm's process is started, names are looked
up, the classifier is fitted, connections are opened, adapters are loaded. Then, in one turn of the
event loop, adapters and estimates go over to the new snapshot and the plane replaces the old one.
Whatever did not change is the same object in both.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.adapters.fleet import Fleet
from gateway.adapters.keeper import AdapterKeeper
from gateway.backends.addresses import Names, with_addresses
from gateway.backends.base import Backend, HttpBackend
from gateway.backends.litellm_process import LitellmProcess, served_by
from gateway.backends.turns import Gpus, TurnsBackend
from gateway.backends.vllm import VllmBackend
from gateway.classify.declared import Reads, declared, learns_from
from gateway.classify.recognise import Recogniser
from gateway.config.sharing import shared
from gateway.errors import SwitchboardError, UpstreamError
from gateway.experiments.assignment import all_lanes
from gateway.experiments.standings import Standings
from gateway.journey import Plane
from gateway.learn.features import FeatureKind
from gateway.learn.kinds import kind_of
from gateway.learn.scorer import Scorer
from gateway.learn.versions import Current
from gateway.policy.composed import with_compositions
from gateway.policy.decide import Decider
from gateway.policy.live import Live
from gateway.policy.table import Qualities
from gateway.policy.weights import weighed
from gateway.resilience.ways import Resilience
from gateway.shadows import shadows_of
from gateway.traffic import Traffic
from gateway.transport.base import Origin, Transport
from gateway.transport.lean import LeanTransport
from gateway.types.backends import Backend as Declared
from gateway.types.backends import Capabilities, Price
from gateway.types.snapshot import Snapshot

log = logging.getLogger("switchboard")

DRAIN_S = 120.0
"""How long a replaced litellm process may still answer what it has begun."""

ENCODER_EVERY_S = 1.0
"""How often an encoder that is away is looked for."""

NAMES_EVERY_S = 5.0
"""How often the addresses behind `dns://` replicas are asked for."""

AS_KNOWN = "what became of adapters, traffic and experiments is taken as it was known"

WARM_S = 0.5
"""How long a swap waits for first connections to what is new in it. They are no condition: what
does not answer now may be what the swap is to mend."""


class Basis(msgspec.Struct, frozen=True):
    """What a plane is made from, but for what commands do to adapters and traffic.

    `declared` is the snapshot as it was handed over, `served` has real addresses in it, and the
    prices that litellm knows. `reads` is what texts are read by, `kind` tells what features of them
    learned quality goes by.
    """

    declared: Snapshot
    served: Snapshot
    reads: Reads
    kind: Callable[[], FeatureKind | None]
    recogniser: Recogniser
    litellm: LitellmProcess | None = None


class Made(msgspec.Struct, frozen=True):
    """A backend, and what it was made from."""

    declared: Declared
    keeper: AdapterKeeper | None
    backend: Backend


class Planes:
    """Builds each plane and keeps the serving one as adapters and addresses are now."""

    def __init__(
        self,
        live: Live,
        fleet: Fleet,
        gpus: Gpus,
        traffic: Traffic,
        standings: Standings,
        resilience: Resilience,
        *,
        qualities: Callable[[], Qualities],
        learned: Callable[[], Current],
        serve: Callable[[Plane], None],
        cache: Path | None,
        litellm_python: str,
    ) -> None:
        """`serve` is given each plane that is to serve from now on; `cache` keeps fits;
        `qualities` are what is known of targets now, and `learned` what of routes' prompts."""
        self._qualities = qualities
        self._learned = learned
        self._live = live
        self._fleet = fleet
        self._gpus = gpus
        self._traffic = traffic
        self._standings = standings
        self._resilience = resilience
        self._serve = serve
        self._cache = cache
        self._litellm_python = litellm_python
        self._names = Names()
        self._prices: Mapping[str, tuple[Price, Capabilities]] = {}
        self._basis: Basis | None = None
        self._plane: Plane | None = None
        self._made: dict[str, Made] = {}
        self._transports: dict[str | None, Transport] = {}
        self._besides: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()

    @property
    def plane(self) -> Plane:
        """The one that serves; there is one from the first swap on."""
        assert self._plane is not None
        return self._plane

    def kind(self) -> FeatureKind | None:
        """Of the features that learned quality goes by; None while an encoder is away."""
        return self._basis.kind() if self._basis is not None else None

    async def swap(self, snapshot: Snapshot, patience_s: float) -> list[str]:
        """Serves `snapshot` from now on; requests under way finish on the plane that they have.

        Waits `patience_s` at most for adapters that it brings. Answers warnings, such as of a
        target that takes no connection. Raises EncoderError or LitellmUnavailable; then nothing has
        changed.
        """
        async with self._changing:
            before = self._basis
            snapshot = shared(snapshot, before.declared) if before is not None else snapshot
            litellm = await self._litellm_for(snapshot)
            warming = False
            try:
                basis = await self._built(snapshot, litellm)
                warnings = await self._warmed(basis.served)
                await self._follow_commands()
                warming = True
                warnings += await self._fleet.warm(basis.served, patience_s)
                await self._gpus.serve(basis.served.backends.values())
            except BaseException:
                if warming and before is not None:
                    self._fleet.serve(before.served)
                if litellm is not None and (before is None or litellm is not before.litellm):
                    await litellm.stop()
                raise
            self._go_over(basis)
        return warnings

    def redress(self) -> None:
        """Serves adapters as they are now (other versions, or ones that have come to be there), and
        weights, and what is known of qualities."""
        basis, before = self._basis, self._plane
        if basis is None:
            return
        snapshot = weighed(self._fleet.dress(basis.served), self._traffic.weights)
        snapshot = msgspec.structs.replace(snapshot, qualities=self._qualities())
        backends = self._backends(basis.served)
        lanes = all_lanes(snapshot.routes, self._standings.known)
        current = self._learned()
        learned = {
            name: each.of([candidate.target for candidate in snapshot.routes[name].candidates])
            for name, each in current.scorers.items()
            if name in snapshot.routes
        }
        if before is None:
            decider = Decider(snapshot)
        else:
            snapshot = shared(snapshot, before.snapshot)
            backends = before.backends if before.backends == backends else backends
            same = snapshot == before.snapshot and backends is before.backends
            same = same and lanes == before.lanes and _same(learned, before.learned)
            same = same and current.unfit == before.unfit
            if same and basis.recogniser is before.recogniser:
                return
            decider = Decider(snapshot, before.decider)
        same_ways = before is not None and before.snapshot.policies is snapshot.policies
        ways = before.ways if before and same_ways else self._resilience.ways(snapshot.policies)
        self._plane = Plane(
            snapshot,
            basis.recogniser,
            decider,
            backends,
            ways,
            lanes,
            shadows_of(snapshot),
            learned,
            current.unfit,
            basis.kind,
        )
        self._serve(self._plane)

    async def follow_names(self) -> None:
        """Replicas behind a name come and go: requests go to those that are there now. For ever."""
        while True:
            await asyncio.sleep(NAMES_EVERY_S)
            try:
                await self._look_up()
            except Exception:  # one look that fails must not end it for good
                log.exception("names could not be looked up; tried again in %g s", NAMES_EVERY_S)

    async def look_for_encoder(self) -> None:
        """Looks whether an encoder that is away is there again, for ever."""
        while True:
            await asyncio.sleep(ENCODER_EVERY_S)
            standing = self._basis.reads.standing if self._basis is not None else None
            if standing is not None:
                await asyncio.to_thread(standing.look)

    async def stop(self) -> None:
        """Ends what goes on beside, litellm's process, and every connection."""
        for task in self._besides:
            task.cancel()
        await asyncio.gather(*self._besides, return_exceptions=True)
        if self._basis is not None and self._basis.litellm is not None:
            await self._basis.litellm.stop()
        for transport in self._transports.values():
            await transport.close()

    # ------------------------------------------------------------ beside the old one

    async def _built(self, snapshot: Snapshot, litellm: LitellmProcess | None) -> Basis:
        before = self._basis
        prices = self._prices if before is not None and litellm is before.litellm else {}
        with_litellm = snapshot if litellm is None else served_by(snapshot, litellm.url, prices)
        served = with_addresses(with_litellm, await self._names.look(with_litellm))
        served = with_compositions(served)
        if before is not None:
            served = shared(served, before.served)
            if learns_from(snapshot) == learns_from(before.declared):
                recogniser = Recogniser(served, before.reads.classifier, before.recogniser)
                return Basis(snapshot, served, before.reads, before.kind, recogniser, litellm)
        reads = await asyncio.to_thread(declared, served, self._cache)
        recogniser = Recogniser(served, reads.classifier, before.recogniser if before else None)
        return Basis(snapshot, served, reads, kind_of(reads), recogniser, litellm)

    async def _litellm_for(self, snapshot: Snapshot) -> LitellmProcess | None:
        """The process for the backends that need it: the one that runs, if it is for the same."""
        wanted = tuple(each for each in snapshot.backends.values() if each.kind == "litellm")
        running = self._basis.litellm if self._basis is not None else None
        if running is not None and running.backends == wanted:
            return running
        if not wanted:
            return None
        process = LitellmProcess(
            wanted,
            python=self._litellm_python,
            log=logging.getLogger("switchboard.litellm").info,
            clock=time.monotonic,
        )
        await process.start()
        return process

    async def _warmed(self, snapshot: Snapshot) -> list[str]:
        """A connection to each origin that has none, so that no request waits for the first."""
        opening: dict[asyncio.Task[None], str] = {}
        for backend in snapshot.backends.values():
            transport = self._transport(backend.proxy)
            for url in backend.replicas:
                work = transport.warm(Origin.parse(url), backend.timeouts)
                opening[self._beside(work)] = f"{backend.name} at {url}"
        if not opening:
            return []
        done, late = await asyncio.wait(opening, timeout=WARM_S)
        warnings = [f"{opening[task]} has not taken a connection in {WARM_S:g} s" for task in late]
        for task in done:
            if not task.cancelled() and (error := task.exception()) is not None:
                warnings.append(f"{opening[task]} takes no connection: {error}")
        return sorted(warnings)

    async def _follow_commands(self) -> None:
        """What was made of adapters and traffic; a store that is away must not stop a swap."""
        try:
            await self._fleet.follow()
            await self._traffic.follow()
            await self._standings.follow()
        except SwitchboardError as error:
            log.warning("%s: %s", AS_KNOWN, error)
        except Exception:
            log.exception(AS_KNOWN)

    # ------------------------------------------------------------ in one turn

    def _go_over(self, basis: Basis) -> None:
        before, self._basis = self._basis, basis
        self._fleet.serve(basis.served)
        self.redress()
        self._live.keep(basis.served.targets.values())
        self._let_go(basis.served)
        old = before.litellm if before is not None else None
        if basis.litellm is not old:
            self._prices = {}
            if old is not None:
                self._beside(_stop_later(old))
            if basis.litellm is not None:
                self._beside(self._take_prices(basis.litellm))

    def _backends(self, snapshot: Snapshot) -> Mapping[str, Backend]:
        made = {}
        for name, each in snapshot.backends.items():
            keeper, before = self._fleet.keepers.get(name), self._made.get(name)
            if before is None or before.keeper is not keeper or before.declared != each:
                before = Made(each, keeper, self._backend(each, keeper))
            made[name] = before
        self._made = made
        return {name: each.backend for name, each in made.items()}

    def _backend(self, each: Declared, keeper: AdapterKeeper | None) -> Backend:
        plain = HttpBackend(each, self._transport(each.proxy))
        backend = plain if keeper is None else VllmBackend(plain, keeper)
        if each.turns is None:
            return backend
        return TurnsBackend(backend, self._gpus, time.perf_counter)

    def _transport(self, proxy: str | None) -> Transport:
        """What carries calls through that proxy, or directly; kept from snapshot to snapshot."""
        transport = self._transports.get(proxy)
        if transport is None:
            transport = self._transports[proxy] = _new_transport(proxy)
        return transport

    def _let_go(self, snapshot: Snapshot) -> None:
        """Connections to what is declared no more are closed as soon as their answers are whole."""
        for proxy, transport in self._transports.items():
            backends = [each for each in snapshot.backends.values() if each.proxy == proxy]
            transport.keep({Origin.parse(url) for each in backends for url in each.replicas})

    # ------------------------------------------------------------ beside serving

    async def _look_up(self) -> None:
        async with self._changing:
            basis, known = self._basis, self._names.known
            if basis is None or not known:
                return
            again = await self._built(basis.declared, basis.litellm)
            if self._names.known != known:
                self._go_over(again)

    async def _take_prices(self, process: LitellmProcess) -> None:
        """Prices that only litellm knows, as soon as it serves: importing it takes seconds."""
        prices = await process.prices()
        async with self._changing:
            basis = self._basis
            if basis is not None and basis.litellm is process:
                self._prices = prices
                self._go_over(await self._built(basis.declared, process))

    def _beside(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Goes on beside serving; what goes wrong in it is logged."""
        task = asyncio.create_task(work)
        self._besides.add(task)
        task.add_done_callback(self._besides.discard)
        task.add_done_callback(log_failure)
        return task


def _same(one: Mapping[str, Scorer], other: Mapping[str, Scorer]) -> bool:
    """Whether they are the very same: arrays are not compared."""
    return one.keys() == other.keys() and all(other[name] is each for name, each in one.items())


def log_failure(task: asyncio.Task[None]) -> None:
    """For a task that nobody waits for: what went wrong in it. A backend's doing is a warning."""
    if task.cancelled() or (error := task.exception()) is None:
        return
    if isinstance(error, UpstreamError):
        log.warning("%s", error)
    else:
        log.error("%s failed", task.get_coro(), exc_info=error)


def _new_transport(proxy: str | None) -> Transport:
    if proxy is None:
        return LeanTransport()
    from gateway.transport.proxied import AiohttpTransport  # few need it, and it loads slowly

    return AiohttpTransport(proxy=proxy)


async def _stop_later(process: LitellmProcess) -> None:
    """Ends a replaced process once the requests that it had are surely answered."""
    try:
        await asyncio.sleep(DRAIN_S)
    finally:
        await process.stop()
