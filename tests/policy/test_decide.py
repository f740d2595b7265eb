"""What `decide` does in single cases; its laws are in test_laws.py."""

from typing import Any

import msgspec
import pytest

from gateway.policy.decide import Decider, decide
from gateway.policy.live import Live
from gateway.resilience.breaker import Breaker
from gateway.types.backends import Capabilities, Target
from gateway.types.decisions import Decision, Question
from gateway.types.policies import Limits, Policy
from gateway.types.records import Usage
from gateway.types.requests import Needs
from gateway.types.snapshot import Snapshot

from .world import POLICY, ROUTE, policy, question, route, snapshot, target

LOCAL = target("local/qwen", internal=True, input_price=1e-7, output_price=1e-7)
ADAPTED = target("local/qwen+contracts", internal=True, input_price=1e-7, output_price=1e-7)
MINI = target("openai/mini", first_token_s=0.4, tokens_per_s=100.0)
LARGE = target("openai/large", input_price=1e-5, output_price=4e-5)

QUALITIES = [
    ("local/qwen", 0.80),
    ("local/qwen+contracts", 0.97),
    ("openai/mini", 0.90),
    ("openai/large", 0.98),
]


def world(chosen: Policy | None = None, *, internal: bool = False) -> Snapshot:
    return snapshot(
        [route(QUALITIES, internal=internal)],
        [LOCAL, ADAPTED, MINI, LARGE],
        chosen or policy(),
    )


def ask(
    config: Snapshot, asked: Question | None = None, live: Live | None = None, draw: float = 0.5
) -> Decision:
    return decide(asked or question(), config, live or Live(), draw)


def targets(decision: Decision) -> list[str]:
    return [choice.target for choice in decision.ranked]


def test_the_greatest_net_value_comes_first() -> None:
    decision = ask(world())
    nets = [choice.net for choice in decision.ranked]
    assert nets == sorted(nets, reverse=True)
    assert targets(decision)[0] == "local/qwen+contracts"
    assert decision.route == ROUTE
    assert decision.policy == POLICY
    assert decision.snapshot == "h"
    assert decision.fits
    assert not decision.explored
    assert not decision.ruled_out


def test_every_term_is_the_documented_one() -> None:
    decision = ask(world())
    mini = next(choice for choice in decision.ranked if choice.target == "openai/mini")
    assert mini.candidate == 2
    assert mini.replica == "http://openai"
    assert mini.quality == 0.90
    assert mini.cost == pytest.approx(100 * 1e-6 + 200 * 4e-6)
    assert mini.first_token_s == pytest.approx(0.4)
    assert mini.total_s == pytest.approx(0.4 + 200 / 100)
    assert mini.net == pytest.approx(0.02 * 0.9 - mini.cost - 0.002 * 0.4 - 0.0005 * 2.4)


def test_internal_data_stays_at_home() -> None:
    decision = ask(world(internal=True))
    assert targets(decision) == ["local/qwen+contracts", "local/qwen"]
    assert [(out.target, out.by) for out in decision.ruled_out] == [
        ("openai/mini", "fact"),
        ("openai/large", "fact"),
    ]
    assert "internal" in decision.ruled_out[0].reason


def test_internal_data_stays_at_home_even_when_the_client_names_the_target() -> None:
    decision = ask(world(internal=True), question(only="openai/mini"))
    assert decision.ranked == ()
    assert decision.ruled_out[0].by == "fact"


