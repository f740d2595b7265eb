"""The composition root: builds every part, hands each its slice, and owns start and stop."""

import asyncio
import contextlib
import logging
import random
import secrets
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import numpy as np

from gateway.adapters.engine import Engine
from gateway.adapters.fleet import Fleet
from gateway.adapters.lending import shelf_router
from gateway.admission.entrances import Entrances
from gateway.admission.metrics import AdmissionMetrics
from gateway.backends.turns import Gpus
from gateway.complaints import Complaint
from gateway.coordination.opening import open_coordinator, open_together
from gateway.experiments.standings import Standings, declared
from gateway.experiments.watching import Watching
from gateway.hours import Hours
from gateway.http.admin import admin_api
from gateway.http.control import control_plane
from gateway.http.experiments import experiments_api
from gateway.http.feedback import feedback_api
from gateway.http.gate import Gate
from gateway.http.keys import keys_api
from gateway.http.limits import limits_api
from gateway.http.openai import DataPlane, require_key
from gateway.http.pressure import Pressure
from gateway.http.revisions import revisions_api
from gateway.http.traffic import traffic_api
from gateway.journey import Plane
from gateway.learned import LearnedWatch
from gateway.limits.alerts import BudgetAlerts
from gateway.limits.limiter import Limiter
from gateway.limits.shared import SharedLimits
from gateway.metering.metrics import Metrics
from gateway.pipeline import Pipeline
from gateway.planes import Planes, log_failure
from gateway.policy.live import Live
from gateway.qualities import QualityWatch, Shift
from gateway.remembered import Remembered
from gateway.resilience.breaker import Turned
from gateway.resilience.ways import Resilience
from gateway.retention import Retaining
from gateway.retraining import Retraining, Told, trained_beside
from gateway.revisions.guarding import Guarding
from gateway.revisions.known import KnownFile, LearnedFile
from gateway.revisions.opening import Home, Opening
from gateway.revisions.running import PATIENCE_S, Running
from gateway.revisions.winning import NotWritten, with_winner
from gateway.shadows import Shadows
from gateway.store.adapters import AdapterBook
from gateway.store.answers import Answers
from gateway.store.audit import ITSELF, AuditBook
from gateway.store.evidence import EvidenceBook
from gateway.store.experiments import ExperimentBook
from gateway.store.feedback import Answered, FeedbackBook
from gateway.store.hosting import HostingBook
from gateway.store.keys import Keyring, Keys
from gateway.store.learned import LearnedBook
from gateway.store.reader import Reader
from gateway.store.retention import RetentionBook
from gateway.store.revisions import Revision, Revisions
from gateway.store.shadows import ShadowBook
from gateway.store.spending import SpendingBook
from gateway.store.spool import Spool
from gateway.store.store import Store, StoreError
from gateway.store.weights import WeightBook
from gateway.store.writer import Writer
from gateway.traffic import Traffic
from gateway.types.experiments import Experiment
from gateway.types.records import Made, Record
from gateway.types.requests import Caller
from gateway.types.routes import Route
from gateway.types.snapshot import Server, Snapshot, Weight
from gateway.workers.link import Link

if TYPE_CHECKING:
    from gateway.coordination.together import Together

log = logging.getLogger("switchboard")

KEYS_EVERY_S = 0.5
"""How soon a key that another process made or revoked counts."""

FLUSH_S = 2.0
"""How long what was spent is waited for that is being written."""

ANONYMOUS = Caller()


