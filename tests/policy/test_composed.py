"""What a composition is expected to cost and to last, and how that is learned."""

import pytest

from gateway.policy.composed import composed
from gateway.policy.decide import decide
from gateway.policy.live import Live
from gateway.types.backends import Capabilities, Target
from gateway.types.compositions import Composition, Judge, Step
from gateway.types.records import Usage
from tests.policy.world import policy, question, route, snapshot, target

SMALL = target("a/small", input_price=1e-6, output_price=2e-6, first_token_s=0.1, tokens_per_s=200)
LARGE = target("b/large", input_price=1e-5, output_price=4e-5, first_token_s=0.5, tokens_per_s=100)
TARGETS = {each.name: each for each in (SMALL, LARGE)}
CASCADE = Composition(
    "two", "cascade", (Step("1", "a/small"), Step("2", "b/large")), escalates=0.25
)


def cost(found: Target, tokens: int = 1000) -> float:
    return tokens * found.price.input + found.output_tokens * found.price.output


def test_a_cascade_costs_the_first_step_and_its_share_of_the_second() -> None:
    assert cost(composed(CASCADE, TARGETS)) == pytest.approx(cost(SMALL) + 0.25 * cost(LARGE))


def test_a_chain_costs_every_step_and_the_best_of_several_every_sample_and_mark() -> None:
    chain = Composition("c", "chain", CASCADE.steps)
    assert cost(composed(chain, TARGETS)) == pytest.approx(cost(SMALL) + cost(LARGE))
    several = Composition(
        "s", "best_of", CASCADE.steps[:1], samples=3, judge=Judge("b/large", "Right.")
    )
    assert cost(composed(several, TARGETS)) == pytest.approx(3 * cost(SMALL) + 3 * cost(LARGE))


def test_only_the_last_step_of_a_chain_is_seen_as_it_comes() -> None:
    chain = composed(Composition("c", "chain", CASCADE.steps), TARGETS)
    assert chain.first_token_s == pytest.approx(0.1 + 200 / 200 + 0.5)
    assert chain.output_tokens / chain.tokens_per_s == pytest.approx(200 / 100)


def test_it_can_take_what_all_steps_can() -> None:
    narrow = target("c/narrow", capabilities=Capabilities(context=500, tools=False, vision=True))
    steps = (Step("1", "c/narrow"), Step("2", "b/large"))
    found = composed(Composition("n", "cascade", steps), {**TARGETS, "c/narrow": narrow})
    can = found.capabilities
    assert (can.context, can.tools, can.vision, can.json_schema) == (500, False, False, True)
    assert can.endpoints == {"chat/completions"}


def test_what_it_has_cost_is_a_multiple_of_what_was_expected_and_forgets() -> None:
    found = composed(CASCADE, TARGETS)
    config = snapshot(
        [route([(found.name, 0.9), ("b/large", 0.9)])], [SMALL, LARGE, found], policy()
    )
    live = Live()
    first = decide(question(), config, live, 0.5).ranked[0]
    spent = live.cost_of("work", CASCADE)
    for second in range(200):
        spent.saw(0.0005, 0.001, more=second % 10 == 0, now=float(second))
    later = decide(question(), config, live, 0.5).ranked[0]
    assert later.cost == pytest.approx(first.cost / 2, rel=0.05)
    assert later.further == pytest.approx(0.1, abs=0.03)
    for second in range(200, 203):
        spent.saw(0.001, 0.001, more=True, now=4000.0 + second)
    again = decide(question(), config, live, 0.5).ranked[0]
    assert again.cost == pytest.approx(first.cost, rel=0.05)


def test_costs_begin_anew_where_it_is_declared_otherwise() -> None:
    live = Live()
    live.cost_of("work", CASCADE).saw(1.0, 0.1, more=True, now=1.0)
    same = Composition("two", "cascade", CASCADE.steps, escalates=0.25)
    assert live.cost_of("work", same).seen == 1.0
    other = Composition("two", "cascade", CASCADE.steps, escalates=0.5)
    assert (live.cost_of("work", other).seen, live.cost_of("work", other).mean) == (0.0, 1.0)


def test_it_is_no_sooner_than_the_step_that_it_begins_with() -> None:
    """What was measured of a step counts for a composition that was not measured itself."""
    found = composed(CASCADE, TARGETS)
    config = snapshot(
        [route([(found.name, 0.9), ("b/large", 0.9)])], [SMALL, LARGE, found], policy()
    )
    live = Live()
    before = decide(question(), config, live, 0.5).ranked
    assert {choice.target for choice in before} == {found.name, "b/large"}
    for second in range(20):
        flight = live.started(SMALL, SMALL.replicas[0], "work", float(second))
        live.first_token(flight, second + 3.0)
        live.finished(flight, second + 4.0, Usage(10, 200))
    (slow,) = (c for c in decide(question(), config, live, 0.5).ranked if c.target == found.name)
    (quick,) = (choice for choice in before if choice.target == found.name)
    assert slow.first_token_s > quick.first_token_s + 2.0


def test_an_adapter_that_its_first_step_has_to_load_is_waited_for() -> None:
    adapted = target("a/small+law", internal=True)
    cascade = Composition("law", "cascade", (Step("1", adapted.name), Step("2", "b/large")))
    found = composed(cascade, {**TARGETS, adapted.name: adapted})
    config = snapshot([route([(found.name, 0.9)])], [adapted, LARGE, found], policy())
    live = Live()

    def first_token_s(loaded: float) -> float:
        live.resident(adapted, adapted.replicas[0], loaded, load_s=2.0)
        return decide(question(), config, live, 0.5).ranked[0].first_token_s

    assert first_token_s(0.0) == pytest.approx(first_token_s(1.0) + 2.0)
