"""Laws of `decide`, over configurations, requests and live estimates of every kind."""

from collections import Counter
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.policy.decide import Decider, decide
from gateway.policy.live import Live
from gateway.policy.words import describe, explained, verdicts
from gateway.types.backends import Capabilities, Price, Target
from gateway.types.decisions import Choice, Decision, Question
from gateway.types.policies import Limits, Policy
from gateway.types.records import Usage
from gateway.types.requests import Needs
from gateway.types.routes import Route
from gateway.types.snapshot import Snapshot

from .world import POLICY, ROUTE, laws, policy, question, route, snapshot, target

NAMES = ("local/a", "local/a+x", "local/b", "one/c", "two/d", "two/e")
ENDPOINTS = ("chat/completions", "completions", "embeddings")

shares = st.floats(0, 1, allow_subnormal=False)
prices = st.floats(0, 1e-4, allow_subnormal=False)
rates = st.sampled_from([0.0, 0.0005, 0.002, 0.05])


def maybe(some: st.SearchStrategy[float]) -> st.SearchStrategy[float | None]:
    return st.none() | some


capabilities = st.builds(
    Capabilities,
    context=st.none() | st.integers(1, 4000),
    tools=st.booleans(),
    vision=st.booleans(),
    audio=st.booleans(),
    json_schema=st.booleans(),
    endpoints=st.frozensets(st.sampled_from(ENDPOINTS), min_size=1),
)
able = st.just(Capabilities())
needs_of_all_kinds = st.builds(
    Needs,
    endpoint=st.sampled_from(ENDPOINTS),
    input_tokens=st.integers(0, 3000),
    max_output=st.none() | st.integers(1, 2000),
    tools=st.booleans(),
    vision=st.booleans(),
    audio=st.booleans(),
    json_schema=st.booleans(),
)
plain_needs = st.builds(
    Needs, input_tokens=st.integers(0, 3000), max_output=st.none() | st.integers(1, 2000)
)
limits = st.builds(
    Limits,
    cost=maybe(st.floats(0, 0.1)),
    first_token_p95=maybe(st.floats(0.1, 5)),
    whole_p95=maybe(st.floats(0.5, 30)),
    quality=maybe(shares),
)
policies = st.builds(
    policy,
    waiting_first_token=rates,
    waiting_whole=rates,
    limits=limits | st.just(Limits()),
    refuse=st.booleans(),
    switch_margin=st.sampled_from([0.0, 0.05, 0.5]),
    explore=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    value_weight=st.sampled_from([0.0, 1.0, 10.0]),
    price_weight=st.sampled_from([0.0, 1.0, 3.0]),
)


class Case(NamedTuple):
    """All that a decision is made from."""

    config: Snapshot
    question: Question
    live: Live
    draw: float

    def decide(self, config: Snapshot | None = None, draw: float | None = None) -> Decision:
        return decide(
            self.question,
            config or self.config,
            self.live,
            self.draw if draw is None else draw,
        )

    @property
    def route(self) -> Route:
        return self.config.routes[ROUTE]

    @property
    def policy(self) -> Policy:
        return self.config.policies[POLICY]


@st.composite
def targets(draw: st.DrawFn, name: str, can: st.SearchStrategy[Capabilities]) -> Target:
    urls = tuple(f"http://{name.partition('/')[0]}-{i}" for i in range(draw(st.integers(1, 2))))
    return target(
        name,
        internal=name.startswith("local/"),
        input_price=draw(prices),
        output_price=draw(prices),
        capabilities=draw(can),
        replicas=urls,
        first_token_s=draw(st.floats(0.05, 3)),
        tokens_per_s=draw(st.floats(5, 500)),
        output_tokens=draw(st.floats(1, 1000)),
    )


@st.composite
def cases(
    draw: st.DrawFn,
    can: st.SearchStrategy[Capabilities] = able,
    needs: st.SearchStrategy[Needs] = plain_needs,
    chosen: st.SearchStrategy[Policy] = policies,
) -> Case:
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, unique=True))
    made = [draw(targets(name, can)) for name in names]
    config = snapshot(
        [
            route(
                [(name, draw(shares)) for name in names],
                value=draw(st.sampled_from([0.0, 0.001, 0.02, 1.0])),
                internal=draw(st.booleans()),
            )
        ],
        made,
        draw(chosen),
    )
    live = Live()
    live_events(draw, live, made)
    return Case(config, question(needs=draw(needs)), live, draw(st.floats(0, 1, exclude_max=True)))


