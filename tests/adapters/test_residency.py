"""What a replica holds: vLLM's own order of use, others' use learnt from how long things took."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.residency import Residency
from gateway.adapters.whereabouts import Whereabouts
from gateway.policy.live import Live
from gateway.types.backends import Capabilities, Price, Shaping, Target
from gateway.types.records import Usage

WARM_S, LOAD_S = 0.05, 0.5


class Truth:
    """The least-recently-used memory of a replica."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.order: dict[str, None] = {}

    def used(self, adapter: str) -> bool:
        """Whether it had to be loaded."""
        cold = adapter not in self.order
        self.order.pop(adapter, None)
        self.order[adapter] = None
        if len(self.order) > self.slots:
            del self.order[next(iter(self.order))]
        return cold


@given(
    slots=st.integers(1, 5),
    uses=st.lists(st.sampled_from("abcdefgh"), max_size=60),
)
def test_alone_it_is_vllms_own_order(slots: int, uses: list[str]) -> None:
    truth, held = Truth(slots), Residency(slots)
    for now, adapter in enumerate(uses):
        assert held.p_resident(adapter, now) == float(adapter in truth.order)
        before = set(truth.order)
        truth.used(adapter)
        gone = before - set(truth.order)
        pushed = held.used(adapter, now)
        assert ({pushed} if pushed is not None else set()) == gone
    assert held.held() == list(reversed(truth.order))


def test_without_a_limit_everything_used_stays() -> None:
    held = Residency(None)
    for n in range(100):
        assert held.used(str(n), n) is None
    assert held.p_resident("0", 1e9) == 1.0
    assert held.p_resident("never used", 0) == 0.0


def test_a_restart_and_an_unload_are_believed() -> None:
    held = Residency(4)
    held.used("a", 0)
    held.used("b", 1)
    held.forgotten("a")
    assert (held.p_resident("a", 2), held.p_resident("b", 2)) == (0.0, 1.0)
    held.restarted()
    assert held.held() == []


def test_time_alone_takes_nothing_away_while_nobody_else_uses_it() -> None:
    held = Residency(2)
    held.used("a", 0)
    assert held.p_resident("a", 1e6) == 1.0


def simulated(
    others_a_second: float, *, slots: int = 8, seconds: float = 4000.0
) -> tuple[float, float]:
    """The rate learnt, and the mean squared error of P(resident) over the last half."""
    random = Random(5)
    truth, held = Truth(slots), Residency(slots)
    now, squares, n = 0.0, 0.0, 0
    foreign = random.expovariate(others_a_second) if others_a_second else float("inf")
    while now < seconds:
        now += random.expovariate(1.0)
        while foreign < now:
            truth.used(f"other-{random.randrange(10_000)}")
            foreign += random.expovariate(others_a_second)
        adapter = f"ours-{min(int(random.paretovariate(1.0)), 12)}"
        said = held.p_resident(adapter, now)
        cold = truth.used(adapter)
        took = random.lognormvariate(0.0, 0.3) * (WARM_S + LOAD_S * cold)
        use = held.use(adapter, now)
        held.used(adapter, now)
        held.observed(use, took, WARM_S, LOAD_S)
        if now > seconds / 2:
            squares += (said - (not cold)) ** 2
            n += 1
    return held.rate, squares / n


@pytest.mark.parametrize("rate", [0.0, 0.2, 1.0])
def test_how_much_others_use_it_is_learnt_from_what_first_tokens_took(rate: float) -> None:
    learnt, error = simulated(rate)
    assert learnt == pytest.approx(rate, rel=0.4, abs=0.02)
    assert error < 0.12


@given(
    first=st.floats(0.0, 1e4),
    warm=st.floats(0.0, 1e3),
    load=st.floats(0.0, 1e3),
    now=st.floats(0.0, 1e6),
)
def test_whatever_was_measured_a_probability_stays_one(
    first: float, warm: float, load: float, now: float
) -> None:
    held = Residency(2)
    held.used("a", 0.0)
    assert 0.0 <= held.observed(held.use("a", now), first, warm, load) <= 1.0
    assert 0.0 <= held.p_resident("a", now) <= 1.0
    assert held.rate >= 0.0


# ---------------------------------------------------------------- from live traffic


