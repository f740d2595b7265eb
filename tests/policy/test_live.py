"""Live estimates: where they begin, what they learn, what they forget."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.policy.decide import decide
from gateway.policy.estimates import (
    FAILURE_HALF_LIFE_S,
    HALF_LIFE_N,
    HALF_LIFE_S,
    LOAD_S,
    LOADED,
    PRIOR_N,
    TAIL,
    Estimate,
    Failures,
    Output,
    Share,
)
from gateway.policy.live import REFRESH_S, Live
from gateway.types.backends import Target
from gateway.types.records import Usage

from .world import POLICY, ROUTE, laws, policy, question, route, snapshot, target

LOCAL = target("local/qwen", internal=True, replicas=("http://one", "http://two"))
ADAPTED = target("local/qwen+x", internal=True, replicas=("http://one", "http://two"))
FAR = target("openai/mini", first_token_s=0.4, tokens_per_s=100.0)
ONE, TWO, OUT = "http://one", "http://two", "http://openai"


def stream(
    live: Live,
    on: Target,
    replica: str,
    at: float,
    *,
    first: float = 0.1,
    tokens: int = 101,
    per_s: float = 100.0,
    cached: int = 0,
) -> None:
    """One whole stream: its first token after `first` seconds, then `per_s` tokens a second."""
    flight = live.started(on, replica, ROUTE, at)
    live.first_token(flight, at + first)
    usage = Usage(input=100, cached_input=cached, output=tokens)
    live.finished(flight, at + first + (tokens - 1) / per_s, usage)


# ---------------------------------------------------------------- priors


def test_an_estimate_begins_at_what_the_target_declares() -> None:
    estimate = Estimate(FAR)
    assert estimate.first_s == pytest.approx(0.4)
    assert estimate.token_s == pytest.approx(0.01)
    assert estimate.tail == TAIL
    assert (estimate.wait_s, estimate.wait_p95_s, estimate.loaded) == (0.0, 0.0, 1.0)
    assert estimate.weight == 0.0


def test_a_queue_matters_more_at_a_server_of_our_own() -> None:
    assert Estimate(LOCAL).queue_s > Estimate(FAR).queue_s > 0


def test_an_adapter_that_nobody_looked_at_is_probably_there() -> None:
    estimate = Estimate(ADAPTED)
    assert estimate.loaded == LOADED
    assert estimate.wait_s == pytest.approx((1 - LOADED) * LOAD_S)
    assert estimate.wait_p95_s == 0.0


def test_output_begins_at_what_the_target_declares() -> None:
    output = Output(FAR)
    assert (output.mean, output.p95, output.p99) == (200.0, 400.0, 560.0)


# ---------------------------------------------------------------- learning


def test_first_token_and_speed_are_learned() -> None:
    live = Live()
    for i in range(200):
        stream(live, LOCAL, ONE, i * 1.0, first=0.12, per_s=80.0)
    estimate = live.estimates[LOCAL.name, ONE]
    assert estimate.first_s == pytest.approx(0.12, rel=0.15)
    assert estimate.token_s == pytest.approx(1 / 80, rel=0.05)
    assert (LOCAL.name, TWO) not in live.estimates


def test_of_a_plain_answer_the_whole_time_is_learned() -> None:
    live = Live()
    for i in range(300):
        flight = live.started(LOCAL, ONE, ROUTE, i * 5.0)
        live.finished(flight, i * 5.0 + 2.0, Usage(input=100, output=100))
    estimate = live.estimates[LOCAL.name, ONE]
    assert estimate.first_s + 100 * estimate.token_s == pytest.approx(2.0, rel=0.05)


def test_what_a_queue_adds_is_learned() -> None:
    generator = random.Random(7)
    estimate = Estimate(LOCAL)
    for i in range(1000):
        queue = generator.randrange(20)
        estimate.saw_first_token(0.1 + 0.02 * queue, queue, i * 0.5)
    assert estimate.queue_s == pytest.approx(0.02, rel=0.1)
    assert estimate.first_s == pytest.approx(0.1, rel=0.25)


def test_what_a_queue_adds_is_never_nothing() -> None:
    estimate = Estimate(LOCAL)
    for i in range(1000):
        estimate.saw_first_token(1.0 - 0.04 * (i % 20), i % 20, i * 0.5)
    assert estimate.queue_s > 0
    assert estimate.first_s > 0


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.0])
def test_95_of_100_first_tokens_come_before_the_95th_percentile(sigma: float) -> None:
    generator = random.Random(11)
    estimate = Estimate(LOCAL)
    seen = [0.2 * generator.lognormvariate(0, sigma) for _ in range(6000)]
    before = 0
    for i, seconds in enumerate(seen):
        if i >= 1000:
            before += seconds <= estimate.first_s * estimate.tail
        estimate.saw_first_token(seconds, 0, i * 1.0)
    assert before / 5000 == pytest.approx(0.95, abs=0.02)


def test_95_of_100_answers_are_no_longer_than_the_95th_percentile() -> None:
    generator = random.Random(13)
    output = Output(FAR)
    before = 0
    for i in range(6000):
        tokens = int(generator.expovariate(1 / 80)) + 1
        if i >= 1000:
            before += tokens <= output.p95
        output.saw(tokens, i * 1.0)
    assert before / 5000 == pytest.approx(0.95, abs=0.02)
    assert output.mean == pytest.approx(80, rel=0.25)


def test_output_is_learned_by_route_and_target() -> None:
    live = Live()
    stream(live, FAR, OUT, 0.0, tokens=5)
    assert set(live.outputs) == {(ROUTE, FAR.name)}
    assert live.outputs[ROUTE, FAR.name].mean == pytest.approx((PRIOR_N * 200 + 5) / (PRIOR_N + 1))


def test_estimated_usage_teaches_nothing_about_output() -> None:
    live = Live()
    flight = live.started(FAR, OUT, ROUTE, 0.0)
    live.finished(flight, 1.0, Usage(input=10, output=3, estimated=True))
    assert live.outputs == {}


def test_the_cached_share_is_learned_slowly_and_only_where_it_has_a_price() -> None:
    live = Live()
    cheap_cache = target("openai/mini", input_price=1e-6, cached_price=1e-7)
    stream(live, FAR, OUT, 0.0, cached=90)
    assert live.cached == {}
    stream(live, cheap_cache, OUT, 0.0, cached=90)
    assert live.cached[FAR.name].mean == pytest.approx(90 / (100 + PRIOR_N * 100))


def test_the_latest_observations_weigh_most() -> None:
    output = Output(FAR)
    for i in range(1000):
        output.saw(100, float(i))
    for i in range(int(HALF_LIFE_N)):
        output.saw(300, 1000.0 + i)
    assert 200 < output.mean < 280


# ---------------------------------------------------------------- forgetting


def test_what_is_no_longer_seen_goes_back_to_the_prior() -> None:
    live = Live()
    for i in range(100):
        stream(live, LOCAL, ONE, i * 1.0, first=3.0, tokens=900, per_s=10.0)
    estimate, output = live.estimates[LOCAL.name, ONE], live.outputs[ROUTE, LOCAL.name]
    slow, long = estimate.first_s, output.mean
    live.advance(100.0 + HALF_LIFE_S)
    assert 0.5 < estimate.first_s < slow
    assert 200 < output.mean < long
    live.advance(100.0 + 40 * HALF_LIFE_S)
    assert estimate.first_s == pytest.approx(0.5, rel=0.01)
    assert estimate.token_s == pytest.approx(1 / 50, rel=0.01)
    assert estimate.tail == pytest.approx(TAIL, rel=0.01)
    assert output.mean == pytest.approx(200, rel=0.01)


def test_half_of_the_weight_is_gone_after_a_half_life() -> None:
    estimate = Estimate(LOCAL)
    estimate.saw_first_token(1.0, 0, 0.0)
    estimate.fade(HALF_LIFE_S)
    assert estimate.weight == pytest.approx(0.5)


def test_a_clock_that_steps_back_forgets_nothing_and_breaks_nothing() -> None:
    estimate = Estimate(LOCAL)
    estimate.saw_first_token(1.0, 0, 1000.0)
    estimate.fade(10.0)
    assert estimate.weight == pytest.approx(1.0)


def test_advancing_within_a_moment_does_nothing() -> None:
    live = Live()
    stream(live, LOCAL, ONE, 0.0)
    live.advance(10.0)
    weight = live.estimates[LOCAL.name, ONE].weight
    live.advance(10.0 + 0.9 * REFRESH_S)
    assert live.estimates[LOCAL.name, ONE].weight == weight
    live.advance(10.0 + 1.1 * REFRESH_S)
    assert live.estimates[LOCAL.name, ONE].weight < weight


def test_what_left_the_configuration_is_forgotten() -> None:
    live = Live()
    for on, replica in ((LOCAL, ONE), (LOCAL, TWO), (FAR, OUT)):
        stream(live, on, replica, 0.0)
    live.incumbents[ROUTE, POLICY] = FAR.name
    live.keep([target("local/qwen", internal=True, replicas=(ONE,))])
    assert set(live.estimates) == {(LOCAL.name, ONE)}
    assert set(live.outputs) == {(ROUTE, LOCAL.name)}
    assert set(live.replicas) == {ONE}
    assert live.incumbents == {}


def test_what_stays_takes_its_new_declaration_and_keeps_what_was_seen() -> None:
    live = Live()
    stream(live, FAR, OUT, 0.0, first=0.1, tokens=100)
    estimate, output = live.estimates[FAR.name, OUT], live.outputs[ROUTE, FAR.name]
    first, mean = estimate.first_s, output.mean
    live.keep([target("openai/mini", first_token_s=4.0, tokens_per_s=1.0, output_tokens=900)])
    assert live.estimates[FAR.name, OUT] is estimate
    assert first < estimate.first_s < 4.0
    assert mean < output.mean < 900
    assert estimate.token_s > 0.3


def test_a_replica_that_still_works_on_something_is_kept() -> None:
    live = Live()
    flight = live.started(FAR, OUT, ROUTE, 0.0)
    live.keep([LOCAL])
    assert live.replicas[OUT].in_flight == 1
    live.finished(flight, 1.0, Usage())
    live.keep([LOCAL])
    assert live.replicas == {}


# ---------------------------------------------------------------- in flight


def test_requests_in_flight_are_counted_by_replica_over_all_targets() -> None:
    live = Live()
    base = live.started(LOCAL, ONE, ROUTE, 0.0)
    adapted = live.started(ADAPTED, ONE, ROUTE, 0.0)
    other = live.started(LOCAL, TWO, ROUTE, 0.0)
    assert (base.queue, adapted.queue, other.queue) == (0, 1, 0)
    assert (live.replicas[ONE].in_flight, live.replicas[TWO].in_flight) == (2, 1)
    live.abandoned(adapted)
    live.finished(base, 1.0, Usage(output=10))
    live.failed(other, 1.0)
    assert (live.replicas[ONE].in_flight, live.replicas[TWO].in_flight) == (0, 0)


@laws
@given(st.lists(st.tuples(st.sampled_from("sfxau"), st.integers(0, 5)), max_size=40))
def test_in_flight_is_what_was_started_and_has_not_ended(steps: list[tuple[str, int]]) -> None:
    live, under_way, now = Live(), [], 0.0
    for step, which in steps:
        now += 1.0
        if step == "s":
            under_way.append(live.started(LOCAL, ONE, ROUTE, now))
        elif under_way:
            flight = under_way.pop(which % len(under_way))
            if step == "f":
                live.finished(flight, now, Usage(output=which))
            elif step == "a":
                live.abandoned(flight)
            else:
                live.failed(flight, now, connected=step == "x")
        server = live.replicas.get(ONE)
        assert (0 if server is None else server.in_flight) == len(under_way)


def test_only_the_first_token_is_the_first() -> None:
    live = Live()
    flight = live.started(LOCAL, ONE, ROUTE, 0.0)
    live.first_token(flight, 0.2)
    live.first_token(flight, 0.9)
    assert flight.first_s == pytest.approx(0.2)
    assert live.estimates[LOCAL.name, ONE].weight == 1.0


def test_an_abandoned_request_teaches_nothing() -> None:
    live = Live()
    live.abandoned(live.started(LOCAL, ONE, ROUTE, 0.0))
    estimate = live.estimates[LOCAL.name, ONE]
    assert (estimate.weight, estimate.wait_s) == (0.0, 0.0)


@laws
@given(
    st.lists(
        st.tuples(st.floats(0.001, 1000), st.integers(0, 200), st.integers(0, 10**6)), max_size=30
    )
)
def test_estimates_stay_finite_and_positive_whatever_is_seen(
    seen: list[tuple[float, int, int]],
) -> None:
    live, now = Live(), 0.0
    for seconds, queued, tokens in seen:
        flights = [live.started(LOCAL, ONE, ROUTE, now) for _ in range(queued % 4 + 1)]
        now += seconds
        for flight in flights:
            live.finished(flight, now, Usage(input=queued, cached_input=queued, output=tokens))
        estimate, output = live.estimates[LOCAL.name, ONE], live.outputs[ROUTE, LOCAL.name]
        for value in (estimate.first_s, estimate.queue_s, estimate.token_s, output.mean):
            assert 0 < value < float("inf")
        assert estimate.tail >= 1
        assert output.p95 >= output.mean
        assert output.p99 >= output.mean


# ---------------------------------------------------------------- failures and residency


def test_a_failing_target_costs_time_until_it_answers_again() -> None:
    live = Live()
    for i in range(3):
        live.failed(live.started(LOCAL, ONE, ROUTE, i * 1.0), i + 0.01)
    estimate = live.estimates[LOCAL.name, ONE]
    lost = estimate.wait_s
    assert 2.5 < lost <= 3.0
    assert estimate.wait_p95_s >= 1.0
    stream(live, LOCAL, ONE, 4.0)
    assert estimate.wait_s < 0.6 * lost
    assert live.estimate(LOCAL, TWO).wait_s == 0.0


def test_a_replica_that_takes_no_connection_is_avoided_for_every_target() -> None:
    live = Live()
    config = snapshot([route([(LOCAL.name, 0.9), (ADAPTED.name, 0.8)])], [LOCAL, ADAPTED], policy())
    live.failed(live.started(LOCAL, ONE, ROUTE, 0.0), 0.001, connected=False)
    first: dict[str, str] = {}
    for choice in decide(question(), config, live, 0.5).ranked:
        first.setdefault(choice.target, choice.replica)
    assert first == {LOCAL.name: TWO, ADAPTED.name: TWO}


def test_failures_are_forgotten() -> None:
    live = Live()
    live.failed(live.started(LOCAL, ONE, ROUTE, 0.0), 5.0)
    live.failed(live.started(LOCAL, TWO, ROUTE, 0.0), 5.0, connected=False)
    assert live.estimates[LOCAL.name, ONE].wait_s == pytest.approx(5.0)
    assert live.replicas[TWO].lost_s == pytest.approx(5.0)
    live.advance(5.0 + FAILURE_HALF_LIFE_S)
    assert live.estimates[LOCAL.name, ONE].wait_s == pytest.approx(2.5)
    assert live.replicas[TWO].lost_s == pytest.approx(2.5)
    live.advance(5.0 + 20 * FAILURE_HALF_LIFE_S)
    assert live.estimates[LOCAL.name, ONE].wait_s == 0.0
    assert live.replicas[TWO].lost_s == 0.0


def test_a_replica_that_answers_again_is_forgiven() -> None:
    live = Live()
    live.failed(live.started(LOCAL, ONE, ROUTE, 0.0), 0.1, connected=False)
    before = live.replicas[ONE].lost_s
    for i in range(5):
        stream(live, ADAPTED, ONE, 1.0 + i)
    assert live.replicas[ONE].lost_s < before / 4


def test_a_failure_loses_at_least_a_second() -> None:
    failures = Failures()
    failures.failed(0.001, 0.0)
    assert failures.lost_s == 1.0
    failures.failed(9.0, 0.0)
    assert failures.lost_s == pytest.approx(2 * 5.0)


def test_residency_is_taken_from_who_knows() -> None:
    live = Live()
    live.resident(ADAPTED, ONE, 0.25, load_s=4.0)
    estimate = live.estimates[ADAPTED.name, ONE]
    assert estimate.wait_s == pytest.approx(3.0)
    assert estimate.wait_p95_s == pytest.approx(4.0)
    live.resident(ADAPTED, ONE, 1.0)
    assert (estimate.wait_s, estimate.wait_p95_s) == (0.0, 0.0)
    live.resident(ADAPTED, ONE, 0.5)
    assert estimate.wait_s == pytest.approx(2.0)


def test_an_answer_shows_that_the_adapter_is_there() -> None:
    live = Live()
    live.resident(ADAPTED, ONE, 0.1, load_s=4.0)
    stream(live, ADAPTED, ONE, 0.0)
    assert live.estimates[ADAPTED.name, ONE].loaded == 1.0
    assert live.estimates[ADAPTED.name, ONE].wait_s == 0.0


def test_a_share_is_nothing_at_first() -> None:
    share = Share()
    assert share.mean == 0.0
    share.saw(0, 0, 0.0)
    assert share.mean == 0.0


# ---------------------------------------------------------------- incumbents


def test_the_incumbent_is_what_was_chosen_but_not_explored_or_named() -> None:
    live = Live()
    config = snapshot(
        [route([(LOCAL.name, 0.9), (FAR.name, 0.1)])], [LOCAL, FAR], policy(explore=0.5)
    )
    for asked, draw in ((question(), 0.4), (question(only=FAR.name), 0.9)):
        decision = decide(asked, config, live, draw)
        assert decision.ranked[0].target == FAR.name
        live.chose(asked, decision)
    assert live.incumbents == {}
    live.chose(question(), decide(question(), config, live, 0.9))
    assert live.incumbents == {(ROUTE, POLICY): LOCAL.name}


def test_a_decision_that_ranks_nothing_leaves_the_incumbent() -> None:
    live = Live()
    live.incumbents[ROUTE, POLICY] = LOCAL.name
    config = snapshot([route([(FAR.name, 0.9)], internal=True)], [FAR], policy())
    live.chose(question(), decide(question(), config, live, 0.5))
    assert live.incumbents == {(ROUTE, POLICY): LOCAL.name}
