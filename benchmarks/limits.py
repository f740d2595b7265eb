"""What limits add to a request: CPU in process, and with Redis, all limits of three accounts on.

    python -m benchmarks.limits [--redis redis://127.0.0.1:6379]

In process it is timed alone. With Redis, `CONCURRENT` requests are let in and settled at a time, as
a loaded worker does, and the CPU time of this process is divided by their number; what an event
loop costs that does the same with a limiter that is off is taken away.
"""

import argparse
import asyncio
import time
from collections.abc import Mapping

import msgspec

from gateway.coordination.coordinator import Coordinator
from gateway.limits.accounts import Account, Budget
from gateway.limits.alerts import Alarm
from gateway.limits.limiter import Limiter
from gateway.limits.shared import SharedLimits
from gateway.policy.live import Live
from gateway.types.backends import Capabilities, Price, Shaping, Target
from gateway.types.decisions import Choice, Decision
from gateway.types.limits import Quota, Quotas, Rate
from gateway.types.policies import Policy
from gateway.types.requests import Caller, Endpoint, Needs, Request
from gateway.types.routes import Candidate, Match, Route
from gateway.types.snapshot import Server, Snapshot

CONCURRENT = 64
TIMES = 20_000
EVERYTHING = Quota(Rate(10**9, 60), Rate(10**12, 60), 10**6, 10**6, 10**7)


class Nobody:
    """Nobody is told of anything."""

    def passed(self, account: Account, period: str, budget: Budget) -> float:
        """Never again."""
        return float("inf")


async def nothing_spent(*_: float) -> Mapping[str, tuple[int, int]]:
    """Of anything, before."""
    return {}


def asked() -> tuple[Request, Decision, Snapshot]:
    """A request of a key and a tenant on a route, each with all limits, and three candidates."""
    names = ("a/one", "b/two", "b/three")
    price = Price(1e-6, 1e-7, 4e-6)
    targets = {
        name: Target(
            name, name[0], name[2:], None, "m", False, price, Capabilities(), Shaping(), ("x",)
        )
        for name in names
    }
    candidates = tuple(Candidate(name, 0.9) for name in names)
    route = Route("r", "", 0.1, False, Match(), candidates, "p", quota=EVERYTHING)
    quotas = Quotas(every_key=EVERYTHING, every_tenant=EVERYTHING)
    snapshot = Snapshot(
        "h", Server(), "r", {}, {"r": route}, {"p": Policy("p")}, targets, {}, quotas=quotas
    )
    fields = {
        name: msgspec.Raw(b'"some value of a usual length"')
        for name in ("model", "messages", "temperature", "max_tokens", "stream", "stop")
    }
    request = Request(
        "req_1",
        Endpoint.CHAT,
        "auto",
        False,
        fields,
        {},
        Caller("key_1", "app", "acme"),
        Needs(input_tokens=100, max_output=200),
        size=400,
    )
    ranked = tuple(Choice(name, "x", n, 0.9, 0.001, 0.1, 1.0, 0.05) for n, name in enumerate(names))
    return request, Decision("r", "p", "h", ranked, (), 0.5), snapshot


def limiter() -> Limiter:
    """As a gateway has it."""
    alarm: Alarm = Nobody()
    return Limiter(
        Live(),
        spent=nothing_spent,
        clock=time.perf_counter,
        now=time.time,
        refused=lambda whose, what: None,
        alarm=alarm,
    )


async def in_process() -> float:
    """Microseconds of a request that is let in and settled."""
    request, decision, snapshot = asked()
    limits = limiter()
    limits.declare(snapshot, [request.caller])
    await limits.know()
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(TIMES):
            hold = limits.admit(request, decision, snapshot)
            assert hold is not None
            hold.settle(250, 0.0005, time.perf_counter())
        best = min(best, time.perf_counter() - began)
    return best / TIMES * 1e6


async def with_redis(url: str) -> tuple[float, float]:
    """Microseconds of CPU of a request, and the requests in a round trip."""
    request, decision, snapshot = asked()
    coordinator = Coordinator(url, name="bench", timeout_s=5.0)
    limits = limiter()
    limits.declare(snapshot, [request.caller])
    shared = SharedLimits(
        coordinator, worker="bench", accounts=limits.accounts, spent=nothing_spent, now=time.time
    )
    limits.share(shared, 1)
    await coordinator.start()
    shared.start()
    while not shared.seeded:  # noqa: ASYNC110
        await asyncio.sleep(0.05)

    async def one() -> None:
        for _ in range(TIMES // CONCURRENT // 4):
            hold = await limits.admit_shared(request, decision, snapshot)
            assert hold is not None
            await asyncio.sleep(0)
            hold.settle(250, 0.0005, time.perf_counter())

    async def idle() -> None:
        for _ in range(TIMES // CONCURRENT // 4):
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    await asyncio.gather(*(one() for _ in range(CONCURRENT)))  # warm, and known in Redis
    best, floor = float("inf"), float("inf")
    count = TIMES // CONCURRENT // 4 * CONCURRENT
    trips = coordinator.state.trips
    by_share = limits.by_share
    for _ in range(3):
        began = time.process_time()
        await asyncio.gather(*(one() for _ in range(CONCURRENT)))
        best = min(best, time.process_time() - began)
        began = time.process_time()
        await asyncio.gather(*(idle() for _ in range(CONCURRENT)))
        floor = min(floor, time.process_time() - began)
    assert limits.by_share == by_share, "Redis was away"
    per_trip = 3 * count / (coordinator.state.trips - trips)
    await shared.stop()
    await coordinator.stop()
    return (best - floor) / count * 1e6, per_trip


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--redis", help="URL of a Redis that may be written to")
    options = parser.parse_args()
    print(f"in process: {asyncio.run(in_process()):.1f} us a request")
    if options.redis:
        micros, per_trip = asyncio.run(with_redis(options.redis))
        print(f"with Redis: {micros:.1f} us of CPU a request, {per_trip:.0f} in a round trip")


if __name__ == "__main__":
    main()
