"""How long compositions take: what decisions say of 95 in 100 requests is what 95 in 100 take."""

import re

import numpy as np
import pytest

from gateway.policy.composed import composed
from gateway.policy.decide import decide
from gateway.policy.lasting import SIGMA, lasts
from gateway.policy.live import Live
from gateway.types.backends import Target
from gateway.types.compositions import Check, Composition, Judge, Step
from gateway.types.policies import Limits
from gateway.types.records import Usage
from tests.policy.world import policy, question, route, snapshot, target

SMALL = target("a/small", first_token_s=0.1, tokens_per_s=2000)
LARGE = target("b/large", first_token_s=2.0, tokens_per_s=50)
ADAPTED = target("c/base+law", internal=True, first_token_s=0.1, tokens_per_s=2000)
TARGETS = {each.name: each for each in (SMALL, LARGE, ADAPTED)}
TWO = (Step("1", SMALL.name), Step("2", LARGE.name))
JUDGED = Step("1", SMALL.name, (Check("judge", judge=Judge(SMALL.name, "Right.")),))
KINDS = {
    "seldom": Composition("x", "cascade", TWO, escalates=0.1),
    "hardly": Composition("x", "cascade", TWO, escalates=0.02),
    "often": Composition("x", "cascade", TWO, escalates=0.5),
    "judged": Composition("x", "cascade", (JUDGED, TWO[1]), escalates=0.2),
    "chain": Composition("x", "chain", (*TWO, Step("3", SMALL.name))),
    "voted": Composition("x", "best_of", (TWO[1],), samples=3),
    "chosen": Composition("x", "best_of", TWO, judge=Judge(LARGE.name, "Right.")),
}
REQUESTS = 20_000


class World:
    """Requests to a composition, one by one: what each call takes is drawn by itself."""

    def __init__(self, kind: Composition, seed: int, escalates: float | None = None) -> None:
        self.rng = np.random.default_rng(seed)
        self.kind = kind
        self.escalates = kind.escalates if escalates is None else escalates

    def call(self, name: str) -> tuple[float, float]:
        first, more = self.rng.lognormal(-(SIGMA**2) / 2, SIGMA, 2)
        one = TARGETS[name]
        first *= one.first_token_s
        return float(first), float(first + more * one.output_tokens / one.tokens_per_s)

    def request(self) -> tuple[float, float]:
        """Seconds to the first token and in all."""
        kind = self.kind
        if kind.kind == "best_of":
            whole = max(self.call(s.target)[1] for s in kind.steps for _ in range(kind.samples))
            if kind.judge is not None:
                marks = len(kind.steps) * kind.samples
                whole += max(self.call(kind.judge.target)[1] for _ in range(marks))
            return whole, whole
        waited = 0.0
        for step in kind.steps[:-1]:
            waited += self.call(step.target)[1]
            for check in step.checks:
                assert check.judge is not None
                waited += self.call(check.judge.target)[1]
            if kind.kind == "cascade" and self.rng.random() >= self.escalates:
                return waited, waited
        first, whole = self.call(kind.steps[-1].target)
        return waited + first, waited + whole


def p95(world: World) -> tuple[float, float]:
    first, whole = zip(*(world.request() for _ in range(REQUESTS)), strict=True)
    return float(np.quantile(first, 0.95)), float(np.quantile(whole, 0.95))


def told(found: Target, live: Live) -> tuple[float, float]:
    """What a decision takes for its 95th percentiles."""
    limits = Limits(first_token_p95=1e-6, whole_p95=1e-6)
    config = snapshot([route([(found.name, 0.9)])], [found], policy(limits=limits))
    (out,) = decide(question(), config, live, 0.5).ruled_out
    first, whole = re.findall(r"p95 ([\d.]+) s", out.reason)
    return float(first), float(whole)


@pytest.mark.parametrize("name", KINDS)
def test_what_is_declared_of_the_steps_says_what_the_whole_takes(name: str) -> None:
    kind = KINDS[name]
    found = composed(kind, TARGETS)
    world = World(kind, 3)
    first, whole = np.mean([world.request() for _ in range(REQUESTS)], axis=0)
    times = lasts(kind, TARGETS)
    assert times.first_s == pytest.approx(first, rel=0.04)
    assert times.whole_s == pytest.approx(whole, rel=0.04)
    assert told(found, Live()) == pytest.approx(p95(World(kind, 4)), rel=0.06)


def test_a_slow_step_that_one_in_ten_asks_is_what_the_slowest_in_ten_wait_for() -> None:
    """Why percentiles are not a multiple of the mean: the slow step is one request's in ten."""
    times = lasts(KINDS["seldom"], TARGETS)
    assert times.first_tail > 4.5
    assert times.whole_tail > 6.5
    assert lasts(KINDS["hardly"], TARGETS).first_tail < 2.5


@pytest.mark.parametrize("name", ["often", "seldom", "hardly", "chain", "voted"])
def test_what_was_measured_takes_the_place_of_what_was_declared_wrongly(name: str) -> None:
    """Declared is an escalation in four; what comes is another share, and steps half as fast."""
    kind = KINDS[name]
    declared = Composition("x", kind.kind, kind.steps, escalates=0.25, samples=kind.samples)
    faster = {
        key: target(key, first_token_s=one.first_token_s / 2, tokens_per_s=2 * one.tokens_per_s)
        for key, one in TARGETS.items()
    }
    found = composed(declared, faster)
    live, world = Live(), World(kind, 6)
    seen: list[tuple[float, float]] = []
    config = snapshot([route([(found.name, 0.9)])], [found], policy())
    for n in range(3000):
        now = 10.0 * n / 100
        expected = decide(question(), config, live, 0.5).ranked[0].total_s
        first, whole = world.request()
        flight = live.started(found, found.replicas[0], "work", now)
        live.first_token(flight, now + first)
        live.finished(flight, now + whole, Usage(10, 200))
        spent = live.cost_of("work", declared, found.whole_tail)
        spent.saw(1.0, 1.0, more=False, now=now)
        spent.lasted(whole, expected)
        if n >= 1000 and n % 20 == 0:
            seen.append(told(found, live))
    wanted = p95(World(kind, 7))
    assert np.mean(seen, axis=0) == pytest.approx(wanted, rel=0.3)


def test_an_adapter_that_may_have_to_be_loaded_is_in_it() -> None:
    steps = (Step("1", ADAPTED.name), Step("2", LARGE.name))
    kind = Composition("x", "cascade", steps, escalates=0.1)
    found = composed(kind, TARGETS)

    def of(loaded: float) -> tuple[float, float]:
        live = Live()
        live.resident(ADAPTED, ADAPTED.replicas[0], loaded, load_s=3.0)
        return told(found, live)

    there, away = of(1.0), of(0.5)
    assert away == pytest.approx((there[0] + 3.0, there[1] + 3.0), rel=0.01)


def test_a_step_that_has_become_slow_is_in_it() -> None:
    kind = KINDS["chain"]
    found = composed(kind, TARGETS)
    live = Live()
    before = told(found, live)
    for second in range(30):
        flight = live.started(SMALL, SMALL.replicas[0], "work", float(second))
        live.first_token(flight, second + 5.0)
        live.finished(flight, second + 5.1, Usage(10, 200))
    assert told(found, live)[0] > before[0] + 5.0