@pytest.mark.parametrize(
    ("needs", "can", "words"),
    [
        (Needs(tools=True), Capabilities(tools=False), "tools"),
        (Needs(vision=True), Capabilities(vision=False), "images"),
        (Needs(audio=True), Capabilities(audio=False), "audio"),
        (Needs(json_schema=True), Capabilities(json_schema=False), "a JSON schema"),
        (Needs(endpoint="embeddings"), Capabilities(), "embeddings"),
        (Needs(input_tokens=9000), Capabilities(context=8192), "8,192 tokens"),
        (Needs(input_tokens=8000, max_output=193), Capabilities(context=8192), "193 of output"),
        (
            Needs(input_tokens=9001, prompts=2, longest=9000),
            Capabilities(context=8192),
            "the longest of 2 prompts has about 9,000",
        ),
    ],
)
def test_a_hard_fact_rules_out_with_its_reason(needs: Needs, can: Capabilities, words: str) -> None:
    config = snapshot([route([("a/b", 0.9)])], [target("a/b", capabilities=can)], policy())
    decision = ask(config, question(needs=needs))
    assert decision.ranked == ()
    assert decision.ruled_out[0].by == "fact"
    assert words in decision.ruled_out[0].reason


@pytest.mark.parametrize(
    ("needs", "can"),
    [
        (Needs(tools=True), Capabilities(tools=True)),
        (Needs(vision=True, audio=True), Capabilities(vision=True, audio=True)),
        (Needs(json_schema=True), Capabilities()),
        (Needs(endpoint="embeddings"), Capabilities(endpoints=frozenset({"embeddings"}))),
        (Needs(input_tokens=8000, max_output=192), Capabilities(context=8192)),
        (
            Needs(input_tokens=9000, max_output=192, prompts=2, longest=8000),
            Capabilities(context=8192),
        ),
        (Needs(input_tokens=10**9), Capabilities(context=None)),
    ],
)
def test_what_a_target_can_do_does_not_rule_it_out(needs: Needs, can: Capabilities) -> None:
    config = snapshot([route([("a/b", 0.9)])], [target("a/b", capabilities=can)], policy())
    assert targets(ask(config, question(needs=needs))) == ["a/b"]


def test_a_target_without_replica_is_ruled_out() -> None:
    config = snapshot([route([("a/b", 0.9)])], [target("a/b", replicas=())], policy())
    decision = ask(config)
    assert decision.ranked == ()
    assert "no replica" in decision.ruled_out[0].reason
    assert "no replica" in ask(config, question(only="a/b")).ruled_out[0].reason


def test_a_target_whose_price_nobody_knows_is_not_taken_for_a_free_one() -> None:
    free = target("a/unpriced", input_price=0.0, output_price=0.0)
    unpriced = msgspec.structs.replace(free, priced=False)
    config = snapshot(
        [route([("a/unpriced", 0.9), ("a/b", 0.9)])], [unpriced, target("a/b")], policy()
    )
    decision = ask(config)
    assert targets(decision) == ["a/b"]
    assert "price is not known" in decision.ruled_out[0].reason


@pytest.mark.parametrize(
    ("limits", "left", "words"),
    [
        (Limits(cost=0.001), {"local/qwen", "local/qwen+contracts", "openai/mini"}, "costs"),
        (Limits(quality=0.95), {"local/qwen+contracts", "openai/large"}, ", under 0.95"),
        (Limits(first_token_p95=0.9), {"openai/mini"}, "first token p95 1 s, over 0.9 s"),
        (Limits(whole_p95=5.0), {"openai/mini"}, "whole answer p95"),
    ],
)
def test_a_limit_rules_out_with_its_figures(limits: Limits, left: set[str], words: str) -> None:
    decision = ask(world(policy(limits=limits)))
    assert set(targets(decision)) == left
    assert decision.fits
    assert {out.target for out in decision.ruled_out} == {name for name, _ in QUALITIES} - left
    for out in decision.ruled_out:
        assert out.by == "limit"
        assert words in out.reason
        assert out.choice is not None
        assert out.choice.target == out.target


def test_a_candidate_is_over_a_limit_only_if_each_of_its_replicas_is() -> None:
    pair = target("local/qwen", internal=True, replicas=("http://one", "http://two"))
    config = snapshot(
        [route([("local/qwen", 0.9)])], [pair], policy(limits=Limits(first_token_p95=1.02))
    )
    live = Live()
    live.started(pair, "http://one", ROUTE, 0.0)
    decision = ask(config, live=live)
    assert [choice.replica for choice in decision.ranked] == ["http://two"]
    assert decision.ruled_out == ()
    live.started(pair, "http://two", ROUTE, 0.0)
    decision = ask(config, live=live)
    assert not decision.fits
    assert [out.target for out in decision.ruled_out] == ["local/qwen"]


