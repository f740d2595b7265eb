"""Models that share a GPU by vLLM's sleep mode: one is awake, and requests wait for the others.

A request that reaches a sleeping server hangs while `/health` says 200, so none is ever sent to
one: it waits here, in a bounded queue, until its model was woken. A model is put to sleep only when
none of its requests runs, and is woken for those that wait:

    when it was idle for as long as a swap takes    so that between two requests of one client
                                                    nothing is swapped to and fro
    after its turn (`stay`)                         from then on its new requests wait, too

The first is the ski rental's rule: at most twice what knowing the future would cost (Karlin et al.
1988).

Whether waiting is worth it is the objective's to say; it is told how long it would take, and what
those lose whose model is put to sleep. With T = stay + swap the time for which that is away, its
requests come at a rate r meanwhile, wait T / 2 on average, and then for the swap back:

    others lose = r x T x (T / 2 + swap)

Only sleep level 1 is used: level 2 discards the weights, and waking does not bring them back.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import httpx
import msgspec

from gateway.adapters.demand import Demand
from gateway.adapters.engine import read
from gateway.backends.base import Backend, Call
from gateway.errors import ModelAway
from gateway.policy.live import Live
from gateway.transport.base import Reply, Sink
from gateway.types.backends import Backend as Declared
from gateway.types.backends import Turns

log = logging.getLogger("switchboard.turns")

LOOK_EVERY_S = 1.0
POLL_S = 0.05
ASK_TIMEOUT_S = 5.0
SWAP_TIMEOUT_S = 120.0
"""Weights of 100 GB are copied to the CPU and back in less."""
AWAY_LOOKS = 3
"""Looks in a row that a server does not answer before another may have its GPU."""
NEWS = 0.3
"""Weight of the newest measurement of a swap or a request."""
MEND = "start vLLM with --enable-sleep-mode and VLLM_SERVER_DEV_MODE=1, as `switchboard up` does"


class Refused(Exception):
    """A server did not do what it was told to; the text says why."""


# ---------------------------------------------------------------- decisions


def next_turn(
    awake: str | None,
    awake_for_s: float,
    idle_for_s: float | None,
    waits_s: Mapping[str, float],
    stay_s: float,
    swap_s: float,
) -> tuple[str | None, float]:
    """Which server to wake now, if any, and after how many seconds to ask again if not.

    `idle_for_s` is how long the awake one has had nothing to do, None where it has something;
    `waits_s` how long the first request at each server has waited.
    """
    others = {url: waited for url, waited in waits_s.items() if url != awake}
    if not others:
        return None, float("inf")
    longest = max(others, key=lambda url: (others[url], url))
    left_s = stay_s - awake_for_s
    if idle_for_s is not None:
        left_s = min(left_s, swap_s - idle_for_s)
    return (longest, 0.0) if awake is None or left_s <= 0.0 else (None, left_s)


def others_lose(rate: float, stay_s: float, swap_s: float) -> float:
    """The seconds that requests lose, coming `rate` a second, whose model is put to sleep."""
    away_s = stay_s + swap_s
    return rate * away_s * (away_s / 2.0 + swap_s)


# ---------------------------------------------------------------- one GPU


class _Waiting(msgspec.Struct):
    woken: "asyncio.Future[None]"
    since: float


class Gpu:
    """One GPU: which of its servers is awake, what runs there, and who waits for which."""

    def __init__(
        self,
        servers: Sequence[str],
        turns: Turns,
        live: Live,
        client: httpx.AsyncClient,
        *,
        clock: Callable[[], float],
        headers: Mapping[str, str],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.awake: str | None = None
        self._turns = turns
        self._live = live
        self._client = client
        self._clock = clock
        self._sleep = sleep
        self._headers = dict(headers)
        self._since = clock()
        self._idle_since = float("-inf")
        self._closing = False
        self._running = dict.fromkeys(servers, 0)
        self._waiting: dict[str, deque[_Waiting]] = {url: deque() for url in servers}
        self._missed = dict.fromkeys(servers, 0)
        self._changed = asyncio.Event()
        self._work: asyncio.Task[None] | None = None
        self._demand = Demand()
        self._swap_s = turns.swap
        self._drain_s = 0.0
        self._complaint = ""
        self._publish()

    @property
    def waiting(self) -> int:
        """Requests that wait for a model to wake."""
        return sum(len(each) for each in self._waiting.values())

    def declare(self, turns: Turns) -> None:
        """From now on it is shared on these terms."""
        self._turns = turns

    def enter_if_awake(self, server: str) -> bool:
        """Whether something may be sent to the server now; then `leave` has to follow."""
        if server != self.awake or self._closing:
            return False
        self._running[server] += 1
        return True

    async def enter(self, server: str) -> None:
        """Back when a request may be sent to the server; then `leave` has to follow.

        Raises ModelAway where too many wait already, or its turn does not come in time.
        """
        self._demand.asked(server, self._clock())
        if self.enter_if_awake(server):
            return
        if self.waiting >= self._turns.queue:
            raise ModelAway(
                f"sleeps, and {self._turns.queue} requests wait at its GPU already",
                self._wake_s(server),
                at=server,
            )
        waiting = _Waiting(asyncio.get_running_loop().create_future(), self._clock())
        self._waiting[server].append(waiting)
        self._begin()
        try:
            async with asyncio.timeout(self._turns.wait):
                await waiting.woken
        except BaseException as error:
            if waiting in self._waiting[server]:
                self._waiting[server].remove(waiting)
            elif _granted(waiting.woken):
                self.leave(server)  # it was let in, and then given up
            self._tell()
            if isinstance(error, TimeoutError):
                raise ModelAway(
                    f"sleeps, and its turn did not come within {self._turns.wait:g} s",
                    self._wake_s(server),
                    at=server,
                ) from None
            raise

    def leave(self, server: str, seconds: float | None = None) -> None:
        """What was let in has ended, after `seconds`."""
        self._running[server] -= 1
        if seconds is not None:
            self._drain_s += NEWS * (seconds - self._drain_s)
        if not self._running[server]:
            self._idle_since = self._clock()
            self._tell()

    async def look(self) -> None:
        """Sees who is awake, as somebody else may have changed that, and tells the estimates."""
        if not self._closing:
            asleep = {url: await self._is_asleep(url) for url in self._running}
            if not self._closing:
                self._found(asleep)
        self._publish()

    async def stop(self) -> None:
        """Ends a swap under way; whoever waits is told."""
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        for server in self._waiting:
            self._turn_away(server, "the gateway ends")

    # ------------------------------------------------------------ who is awake

    def _found(self, asleep: Mapping[str, bool | None]) -> None:
        """`asleep` says of each server whether it sleeps; None where it does not answer."""
        for url, sleeps in asleep.items():
            self._missed[url] = self._missed[url] + 1 if sleeps is None else 0
        if self.awake is not None:
            if asleep[self.awake]:
                log.warning("%s was put to sleep by somebody else", self.awake)
                self.awake = None
            elif self._missed[self.awake] >= AWAY_LOOKS:
                log.warning("%s does not answer: its GPU is given to others", self.awake)
                self.awake = None
        if self.awake is None:
            found = [url for url, sleeps in asleep.items() if sleeps is False]
            # One that has requests running is the one that is to stay.
            self.awake = max(found, key=lambda url: self._running[url], default=None)
            if self.awake is not None:
                self._woke(self.awake)
        too_many = [u for u, sleeps in asleep.items() if sleeps is False and u != self.awake]
        stranded = self.awake is None and any(self._running.values())
        if too_many or stranded or any(self._waiting.values()):
            self._begin(too_many)

    def _begin(self, too_many: Iterable[str] = ()) -> None:
        self._tell()
        self._publish()
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._take_turns(list(too_many)))
            self._work.add_done_callback(_log_failure)

    async def _take_turns(self, too_many: Sequence[str]) -> None:
        """Wakes one after the other for as long as anybody waits."""
        for server in too_many:
            await self._quietly_to_sleep(server)
        while True:
            now = self._clock()
            waits = {url: now - each[0].since for url, each in self._waiting.items() if each}
            if self.awake is None:  # requests that hang at one that somebody put to sleep
                waits |= {url: float("inf") for url, running in self._running.items() if running}
            if not waits:
                return
            turn, again_s = next_turn(
                self.awake,
                now - self._since,
                self._idle_for(now),
                waits,
                self._turns.stay,
                self._swap_s,
            )
            self._changed.clear()
            if turn is None:
                if again_s == float("inf"):
                    return
                await self._news(again_s)
                continue
            try:
                await self._swap(turn)
            except (httpx.HTTPError, Refused) as error:
                why = f"could not be woken: {error or type(error).__name__}"
                log.error("%s %s", turn, why)
                self._turn_away(turn, why)
                await self._sleep(POLL_S)

    async def _swap(self, server: str) -> None:
        """Puts the awake one to sleep when it has nothing to do any more, and wakes `server`."""
        self._closing = True
        self._publish()
        before = self.awake
        try:
            if before is not None:
                while self._running[before]:
                    self._changed.clear()
                    await self._news(float("inf"))
                if not self._waiting[server]:
                    return  # they have all gone away meanwhile
                await self._until_idle(before)
            began = self._clock()
            if before is not None:
                await self._to_sleep(before)
            await self._tell_server(server, "/wake_up", asleep=False)
            seconds = self._clock() - began
            self._swap_s += NEWS * (seconds - self._swap_s)
            log.info("%s is awake after %.2f s; %s sleeps", server, seconds, before or "nobody")
            self.awake = server
        finally:
            self._closing = False
            if self.awake is not None:
                self._woke(self.awake, anew=self.awake != before)
            self._publish()

    async def _to_sleep(self, server: str) -> None:
        """Until it is known that it does not sleep, nothing is sent to it."""
        self.awake = None
        try:
            await self._tell_server(server, "/sleep?level=1", asleep=True)
        except (httpx.HTTPError, Refused):
            if await self._is_asleep(server) is False:
                self.awake = server
            raise

    def _woke(self, server: str, *, anew: bool = True) -> None:
        """Lets in whoever waits for it."""
        if anew:
            self._since = self._clock()
            self._live.woke(server, self._since)
        waiting = self._waiting[server]
        while waiting:
            each = waiting.popleft()
            if not each.woken.done():
                self._running[server] += 1
                each.woken.set_result(None)

    def _turn_away(self, server: str, why: str) -> None:
        waiting = self._waiting[server]
        while waiting:
            each = waiting.popleft()
            if not each.woken.done():
                each.woken.set_exception(ModelAway(why, at=server))

    def _idle_for(self, now: float) -> float | None:
        """Seconds for which the awake one has had nothing to do; None where it has something."""
        if self.awake is not None and self._running[self.awake]:
            return None
        return now - self._idle_since

    async def _news(self, within_s: float) -> None:
        try:
            async with asyncio.timeout(within_s if within_s < float("inf") else None):
                await self._changed.wait()
        except TimeoutError:
            return

    def _tell(self) -> None:
        self._changed.set()

    # ------------------------------------------------------------ what is expected

    def _publish(self) -> None:
        now = self._clock()
        rates = self._demand.rates(now)
        for url in self._running:
            asleep = url != self.awake
            others = 0.0
            if asleep and self.awake is not None and not self._closing and not self._waiting[url]:
                rate = rates.get(self.awake, 0.0)
                others = others_lose(rate, self._turns.stay, self._swap_s)
            self._live.server(url).turn(asleep=asleep, wake_s=self._wake_s(url), others_s=others)

    def _wake_s(self, server: str) -> float:
        """Seconds until a request at the server would be sent."""
        if server == self.awake and not self._closing:
            return 0.0
        until_swap = 0.0
        if self.awake is not None:
            now = self._clock()
            idle_for_s = self._idle_for(now)
            drain_s = self._drain_s if idle_for_s is None else 0.0
            turn_s = self._turns.stay - (now - self._since)
            if idle_for_s is not None:
                turn_s = min(turn_s, self._swap_s - idle_for_s)
            until_swap = drain_s + (0.0 if self._closing else max(0.0, turn_s))
        if server == self.awake:  # its turn is over: another has one first
            return until_swap + 2.0 * self._swap_s + self._turns.stay
        return until_swap + self._swap_s

    # ------------------------------------------------------------ asking servers

    async def _tell_server(self, server: str, path: str, *, asleep: bool) -> None:
        """Raises httpx.HTTPError, Refused."""
        answer = await self._client.post(
            f"{server}{path}", headers=self._headers, timeout=SWAP_TIMEOUT_S
        )
        if answer.status_code == 404:
            raise Refused(f"{server} has no sleep mode: {MEND}")
        if not answer.is_success:
            raise Refused(f"{server}{path} answers {answer.status_code}: {answer.text[:300]}")
        until = self._clock() + SWAP_TIMEOUT_S
        while await self._is_asleep(server) is not asleep:
            if self._clock() > until:
                raise Refused(f"{server} does not {'sleep' if asleep else 'wake'}, though told to")
            await self._sleep(POLL_S)

    async def _is_asleep(self, server: str) -> bool | None:
        """None where it does not answer. One without sleep mode is always awake."""
        try:
            answer = await self._client.get(
                f"{server}/is_sleeping", headers=self._headers, timeout=ASK_TIMEOUT_S
            )
            if answer.status_code == 404:
                return False
            answer.raise_for_status()
            return _sleeping.decode(answer.content).is_sleeping
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            log.debug("%s does not say whether it sleeps: %s", server, error)
            return None

    async def _until_idle(self, server: str) -> None:
        """Others may use the server, too: their requests end first. Raises Refused."""
        until = self._clock() + self._turns.wait
        while True:
            page = await self._client.get(
                f"{server}/metrics", headers=self._headers, timeout=ASK_TIMEOUT_S
            )
            engine = read(page.text) if page.is_success else None
            if engine is None or not engine.running + engine.waiting:
                return
            if self._clock() > until:
                raise Refused(f"{server} answers others' requests all the time")
            await self._sleep(POLL_S)

    async def _quietly_to_sleep(self, server: str) -> None:
        """One that is awake beside the one that has its turn: a server that has just started."""
        try:
            if not self._running[server]:
                await self._until_idle(server)
                await self._tell_server(server, "/sleep?level=1", asleep=True)
        except (httpx.HTTPError, Refused) as error:
            why = f"{server} could not be put to sleep: {error or type(error).__name__}"
            if why != self._complaint:
                log.error("%s", why)
            self._complaint = why


def _granted(woken: "asyncio.Future[None]") -> bool:
    return woken.done() and not woken.cancelled() and woken.exception() is None


class _Sleeping(msgspec.Struct):
    is_sleeping: bool


_sleeping = msgspec.json.Decoder(_Sleeping)


def _log_failure(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("taking turns failed", exc_info=error)


# ---------------------------------------------------------------- all of them


class Gpus:
    """The GPUs that models share, by their servers; a server of none is always awake."""

    def __init__(
        self, live: Live, client: httpx.AsyncClient, *, clock: Callable[[], float]
    ) -> None:
        self._live = live
        self._client = client
        self._clock = clock
        self._gpus: dict[tuple[str, ...], Gpu] = {}
        self._by_server: dict[str, Gpu] = {}

    async def serve(self, backends: Iterable[Declared]) -> None:
        """From now on these take turns; what stays as it was goes on undisturbed."""
        wanted: dict[tuple[str, ...], tuple[Turns, Declared]] = {}
        for backend in backends:
            if backend.turns is not None:
                wanted |= dict.fromkeys(backend.turns.gpus, (backend.turns, backend))
        for servers in self._gpus.keys() - wanted.keys():
            await self._gpus.pop(servers).stop()
            for server in servers:
                del self._by_server[server]
                self._live.server(server).turn(asleep=False, wake_s=0.0, others_s=0.0)
        new = []
        for servers, (turns, backend) in wanted.items():
            if servers in self._gpus:
                self._gpus[servers].declare(turns)
                continue
            key = backend.api_key
            gpu = self._gpus[servers] = Gpu(
                servers,
                turns,
                self._live,
                self._client,
                clock=self._clock,
                headers={"authorization": f"Bearer {key}"} if key is not None else {},
            )
            self._by_server |= dict.fromkeys(servers, gpu)
            new.append(gpu)
        await asyncio.gather(*(gpu.look() for gpu in new))

    async def run(self) -> None:
        """Looks at every GPU for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.gather(*(gpu.look() for gpu in list(self._gpus.values())))

    async def stop(self) -> None:
        """Ends what is under way."""
        await asyncio.gather(*(gpu.stop() for gpu in self._gpus.values()))

    async def enter(self, server: str) -> None:
        """As `Gpu.enter`. Raises ModelAway."""
        gpu = self._by_server.get(server)
        if gpu is not None:
            await gpu.enter(server)

    def enter_if_awake(self, server: str) -> bool:
        """As `Gpu.enter_if_awake`."""
        gpu = self._by_server.get(server)
        return gpu is None or gpu.enter_if_awake(server)

    def leave(self, server: str) -> None:
        """As `Gpu.leave`."""
        gpu = self._by_server.get(server)
        if gpu is not None:
            gpu.leave(server)

    def of(self, server: str) -> Gpu | None:
        """The GPU that a server shares."""
        return self._by_server.get(server)