def live_events(draw: st.DrawFn, live: Live, made: list[Target]) -> None:
    """Anything may have happened before."""
    now = 0.0
    for _ in range(draw(st.integers(0, 6))):
        on = draw(st.sampled_from(made))
        now += draw(st.floats(0, 100))
        flight = live.started(on, draw(st.sampled_from(on.replicas)), ROUTE, now)
        ending = draw(st.sampled_from(["open", "finished", "failed", "unconnected", "abandoned"]))
        now += draw(st.floats(0.001, 20))
        if draw(st.booleans()):
            live.first_token(flight, now)
        if ending == "finished":
            output = draw(st.integers(0, 3000))
            live.finished(flight, now, Usage(input=100, cached_input=50, output=output))
        elif ending in ("failed", "unconnected"):
            live.failed(flight, now, connected=ending == "failed")
        elif ending == "abandoned":
            live.abandoned(flight)
    live.incumbents[ROUTE, POLICY] = draw(st.sampled_from(NAMES))
    live.advance(now)


def likelihood(decision: Decision, name: str) -> float:
    return sum(choice.propensity for choice in decision.ranked if choice.target == name)


def within(case: Case, choice: Choice) -> bool:
    """The policy's limits, worked out again from the published estimates."""
    limit = case.policy.limits
    on = case.config.targets[choice.target]
    estimate = case.live.estimate(on, choice.replica)
    server = case.live.replicas.get(choice.replica)
    queue = 0 if server is None else server.in_flight
    lost = 0.0 if server is None else server.lost_s
    mean = estimate.first_s + estimate.queue_s * queue
    first = mean * estimate.tail + estimate.wait_p95_s + lost
    history = case.live.outputs.get((ROUTE, on.name))
    most = case.question.needs.max_output
    output = 2 * on.output_tokens if history is None else history.p95
    whole = first + (output if most is None else min(output, most)) * estimate.token_s
    return (
        (limit.cost is None or choice.cost <= limit.cost)
        and (limit.quality is None or choice.quality >= limit.quality)
        and (limit.first_token_p95 is None or first <= limit.first_token_p95)
        and (limit.whole_p95 is None or whole <= limit.whole_p95)
    )


def changed(case: Case, name: str, **fields: object) -> Snapshot:
    """The configuration with something else about one target."""
    made = dict(case.config.targets)
    made[name] = msgspec.structs.replace(made[name], **fields)
    return msgspec.structs.replace(case.config, targets=made)


def with_quality(case: Case, index: int, quality: float) -> Snapshot:
    candidates = list(case.route.candidates)
    candidates[index] = msgspec.structs.replace(candidates[index], quality=quality)
    route = msgspec.structs.replace(case.route, candidates=tuple(candidates))
    return msgspec.structs.replace(case.config, routes={ROUTE: route})


# ---------------------------------------------------------------- what may never happen


@laws
@given(cases(capabilities, needs_of_all_kinds))
def test_internal_data_never_reaches_an_external_target(case: Case) -> None:
    assume(case.route.internal)
    for name in (None, *NAMES):
        asked = msgspec.structs.replace(case.question, only=name)
        decision = decide(asked, case.config, case.live, case.draw)
        assert all(case.config.targets[c.target].internal for c in decision.ranked)


@laws
@given(cases(capabilities, needs_of_all_kinds), st.none() | st.sampled_from(NAMES))
def test_a_hard_fact_is_never_broken_even_by_name(case: Case, only: str | None) -> None:
    asked = msgspec.structs.replace(case.question, only=only)
    needs = asked.needs
    for choice in decide(asked, case.config, case.live, case.draw).ranked:
        can = case.config.targets[choice.target].capabilities
        assert needs.endpoint in can.endpoints
        assert can.tools or not needs.tools
        assert can.vision or not needs.vision
        assert can.audio or not needs.audio
        assert can.json_schema or not needs.json_schema
        if can.context is not None:
            assert needs.input_tokens + (needs.max_output or 0) <= can.context


@laws
@given(cases())
def test_no_candidate_over_its_limits_is_ranked_while_another_fits(case: Case) -> None:
    decision = case.decide()
    ruled_out = [out.choice for out in decision.ruled_out if out.choice is not None]
    if decision.fits:
        assert all(within(case, choice) for choice in decision.ranked)
    else:
        assert not any(within(case, choice) for choice in decision.ranked)
    assert not any(within(case, choice) for choice in ruled_out)


@laws
@given(cases())
def test_a_policy_that_refuses_never_ranks_what_is_over_a_limit(case: Case) -> None:
    decision = case.decide()
    if case.policy.if_none_fits == "refuse":
        assert all(within(case, choice) for choice in decision.ranked)
    elif any(out.by == "limit" for out in decision.ruled_out):
        assert decision.ranked