def test_when_no_limit_is_met_the_least_bad_is_ranked() -> None:
    decision = ask(world(policy(limits=Limits(cost=0.0))))
    assert targets(decision) == targets(ask(world()))
    assert not decision.fits
    assert len(decision.ruled_out) == 4
    assert [choice.propensity for choice in decision.ranked] == [1.0, 0.0, 0.0, 0.0]


def test_when_no_limit_is_met_a_policy_may_refuse() -> None:
    decision = ask(world(policy(limits=Limits(cost=0.0), refuse=True)))
    assert decision.ranked == ()
    assert not decision.fits
    assert {out.by for out in decision.ruled_out} == {"limit"}


def test_a_named_target_is_alone_and_above_the_limits() -> None:
    decision = ask(world(policy(limits=Limits(cost=0.0))), question(only="openai/large"))
    assert targets(decision) == ["openai/large"]
    assert decision.fits
    assert decision.ranked[0].candidate == 3
    assert decision.ranked[0].quality == 0.98


def test_what_goes_on_stays_at_its_replica_while_that_is_there() -> None:
    pair = target("local/qwen", internal=True, replicas=("http://one", "http://two"))
    config = snapshot([route([("local/qwen", 0.9)])], [pair], policy())
    live = Live()

    def replicas(at: str) -> list[str]:
        asked = msgspec.structs.replace(question(only="local/qwen"), at=at)
        return [choice.replica for choice in ask(config, asked, live=live).ranked]

    live.started(pair, "http://two", ROUTE, 0.0)
    assert replicas("http://two") == ["http://two"]
    resting = Breaker()
    resting.rest_until = 60.0
    live.estimate(pair, "http://two").gate = resting
    assert replicas("http://two") == ["http://two"]
    assert replicas("http://one") == ["http://one"]
    assert replicas("http://gone") == ["http://one"]


def test_a_named_target_that_is_no_candidate_has_neutral_quality() -> None:
    config = snapshot([route([("local/qwen", 0.8)])], [LOCAL, MINI], policy())
    choice = ask(config, question(only="openai/mini")).ranked[0]
    assert (choice.candidate, choice.quality) == (-1, 0.5)


def test_a_named_target_that_nobody_declared_is_ruled_out() -> None:
    decision = ask(world(), question(only="openai/none"))
    assert decision.ranked == ()
    assert "no such target" in decision.ruled_out[0].reason


@pytest.mark.parametrize(
    ("tenant", "ranked", "reason"),
    [
        ("contracts", ["local/qwen+contracts"], ""),
        (None, [], "no tenant"),
        ("nobody", [], "'nobody'"),
        ("../contracts", [], "no such target"),
    ],
)
def test_an_adapter_follows_the_callers_tenant(
    tenant: str | None, ranked: list[str], reason: str
) -> None:
    config = snapshot([route([("local/qwen+{key.tenant}", 0.9)])], [LOCAL, ADAPTED], policy())
    decision = ask(config, question(tenant=tenant))
    assert targets(decision) == ranked
    assert [out.by for out in decision.ruled_out] == ["fact"] * (not ranked)
    assert all(reason in out.reason for out in decision.ruled_out)


def test_a_tenant_cannot_reach_out_of_its_place_in_the_pattern() -> None:
    config = snapshot([route([("local/{key.tenant}", 0.9)])], [LOCAL, ADAPTED], policy())
    assert targets(ask(config, question(tenant="qwen"))) == ["local/qwen"]
    assert targets(ask(config, question(tenant="qwen+contracts"))) == []