class Gateway:
    """One running gateway: its parts, and the tasks that look after them."""

    def __init__(
        self,
        snapshot: Snapshot,
        store: Store,
        *,
        cache: Path | None = None,
        litellm_python: str = sys.executable,
        agent_key: str | None = None,
        home: Home | None = None,
        opening: Opening | None = None,
        workers: int = 1,
        link: Link | None = None,
    ) -> None:
        """`cache` keeps fitted classifiers; `litellm_python` has litellm installed. With an
        `agent_key` adapters' files are lent to the agents that know it. With a `home` the store's
        revisions and the files there are followed; `opening` is what is served first. So many
        `workers` share the limits while their coordinator is away;
        `link` is a worker's line to the others."""
        self._agent_key = agent_key
        self._link = link
        self.store = store
        self.coordinator = open_coordinator(snapshot.server)
        self._noticed = asyncio.Event()
        self._together = open_together(
            self.coordinator, first=link is None or link.number == 0, noticed=self._noticed.set
        )
        self.metrics = Metrics(self._gauges)
        self.live = Live()
        self.resilience = Resilience(time.perf_counter, asyncio.sleep, random.random, self.live)
        self.writer = Writer(store, spool=_spool(cache, store, snapshot.server))
        self.keyring = Keyring(store)
        self.reader = Reader(store)
        self._snapshot = snapshot
        self._http = httpx.AsyncClient(timeout=5.0, trust_env=False)
        self._book = AdapterBook(store)
        self.gpus = Gpus(self.live, self._http, clock=time.perf_counter)
        self.fleet = Fleet(
            self.live,
            self._http,
            self._book,
            changed=lambda: self.planes.redress(),
            clock=time.perf_counter,
            now=time.time,
            agent_key=agent_key,
            told=self._engine_told,
            door=self.gpus,
            news=None if self._together is None else self._together.hints,
            leads=self.leads,
            noted=self._by_itself,
        )
        self._spending = SpendingBook(store)
        self.alerts = BudgetAlerts(self._http, self._claim_alert, now=time.time)
        self.limiter = Limiter(
            self.live,
            spent=self._spent,
            clock=time.perf_counter,
            now=time.time,
            refused=self.metrics.refused,
            alarm=self.alerts,
        )
        self.shared_limits: SharedLimits | None = None
        self._workers = workers
        self._audit = AuditBook(store)
        self.gate = Gate(self.authenticate, self._audited)
        self._answers = Answers(
            self.reader, self._book, FeedbackBook(store), self.writer, time.time
        )
        self.hours = Hours(HostingBook(store), time.time)
        self.traffic = Traffic(WeightBook(store), changed=lambda: self.planes.redress())
        self._experiments = ExperimentBook(store)
        self.standings = Standings(
            self._experiments,
            changed=lambda: self.planes.redress(),
            needed=lambda: bool(declared(self._snapshot)),
        )
        self._shadow_book = ShadowBook(store)
        self.shadows = Shadows(
            lambda journey, target: self.pipeline.copy(journey, target),
            self._spent_on_copies,
            now=time.time,
        )
        self.pressure = Pressure()
        self.entrances = Entrances(
            self.live, time.perf_counter, workers, lambda: not self.pressure.share
        )
        self.metrics.add(AdmissionMetrics(self.entrances, lambda: self.pressure.shed))
        self.qualities = QualityWatch(
            FeedbackBook(store),
            EvidenceBook(store),
            lambda: self._snapshot,
            changed=lambda: self.planes.redress(),
            leads=self.leads,
            tell=self._quality_changed,
            now=time.time,
        )
        self.learned = LearnedWatch(
            LearnedBook(store),
            lambda: self._snapshot,
            lambda: self.planes.kind(),
            lambda: self.planes.redress(),
        )
        self.retraining = Retraining(
            LearnedBook(store),
            lambda: self._snapshot,
            partial(_trained, home, store),
            leads=self.leads,
            now=time.time,
        )
        self.retaining = Retaining(
            RetentionBook(store),
            lambda: self._snapshot.retention,
            leads=self.leads,
            now=time.time,
        )
        self.planes = Planes(
            self.live,
            self.fleet,
            self.gpus,
            self.traffic,
            self.standings,
            self.resilience,
            qualities=lambda: self.qualities.known,
            learned=lambda: self.learned.current,
            serve=self._serve,
            cache=cache,
            litellm_python=litellm_python,
        )
        self._tending: list[asyncio.Task[None]] = []
        self._started_at = time.time()
        self._follows = home is not None
        self.running = Running(
            Revisions(store), home or Home(Path()), self.swap, opening, now=time.time
        )
        self.guarding = Guarding(
            self.running, self.reader, self._flushed, now=time.time, noted=self._by_itself
        )
        self.watching = Watching(
            self.standings,
            self._experiments,
            snapshot=lambda: self._snapshot,
            leads=self.leads,
            promote=self._promote,
            note=self._by_itself,
            tell=self.alerts.tell,
            now=time.time,
            rng=np.random.default_rng(),
        )
        self.metrics.configuration = self._configuration
        self.metrics.shifts = self.qualities.shifts
        self.metrics.trainings = self.retraining.counts
        self._remembered = Remembered(
            None if home is None else KnownFile(home.cache, store.name),
            store.name,
            self.keyring,
            self.traffic,
            self.fleet,
            self.standings,
            self.running,
            self.learned,
            None if home is None else LearnedFile(home.cache, store.name),
        )
        if opening is not None and opening.known is not None:
            self._remembered.tell(opening.known)
        self.pipeline: Pipeline
        self.asgi: DataPlane

    async def start(self) -> None:
        """Builds the first plane and starts what goes on beside serving."""
        self._loop = asyncio.get_running_loop()
        self._first_keys()
        self.writer.start()
        if self.coordinator is not None:
            await self.coordinator.start()
        if self._together is not None:
            await self._together.start(self.fleet)
            self._share_breakers(self._together)
        for warning in await self.planes.swap(self._snapshot, 0.0):
            log.warning("%s", warning)
        await self._limit()
        self.pipeline = Pipeline(
            self.planes.plane,
            self.live,
            self.entrances,
            keep=self._keep,
            clock=time.perf_counter,
            now=time.time,
            draw=random.random,
            maker=self._maker,
            limiter=self.limiter,
            breakers=self.resilience.breakers,
            ended=self.shadows.saw,
        )
        control = control_plane(
            self.pipeline,
            self.authenticate,
            self.gate,
            find=self._find,
            ready=self.readiness,
            metrics=self._metrics_page,
            started=int(self._started_at),
            routers=[
                admin_api(self.fleet, self.gate, self._answers.used, self._answers.changes),
                limits_api(self.limiter.shown, self.gate),
                keys_api(Keys(self.store), self.gate, lambda: self.pipeline.plane.snapshot.routes),
                revisions_api(self.running, self.gate, self._book, self.reader, self.live),
                traffic_api(self.gate, self._give, self.weights),
                experiments_api(self.gate, self._stop_experiment, self._experiments_shown),
                shelf_router(self.fleet.shelves, self._agent_key),
                feedback_api(
                    self._answered,
                    self._answers.say,
                    self.authenticate,
                    lambda: self.pipeline.plane.snapshot,
                    self.metrics.told,
                ),
            ],
        )
        self.asgi = DataPlane(
            self.pipeline, control, self.authenticate, is_open=lambda: self.keyring.empty
        )
        if self._link is not None:
            await self._link.start(self.metrics.page)
        self._tend()

    async def stop(self) -> None:
        """Stops what goes on beside serving, closes connections, writes every row."""
        for task in self._tending:
            task.cancel()
        await asyncio.gather(*self._tending, return_exceptions=True)
        await self.shadows.stop()
        await self.fleet.stop()
        await self.gpus.stop()
        await self.hours.keep()
        with contextlib.suppress(OSError):
            await self._remembered.keep()
        await self.planes.stop()
        await self.alerts.stop()
        await self._http.aclose()
        if self.shared_limits is not None:
            await self.shared_limits.stop()
        if self._together is not None:
            await self._together.stop()
        if self.coordinator is not None:
            await self.coordinator.stop()
        await asyncio.to_thread(self.writer.stop)
        self._answers.stop()
        self.store.close()
        if self._link is not None:
            await self._link.stop()

    async def serve_revision(self, revision: Revision) -> None:
        """Brings this process to a revision of the store. Raises ConfigError."""
        await self.running.serve_revision(revision)

    async def swap(self, snapshot: Snapshot, patience_s: float = PATIENCE_S) -> list[str]:
        """As `Planes.swap`; its limits are declared too."""
        warnings = await self.planes.swap(snapshot, patience_s)
        self._snapshot = snapshot
        self._declare_limits()
        if self._link is not None:
            self._link.serves(snapshot.hash)
        return warnings

    def _tend(self) -> None:
        """Starts what goes on beside serving; what goes wrong in it is logged."""
        beside: tuple[Coroutine[Any, Any, None], ...] = (
            self.fleet.run(),
            self.gpus.run(),
            self.traffic.run(),
            self.standings.run(),
            self.watching.run(),
            self.qualities.run(),
            self.learned.run(),
            self.planes.follow_names(),
            self.planes.look_for_encoder(),
            self._follow_keys(),
            self._follow_notices(),
            self.hours.run(),
            self.retaining.run(),
            self.pressure.watch(time.perf_counter),
        )
        if self._follows:
            beside += (
                self.running.follow_store(),
                self.running.follow_files(),
                self.retraining.run(),
                self.guarding.run(),
                self._remembered.run(),
            )
        self._tending = [asyncio.create_task(work) for work in beside]
        for task in self._tending:
            task.add_done_callback(log_failure)

    def authenticate(self, token: bytes | None) -> Caller:
        """Who asks. While the store holds no key, everybody who can reach us may."""
        if self.keyring.empty:
            return ANONYMOUS
        caller = self.keyring.lookup(token) if token is not None else None
        if caller is None:
            raise require_key(token)
        return caller

    def readiness(self) -> dict[str, Any]:
        """The detail of `/ready`."""
        return {
            "ready": True,
            "snapshot": self._snapshot.hash,
            "store_away": self.store_away(),
            "workers": [] if self._link is None else msgspec.to_builtins(self._link.siblings),
            "coordinator": None
            if self.coordinator is None
            else msgspec.to_builtins(self.coordinator.state),
            **self.running.told(),
            "guard": self.guarding.told(),
            "replicas": {
                f"{keeper.backend} {url}": msgspec.to_builtins(state)
                for keeper in self.fleet.keepers.values()
                for url, state in keeper.states.items()
            },
            "unusable": self.fleet.unusable(),
            "weights": self.weights(),
            "admission": self.entrances.standing(),
            "shedding": self.pressure.share,
            "breakers": self.resilience.breakers.shown(time.perf_counter()),
        }

    def store_away(self) -> str | None:
        """What it means that the store is away; None while it is there."""
        if self.store.behind:
            return "since the start: what is served is what was known of it last"
        return "rows wait, and commands are refused" if self.writer.away else None

    async def _flushed(self) -> None:
        await asyncio.to_thread(self.writer.flush)

    def _configuration(self) -> tuple[int, str, int]:
        return self.running.seq, self._snapshot.hash, self.running.errors

    def weights(self) -> list[dict[str, Any]]:
        """What gets less than all of its traffic, by whom, and what is under way there."""
        return self.traffic.shown(self.pipeline.plane.snapshot, self.live)

    async def _give(self, subject: str, share: float, why: str, by: str, force: bool) -> Weight:
        snapshot = self.pipeline.plane.snapshot
        return await self.traffic.give(snapshot, subject, share, why, by, force=force)

    def _experiments_shown(self) -> list[dict[str, Any]]:
        return self.standings.shown(self._snapshot)

    async def _stop_experiment(self, name: str, why: str, author: str) -> dict[str, Any]:
        return await self.standings.stop(self._snapshot, name, why, author)

    async def _promote(self, route: Route, experiment: Experiment, arm: str, why: str) -> None:
        """The winner's revision: the one that runs, and nothing else changed."""
        revision, name = self.running.revision, experiment.name
        if revision is None:
            raise NotWritten("nothing here runs from files")
        files = with_winner(revision.files, route.name, name, arm)
        await self.running.apply(
            files,
            f"experiment {name}",
            kind="experiment",
            note=why,
            environment=revision.environment,
            after=revision.seq,
        )

    async def adapters_present(self) -> None:
        """Back when every adapter's files are known and, where they are to be, loaded."""
        await self.fleet.present()

    def _serve(self, plane: Plane) -> None:
        """The swap itself: requests that begin from now on have this plane."""
        self.entrances.declare(plane.snapshot.backends.values())
        if hasattr(self, "pipeline"):
            self.pipeline.plane = plane

    def _engine_told(self, backend: str, replica: str, engine: Engine) -> None:
        self.entrances.told(backend, replica, engine.running, engine.waiting)
        self.hours.told(backend, replica, engine)

    def _first_keys(self) -> None:
        try:
            self.keyring.refresh()
        except StoreError:
            if not self.store.behind:
                raise

    async def _follow_keys(self) -> None:
        """While the store is away the keys are those that were known last."""
        away = Complaint(log, "keys stay as they are")
        while True:
            await asyncio.sleep(KEYS_EVERY_S)
            try:
                await self._look_at_keys()
                away.over()
            except StoreError as error:
                away.about(error)

    async def _look_at_keys(self) -> None:
        if await asyncio.to_thread(self.keyring.refresh):
            self._declare_limits()

    def _share_breakers(self, together: "Together") -> None:
        """A breaker that opens or closes here is a hint to the other workers, and theirs to us."""
        breakers = self.resilience.breakers
        encode, decode = msgspec.msgpack.encode, msgspec.msgpack.Decoder(Turned).decode
        tell = together.share(
            "breakers", lambda told: breakers.hint(decode(told), time.perf_counter())
        )
        breakers.observer = lambda turned: tell(encode(turned))

    def leads(self) -> bool:
        """Whether this worker does what only one of all shall do."""
        return self._together is None or self._together.lead.mine

    def _quality_changed(self, shift: Shift) -> None:
        event = {"event": "quality.changed", **msgspec.structs.asdict(shift)}
        self.alerts.tell(event)

    def _audited(self, *entry: Any, **more: Any) -> None:
        """In a thread: something was commanded, and is in the store by now."""
        self._audit.add(*entry, **more)
        if self._together is not None:
            self._loop.call_soon_threadsafe(self._together.changed)

    async def _by_itself(self, action: str, subject: str, /, **detail: Any) -> None:
        """What nobody has commanded is in the audit log too."""
        who = {"name": ITSELF, "source": socket.gethostname()}
        try:
            await asyncio.to_thread(self._audited, action, subject, **who, **detail)
        except StoreError as error:
            log.error("the audit log missed: %s %s: %s", action, subject, error)

    async def _follow_notices(self) -> None:
        """Looks at the store at once when another worker says that something is new there."""
        looks: list[Callable[[], Awaitable[Any]]] = [
            self.traffic.follow,
            self.standings.follow,
            self.learned.look,
            self.fleet.look,
            self._look_at_keys,
        ]
        if self._follows:
            looks.insert(0, self.running.notice)
        while True:
            await self._noticed.wait()
            self._noticed.clear()
            for look in looks:
                try:
                    await look()
                except Exception as error:  # noqa: BLE001 - it is looked at again in a moment anyway
                    log.debug("news could not be read from the store: %s", error)

    async def _metrics_page(self) -> bytes:
        """Of all workers, where there are others."""
        return self.metrics.page() if self._link is None else await self._link.page()

    def _gauges(self) -> dict[str, float]:
        return {
            "switchboard_log_waiting": self.writer.waiting,
            "switchboard_log_spooled_bytes": self.writer.spooled,
            "switchboard_store_away": float(self.store_away() is not None),
            "switchboard_breakers_open": len(self.resilience.breakers.shown(time.perf_counter())),
        }

    async def _limit(self) -> None:
        """Knows who has limits, and what was spent of them before."""
        self._declare_limits()
        if self.coordinator is not None:
            self.shared_limits = SharedLimits(
                self.coordinator,
                worker=secrets.token_hex(8),
                accounts=self.limiter.accounts,
                spent=self._spent,
                now=time.time,
            )
            self.limiter.share(self.shared_limits, self._workers)
            self.coordinator.on_away(self.limiter.look_up)
            self.shared_limits.start()
        await self.limiter.know()

    def _declare_limits(self) -> None:
        self.alerts.alerts = self._snapshot.quotas.alerts
        self.limiter.declare(self._snapshot, self.keyring.callers())

    async def _spent(self, until: float, day: float, month: float) -> Mapping[str, tuple[int, int]]:
        """What each account had spent before that instant, by the log."""
        await asyncio.to_thread(self.writer.flush, FLUSH_S)
        return await asyncio.to_thread(self._spending.before, until, day, month)

    async def _claim_alert(self, account: str, period: str, starts: float, share: float) -> bool:
        now = time.time()
        return await asyncio.to_thread(
            self._spending.claim_alert, account, period, starts, share, now
        )

    async def _spent_on_copies(self, route: str, since: float) -> float:
        return await asyncio.to_thread(self._shadow_book.spent, route, since)

    def _keep(self, record: Record) -> None:
        if record.shadow_of is None:
            self.metrics.saw(record)
        self._answers.ended(record)
        if not self.writer.put(record):
            self.metrics.lost += 1

    async def _find(self, id: str) -> dict[str, Any] | None:
        """The row of a request, decision or completion, even of one that has just ended."""
        return await self._answers.find(id, elsewhere=self.coordinator is not None)

    async def _answered(self, by: str, name: str, caller: Caller) -> list[Answered]:
        """What feedback means, even if it has just ended."""
        elsewhere = self.coordinator is not None
        return await self._answers.answered(by, name, caller, elsewhere=elsewhere)

    async def _maker(self, completion: str) -> Made | None:
        return await self._answers.made(completion, elsewhere=self.coordinator is not None)


async def _trained(home: Home | None, store: Store, route: Route) -> Told:
    """A route trained beside serving, from what is in `home` and the store."""
    assert home is not None  # nothing is trained by itself where no files are followed
    return await trained_beside(
        route.name,
        home.directory,
        store.url,
        home.env,
        home.environment,
        over_all=route.train_over_all,
    )


def _spool(cache: Path | None, store: Store, server: Server) -> Spool | None:
    """Where rows wait for this store; those of another are not its own."""
    if cache is None or not server.spool:
        return None
    return Spool(cache / "spool" / sha256(store.name.encode()).hexdigest()[:8], bound=server.spool)