# ---------------------------------------------------------------- which way things pull


@laws
@given(cases(), st.data())
def test_raising_a_price_never_makes_a_target_likelier(case: Case, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(case.config.targets)))
    price = case.config.targets[name].price
    more = data.draw(prices)
    dearer = data.draw(
        st.sampled_from(
            [
                Price(price.input + more, price.cached_input + more, price.output),
                Price(price.input, price.cached_input, price.output + more),
                Price(price.input + more, price.cached_input + more, price.output + more),
            ]
        )
    )
    after = case.decide(changed(case, name, price=dearer))
    assert likelihood(after, name) <= likelihood(case.decide(), name) + 1e-12


@laws
@given(cases(), st.data())
def test_raising_quality_never_makes_a_target_less_likely(case: Case, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, len(case.route.candidates) - 1))
    candidate = case.route.candidates[index]
    better = data.draw(st.floats(candidate.quality, 1))
    after = case.decide(with_quality(case, index, better))
    assert (
        likelihood(after, candidate.target) >= likelihood(case.decide(), candidate.target) - 1e-12
    )


@laws
@given(cases(), st.data())
def test_being_slower_never_makes_a_target_likelier(case: Case, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(case.config.targets)))
    on = case.config.targets[name]
    slower = changed(
        case,
        name,
        first_token_s=on.first_token_s * data.draw(st.floats(1, 10)),
        tokens_per_s=on.tokens_per_s / data.draw(st.floats(1, 10)),
    )
    # Only what has not been seen yet goes by the declared figures.
    unseen = case._replace(live=Live())
    unseen.live.incumbents.update(case.live.incumbents)
    assert likelihood(unseen.decide(slower), name) <= likelihood(unseen.decide(), name) + 1e-12


@laws
@given(cases(chosen=st.just(policy(waiting_first_token=0.01))), st.data())
def test_a_longer_queue_never_makes_a_replica_better(case: Case, data: st.DataObject) -> None:
    before = case.decide().ranked
    assume(before)
    choice = data.draw(st.sampled_from(before))
    case.live.started(case.config.targets[choice.target], choice.replica, ROUTE, 1e4)
    after = next(
        c for c in case.decide().ranked if (c.target, c.replica) == (choice.target, choice.replica)
    )
    assert after.net < choice.net


# ---------------------------------------------------------------- what a decision says


@laws
@given(cases())
def test_the_terms_add_up_to_the_net(case: Case) -> None:
    decision, chosen = case.decide(), case.policy
    for choice in decision.ranked:
        assert choice.net == pytest.approx(
            chosen.value_weight * case.route.value * choice.quality
            - chosen.price_weight * choice.cost
            - chosen.waiting_first_token * (choice.first_token_s + choice.others_s)
            - chosen.waiting_whole * (choice.total_s + choice.others_s),
            abs=1e-12,
        )
        assert choice.total_s >= choice.first_token_s > 0
        assert choice.cost >= 0


@laws
@given(cases())
def test_propensities_sum_to_one_and_belong_to_each_candidates_best_replica(case: Case) -> None:
    ranked = case.decide().ranked
    assume(ranked)
    assert sum(choice.propensity for choice in ranked) == pytest.approx(1.0)
    assert ranked[0].propensity > 0
    for choice in ranked:
        rivals = [c for c in ranked if c.target == choice.target]
        if choice.propensity:
            assert choice.net == max(c.net for c in rivals)
            assert [c.propensity for c in rivals if c is not choice] == [0.0] * (len(rivals) - 1)


@laws
@given(cases())
def test_propensities_do_not_depend_on_the_draw_and_are_how_often_each_is_chosen(
    case: Case,
) -> None:
    said = {(c.target, c.replica): c.propensity for c in case.decide().ranked}
    assume(said)
    draws = 500
    chosen: Counter[tuple[str, str]] = Counter()
    decider = Decider(case.config)
    for i in range(draws):
        ranked = decider.decide(case.question, case.live, (i + 0.5) / draws).ranked
        assert {(c.target, c.replica): c.propensity for c in ranked} == said
        chosen[ranked[0].target, ranked[0].replica] += 1
    for pair, propensity in said.items():
        assert chosen[pair] / draws == pytest.approx(propensity, abs=2 / draws)


@laws
@given(cases(capabilities, needs_of_all_kinds))
def test_every_candidate_is_either_ranked_or_ruled_out_with_a_reason(case: Case) -> None:
    decision = case.decide()
    ranked = {choice.target for choice in decision.ranked}
    ruled_out = [out.target for out in decision.ruled_out]
    assert sorted(ranked.union(ruled_out)) == sorted(case.config.targets)
    assert len(set(ruled_out)) == len(ruled_out)
    assert all(out.reason for out in decision.ruled_out)
    assert (not ranked & set(ruled_out)) == (decision.fits or not ranked)