def test_the_expected_output_is_the_history_and_never_above_what_was_asked() -> None:
    live = Live()
    for second in range(50):
        flight = live.started(MINI, "http://openai", ROUTE, float(second))
        live.finished(flight, second + 1.0, Usage(input=100, output=20))
    config = world()

    def cost(needs: Needs) -> float:
        decision = ask(config, question(needs=needs), live)
        return next(c.cost for c in decision.ranked if c.target == "openai/mini")

    expected = live.outputs[ROUTE, "openai/mini"].mean
    assert 20 < expected < 40
    assert cost(Needs(input_tokens=100)) == pytest.approx(100e-6 + expected * 4e-6)
    assert cost(Needs(input_tokens=100, max_output=5)) == pytest.approx(100e-6 + 5 * 4e-6)


def test_embeddings_generate_nothing() -> None:
    can = Capabilities(endpoints=frozenset({"embeddings"}))
    config = snapshot([route([("a/b", 0.9)])], [target("a/b", capabilities=can)], policy())
    choice = ask(config, question(needs=Needs("embeddings", input_tokens=100))).ranked[0]
    assert choice.cost == pytest.approx(100e-6)
    assert choice.total_s == choice.first_token_s


def test_the_cached_share_of_the_input_is_cheaper() -> None:
    cached = target("a/b", input_price=1e-6, cached_price=1e-7, output_price=0.0)
    config = snapshot([route([("a/b", 0.9)])], [cached], policy())
    live = Live()
    before = ask(config, live=live).ranked[0].cost
    for second in range(100):
        flight = live.started(cached, "http://a", ROUTE, float(second))
        live.finished(flight, second + 0.5, Usage(input=100, cached_input=80, output=1))
    share = live.cached["a/b"].mean
    assert 0.7 < share < 0.8
    assert ask(config, live=live).ranked[0].cost == pytest.approx(before * (1 - 0.9 * share))


def test_the_least_busy_replica_comes_first_even_when_waiting_costs_nothing() -> None:
    pair = target("local/qwen", internal=True, replicas=("http://one", "http://two"))
    config = snapshot([route([("local/qwen", 0.9)])], [pair], policy(waiting_first_token=0.0))
    live = Live()
    assert [c.replica for c in ask(config, live=live).ranked] == ["http://one", "http://two"]
    live.started(pair, "http://one", ROUTE, 0.0)
    assert [c.replica for c in ask(config, live=live).ranked] == ["http://two", "http://one"]


def test_load_and_wait_or_the_base_or_a_commercial_model_is_one_decision() -> None:
    config = world(policy(waiting_first_token=0.01))
    live = Live()
    live.resident(ADAPTED, "http://local", 1.0)
    assert targets(ask(config, live=live))[0] == "local/qwen+contracts"
    live.resident(ADAPTED, "http://local", 0.0, load_s=2.0)
    decision = ask(config, live=live)
    assert targets(decision)[0] == "openai/mini"
    loading = next(c for c in decision.ranked if c.target == "local/qwen+contracts")
    assert loading.first_token_s == pytest.approx(0.5 + 2.0)


def test_a_challenger_must_beat_the_incumbent_by_the_margin() -> None:
    rivals = [target("a/one"), target("b/two")]

    def first(margin: float, challenger: float, incumbent: str) -> str:
        config = snapshot(
            [route([("a/one", 0.5), ("b/two", challenger)])],
            rivals,
            policy(switch_margin=margin),
        )
        live = Live()
        live.incumbents[ROUTE, POLICY] = incumbent
        return targets(ask(config, live=live))[0]

    assert first(0.0, 0.51, "a/one") == "b/two"
    assert first(0.05, 0.51, "a/one") == "a/one"
    assert first(0.05, 0.60, "a/one") == "b/two"
    assert first(0.05, 0.51, "b/two") == "b/two"
    assert first(0.05, 0.51, "gone/three") == "b/two"


def test_an_incumbent_over_a_limit_is_not_kept() -> None:
    config = world(policy(switch_margin=10.0, limits=Limits(quality=0.9)))
    live = Live()
    live.incumbents[ROUTE, POLICY] = "local/qwen"
    assert targets(ask(config, live=live))[0] == "local/qwen+contracts"