def adapter_target(served: str) -> Target:
    return Target(
        name=f"local/qwen+{served}",
        backend="local",
        model="qwen",
        adapter=served,
        served=served,
        internal=True,
        price=Price(),
        capabilities=Capabilities(),
        shaping=Shaping(),
        replicas=(URL,),
        first_token_s=WARM_S,
    )


URL = "http://replica"
TARGETS = {f"ours-{n}": adapter_target(f"ours-{n}") for n in range(13)}


def watched(slots: int) -> tuple[Live, Whereabouts]:
    live = Live()
    whereabouts = live.witnesses["local"] = Whereabouts(live)
    whereabouts.serve([URL], slots, {name: (each,) for name, each in TARGETS.items()}, (), 0.0)
    for name in TARGETS:
        whereabouts.loaded(URL, name, LOAD_S, 0.0)
    return live, whereabouts


def simulated_live(others_a_second: float, *, waiters: int = 1) -> tuple[Live, Whereabouts, float]:
    """An hour of our requests and others' at one replica; and when it ends. Of `waiters` requests
    for an adapter at once each waits for its load."""
    random, now = Random(6), 0.0
    truth = Truth(8)
    live, whereabouts = watched(8)
    foreign = random.expovariate(others_a_second) if others_a_second else float("inf")
    while now < 3600.0:
        now += 2.0 + random.expovariate(1.0)
        while foreign < now:
            truth.used(f"other-{random.randrange(10_000)}")
            foreign += random.expovariate(others_a_second)
        name = f"ours-{min(int(random.paretovariate(1.0)), 12)}"
        flights = []
        for _ in range(waiters):
            flights.append(live.started(TARGETS[name], URL, "route", now))
            whereabouts.used(URL, name, now)
            now += 0.001
        took = random.lognormvariate(0.0, 0.3) * WARM_S + LOAD_S * truth.used(name)
        for flight in flights:
            live.first_token(flight, now + took)
            live.finished(flight, now + took + 0.1, Usage(10, 0, 5))
        whereabouts.refresh(now)
    return live, whereabouts, now


@pytest.mark.parametrize("waiters", [1, 3])
def test_that_others_push_adapters_out_is_seen_in_live_traffic(waiters: int) -> None:
    live, whereabouts, now = simulated_live(0.5, waiters=waiters)
    whereabouts.used(URL, "ours-1", now)
    assert whereabouts.p_resident(URL, "ours-1", now + 1.0) > 0.9
    assert whereabouts.p_resident(URL, "ours-1", now + 60.0) < 0.05
    whereabouts.refresh(now + 60.0)
    estimate = live.estimate(TARGETS["ours-1"], URL)
    assert estimate.load_s > 0.9 * LOAD_S
    # What was loading is not taken for the answer's own time.
    assert estimate.first_s < 2.0 * WARM_S


@pytest.mark.parametrize("waiters", [1, 3])
def test_where_nobody_else_is_nothing_is_suspected(waiters: int) -> None:
    _, whereabouts, now = simulated_live(0.0, waiters=waiters)
    whereabouts.used(URL, "ours-1", now)
    assert whereabouts.p_resident(URL, "ours-1", now + 60.0) > 0.95


def test_an_attempt_without_an_answer_tells_nothing_and_holds_nothing_up() -> None:
    live, whereabouts = watched(8)
    target = TARGETS["ours-1"]
    flight = live.started(target, URL, "route", 100.0)
    whereabouts.used(URL, "ours-1", 100.0)
    live.failed(flight, 130.0)
    before = whereabouts.p_resident(URL, "ours-1", 1000.0)
    assert before == 1.0
    flight = live.started(target, URL, "route", 200.0)
    whereabouts.used(URL, "ours-1", 200.0)
    live.first_token(flight, 200.0 + WARM_S + LOAD_S)
    assert whereabouts.p_resident(URL, "ours-1", 1000.0) < before


def test_what_a_load_pushes_out_is_told_at_once() -> None:
    live, whereabouts = watched(12)  # 13 were loaded, one after the other
    assert live.estimate(TARGETS["ours-0"], URL).loaded == 0.0
    assert live.estimate(TARGETS["ours-1"], URL).loaded == 1.0
    whereabouts.loaded(URL, "ours-0", LOAD_S, 1.0)
    assert live.estimate(TARGETS["ours-1"], URL).loaded == 0.0