class TurnsBackend:
    """A Backend around one whose servers share GPUs: calls are sent to awake ones only."""

    def __init__(self, inner: Backend, gpus: Gpus, clock: Callable[[], float]) -> None:
        self._inner = inner
        self._gpus = gpus
        self._clock = clock

    async def send(self, call: Call) -> Reply:
        gpu = self._gpus.of(call.replica)
        if gpu is None:
            return await self._inner.send(call)
        await gpu.enter(call.replica)
        held = _Held(gpu, call.replica, self._clock)
        try:
            held.reply = await self._inner.send(call)
        except BaseException:
            held.leave()
            raise
        return held


class _Held:
    """An answer that keeps its model awake until it has ended."""

    reply: Reply

    def __init__(self, gpu: Gpu, server: str, clock: Callable[[], float]) -> None:
        self._gpu: Gpu | None = gpu
        self._server = server
        self._clock = clock
        self._began = clock()

    @property
    def status(self) -> int:
        return self.reply.status

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        return self.reply.headers

    async def read(self) -> bytes:
        try:
            piece = await self.reply.read()
        except BaseException:
            self.leave()
            raise
        if not piece:
            self.leave()
        return piece

    async def pump(self, sink: Sink) -> None:
        try:
            await self.reply.pump(sink)
        finally:
            self.leave()

    def abort(self) -> None:
        self.reply.abort()
        self.leave()

    def leave(self) -> None:
        """Its model may sleep, as far as this is concerned."""
        gpu, self._gpu = self._gpu, None
        if gpu is not None:
            gpu.leave(self._server, self._clock() - self._began)