def test_exploring_takes_each_candidate_in_turn_over_the_draws() -> None:
    config = world(policy(explore=0.2))
    greedy = targets(ask(config, draw=0.9))
    for draw, place in ((0.0, 0), (0.06, 1), (0.11, 2), (0.199, 3)):
        decision = ask(config, draw=draw)
        assert targets(decision)[0] == greedy[place]
        assert decision.explored == (place != 0)
        assert decision.ranked[0].propensity == pytest.approx(0.85 if place == 0 else 0.05)
    assert ask(config, draw=0.2).ranked[0].target == greedy[0]


def test_exploring_keeps_the_rest_in_order() -> None:
    config = world(policy(explore=0.2))
    greedy = targets(ask(config, draw=0.9))
    assert targets(ask(config, draw=0.11)) == [greedy[2], greedy[0], greedy[1], greedy[3]]


def test_exploring_is_among_candidates_not_replicas() -> None:
    pair = target("local/qwen", internal=True, replicas=("http://one", "http://two"))
    config = snapshot(
        [route([("local/qwen", 0.9), ("openai/mini", 0.1)])], [pair, MINI], policy(explore=0.1)
    )
    ranked = ask(config).ranked
    assert [c.propensity for c in ranked] == pytest.approx([0.95, 0.0, 0.05])


def test_the_decider_may_be_used_again_and_again() -> None:
    config = world()
    decider, live = Decider(config), Live()
    asked = question(only="openai/mini")
    assert decider.decide(asked, live, 0.3) == decider.decide(asked, live, 0.3)
    assert decider.decide(question(), live, 0.3) == decide(question(), config, live, 0.3)


@pytest.mark.parametrize("field", ["route", "policy"])
def test_a_route_or_policy_that_is_not_there_is_a_key_error(field: str) -> None:
    asked = question()
    changed = Question(
        "none" if field == "route" else asked.route,
        "none" if field == "policy" else asked.policy,
        asked.needs,
        asked.caller,
    )
    with pytest.raises(KeyError):
        ask(world(), changed)


def test_targets_of_the_same_name_in_another_snapshot_do_not_matter() -> None:
    cheaper: Target = target("openai/large", input_price=0.0, output_price=0.0)
    config = snapshot([route(QUALITIES)], [LOCAL, ADAPTED, MINI, cheaper], policy())
    assert targets(ask(world()))[0] != "openai/large"
    assert targets(ask(config))[0] == "openai/large"


# ---------------------------------------------------------------- where a request goes


def two_replicas(target_: Target, chosen: Policy | None = None) -> Snapshot:
    """One target at two replicas that are alike."""
    both = msgspec.structs.replace(target_, replicas=("http://a", "http://b"))
    return snapshot([route([(both.name, 0.9)])], [both], chosen or policy(waiting_first_token=1.0))


def first_replica(config: Snapshot, live: Live, asked: Question | None = None) -> str:
    return ask(config, asked, live).ranked[0].replica


def test_a_conversation_goes_back_to_the_replica_that_has_read_it() -> None:
    config, live = two_replicas(LOCAL), Live()
    mine = msgspec.structs.replace(question(), conversation=7)
    live.talked("local/qwen", 7, "http://b", Usage(input=900, output=100))
    assert first_replica(config, live, mine) == "http://b"
    assert first_replica(config, live) == "http://a"
    assert first_replica(config, live, msgspec.structs.replace(mine, conversation=8)) == "http://a"


def test_unless_the_queue_there_costs_more_than_it_saves() -> None:
    config, live = two_replicas(LOCAL), Live()
    mine = msgspec.structs.replace(question(), conversation=7)
    live.talked("local/qwen", 7, "http://b", Usage(input=900, output=100))
    for n in range(100):
        live.started(config.targets["local/qwen"], "http://b", ROUTE, float(n))
    assert first_replica(config, live, mine) == "http://a"


def test_requests_of_others_count_in_the_line_as_ours_do() -> None:
    config, live = two_replicas(LOCAL), Live()
    for _ in range(2):
        live.server("http://a").told(50)
    assert first_replica(config, live) == "http://b"
    live.server("http://a").told(0)
    assert first_replica(config, live) == "http://a"