@laws
@given(cases())
def test_every_replica_of_what_fits_is_ranked_once(case: Case) -> None:
    ranked = [(choice.target, choice.replica) for choice in case.decide().ranked]
    assert len(set(ranked)) == len(ranked)
    if case.policy.limits == Limits() and not case.route.internal:
        assert sorted(ranked) == sorted(
            (on.name, url) for on in case.config.targets.values() for url in on.replicas
        )


@laws
@given(cases(capabilities, needs_of_all_kinds))
def test_the_same_arguments_give_the_same_decision(case: Case) -> None:
    assert case.decide() == case.decide()
    decider = Decider(case.config)
    assert decider.decide(case.question, case.live, case.draw) == case.decide()


@laws
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_candidates_changes_nothing_but_ties(case: Case, random: object) -> None:
    candidates = list(case.route.candidates)
    assert hasattr(random, "shuffle")
    random.shuffle(candidates)
    shuffled = msgspec.structs.replace(case.route, candidates=tuple(candidates))
    config = msgspec.structs.replace(case.config, routes={ROUTE: shuffled})
    before, after = case.decide(), case.decide(config)
    nets = [(choice.net, choice.total_s) for choice in before.ranked]
    assume(len(set(nets)) == len(nets))
    assert [(c.target, c.replica, c.propensity) for c in before.ranked] == [
        (c.target, c.replica, c.propensity) for c in after.ranked
    ]


@laws
@given(cases(chosen=st.just(policy())), st.data())
def test_another_candidate_does_not_change_how_the_rest_are_ranked(
    case: Case, data: st.DataObject
) -> None:
    assume(len(case.route.candidates) > 1)
    gone = data.draw(st.sampled_from(case.route.candidates))
    rest = tuple(candidate for candidate in case.route.candidates if candidate is not gone)
    fewer = msgspec.structs.replace(case.route, candidates=rest)
    config = msgspec.structs.replace(case.config, routes={ROUTE: fewer})
    assert [(c.target, c.replica, c.net) for c in case.decide(config).ranked] == [
        (c.target, c.replica, c.net) for c in case.decide().ranked if c.target != gone.target
    ]


@laws
@given(cases(), st.sampled_from(NAMES))
def test_a_named_target_stands_above_every_limit(case: Case, name: str) -> None:
    assume(name in case.config.targets)
    on = case.config.targets[name]
    assume(on.internal or not case.route.internal)
    asked = msgspec.structs.replace(case.question, only=name)
    decision = decide(asked, case.config, case.live, case.draw)
    assert {choice.target for choice in decision.ranked} == {name}
    assert sum(choice.propensity for choice in decision.ranked) == 1.0
    assert decision.fits
    assert not decision.explored


@laws
@given(cases(chosen=st.builds(policy, switch_margin=st.just(0.3))))
def test_the_incumbent_stays_unless_it_is_clearly_beaten(case: Case) -> None:
    ranked = case.decide().ranked
    incumbent = case.live.incumbents[ROUTE, POLICY]
    of_incumbent = [c.net for c in ranked if c.target == incumbent]
    assume(of_incumbent)
    best, kept = max(c.net for c in ranked), max(of_incumbent)
    if ranked[0].target == incumbent:
        assert best - kept <= 0.3 * abs(kept) + 1e-12
    else:
        assert best - kept > 0.3 * abs(kept) - 1e-12


# ---------------------------------------------------------------- words


@laws
@given(cases(capabilities, needs_of_all_kinds), st.none() | st.sampled_from(NAMES))
def test_every_choice_has_a_verdict(case: Case, only: str | None) -> None:
    asked = msgspec.structs.replace(case.question, only=only)
    decision = decide(asked, case.config, case.live, case.draw)
    said = verdicts(decision, case.config)
    assert len(said) == len(decision.ranked)
    assert all(said)
    filled = explained(decision, case.config)
    assert tuple(choice.verdict for choice in filled.ranked) == said
    assert filled.ruled_out == decision.ruled_out


@laws
@given(policies, st.none() | st.floats(1e-6, 100).map(lambda value: route([], value=value)))
def test_every_policy_can_be_put_into_words(chosen: Policy, of: Route | None) -> None:
    said = describe(chosen, of)
    assert POLICY in said
    assert "e-" not in said
    assert "nan" not in said
    assert "inf " not in said
