"""What a replica holds: vLLM's own order of use, others' use learnt from how long things took."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.residency import Residency

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
        assert ({pushed} if pushed is not None else set()) == gone - {adapter} or pushed is None
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
        held.observed(adapter, took, WARM_S, LOAD_S, now)
        held.used(adapter, now)
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
    assert 0.0 <= held.observed("a", first, warm, load, now) <= 1.0
    assert 0.0 <= held.p_resident("a", now) <= 1.0
    assert held.rate >= 0.0