def test_a_replica_that_has_the_adapter_goes_before_one_that_must_load_it() -> None:
    config, live = two_replicas(ADAPTED), Live()
    live.resident(config.targets[ADAPTED.name], "http://a", 0.0, 2.0)
    live.resident(config.targets[ADAPTED.name], "http://b", 1.0)
    first, second = ask(config, None, live).ranked
    assert (first.replica, first.load_s) == ("http://b", 0.0)
    assert (second.load_s, second.others_s) == (2.0, 0.0)
    assert second.first_token_s - first.first_token_s == pytest.approx(2.0)


def test_a_long_line_where_it_is_loaded_outweighs_a_load_elsewhere() -> None:
    """Always preferring who has it makes hot spots: here they are left as they come to be."""
    config, live = two_replicas(ADAPTED), Live()
    made = config.targets[ADAPTED.name]
    live.resident(made, "http://a", 0.0, 0.5)
    live.resident(made, "http://b", 1.0)
    assert first_replica(config, live) == "http://b"
    for _ in range(2):
        live.server("http://b").told(200)
    assert first_replica(config, live) == "http://a"


def test_who_runs_there_counts_against_a_load_and_so_does_a_copy_to_spare() -> None:
    config, live = two_replicas(ADAPTED), Live()
    made = config.targets[ADAPTED.name]
    live.resident(made, "http://a", 0.0, 2.0, spare=1.0)
    for n in range(3):
        live.started(made, "http://a", ROUTE, float(n))
    (cold,) = [each for each in ask(config, None, live).ranked if each.replica == "http://a"]
    assert cold.others_s == pytest.approx(2.0 * (3 + 1 * (1 + 3)))


def test_a_replica_that_cannot_load_the_adapter_is_out_of_its_choice_alone() -> None:
    config, live = two_replicas(ADAPTED), Live()
    made = config.targets[ADAPTED.name]
    live.bar(made, "http://a", "500: out of memory")
    assert [each.replica for each in ask(config, None, live).ranked] == ["http://b"]
    live.bar(made, "http://b", "500: out of memory")
    decision = ask(config, None, live)
    assert not decision.ranked
    assert decision.ruled_out[0].by == "away"
    assert "500: out of memory" in decision.ruled_out[0].reason
    live.bar(made, "http://a", "")
    assert first_replica(config, live) == "http://a"


def cold_world(on_cold: Any) -> tuple[Snapshot, Live]:
    chosen = policy(waiting_first_token=1e-4)
    config = world(msgspec.structs.replace(chosen, on_cold=on_cold))
    live = Live()
    for url in config.targets[ADAPTED.name].replicas:
        live.resident(config.targets[ADAPTED.name], url, 0.0, 2.0)
    return config, live


@pytest.mark.parametrize(
    ("on_cold", "answers"),
    [
        (None, ADAPTED.name),
        ("wait", ADAPTED.name),
        ("base", "local/qwen"),
        ("external", "openai/mini"),
    ],
)
def test_a_policy_may_say_what_is_done_about_a_cold_adapter(
    on_cold: str | None, answers: str
) -> None:
    config, live = cold_world(on_cold)
    assert targets(ask(config, None, live))[0] == answers
    for url in config.targets[ADAPTED.name].replicas:
        live.resident(config.targets[ADAPTED.name], url, 1.0)
    assert targets(ask(config, None, live))[0] == ADAPTED.name


def test_who_waits_anyway_does_not_count_the_load() -> None:
    dear = policy(waiting_first_token=1.0)
    patient = world(msgspec.structs.replace(dear, on_cold="wait"))
    live = Live()
    for url in patient.targets[ADAPTED.name].replicas:
        live.resident(patient.targets[ADAPTED.name], url, 0.0, 60.0)
    assert targets(ask(world(dear), None, live))[0] != ADAPTED.name
    warm = {choice.target: choice for choice in ask(patient, None, live).ranked}
    assert warm[ADAPTED.name].net > -1.0
