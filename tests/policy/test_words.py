"""What a policy and a decision say of themselves."""

import msgspec
import pytest

from gateway.policy.decide import decide
from gateway.policy.live import Live
from gateway.policy.words import describe, dollars, number, percent, verdicts
from gateway.types.decisions import Decision, Question
from gateway.types.policies import Limits, Policy
from gateway.types.snapshot import Snapshot

from .world import POLICY, ROUTE, policy, question, route, snapshot, target

LOCAL = target("local/qwen", internal=True, input_price=1e-7, output_price=1e-7)
MINI = target("openai/mini", first_token_s=0.4, tokens_per_s=100.0)
LARGE = target("openai/large", input_price=1e-5, output_price=4e-5)
QUALITIES = [("local/qwen", 0.80), ("openai/mini", 0.90), ("openai/large", 0.98)]


def world(chosen: Policy | None = None) -> Snapshot:
    return snapshot([route(QUALITIES)], [LOCAL, MINI, LARGE], chosen or policy())


def ask(
    config: Snapshot, asked: Question | None = None, live: Live | None = None, draw: float = 0.5
) -> Decision:
    return decide(asked or question(), config, live or Live(), draw)


def said(
    config: Snapshot, asked: Question | None = None, live: Live | None = None, draw: float = 0.5
) -> dict[str, str]:
    decision = ask(config, asked, live, draw)
    return {
        choice.target: verdict
        for choice, verdict in zip(decision.ranked, verdicts(decision, config), strict=True)
    }


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (0.0, "$0"),
        (0.02, "$0.02"),
        (0.0021, "$0.0021"),
        (0.00215, "$0.0022"),
        (3.2e-7, "$0.00000032"),
        (12.0, "$12"),
        (1234.5, "$1,234"),
        (-0.004, "-$0.004"),
        (100.0, "$100"),
    ],
)
def test_dollars_have_two_figures_and_no_exponent(amount: float, text: str) -> None:
    assert dollars(amount) == text


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(0.1, 2, "0.1"), (1.5, 2, "1.5"), (0.123456, 3, "0.123"), (10.0, 2, "10"), (0, 2, "0")],
)
def test_numbers_have_as_many_figures_as_asked(value: float, digits: int, text: str) -> None:
    assert number(value, digits) == text


def test_shares_are_percentages() -> None:
    assert [percent(share) for share in (0.05, 0.125, 1.0)] == ["5 %", "12.5 %", "100 %"]


def test_a_policy_says_what_a_point_of_quality_is_worth() -> None:
    chosen = policy(
        limits=Limits(cost=0.01, first_token_p95=1.5, quality=0.8), switch_margin=0.05, explore=0.02
    )
    assert describe(chosen, route([], value=0.02)).splitlines() == [
        "balanced: the greatest net value in dollars wins.",
        "",
        "  net = value x P(right) - price - $0.002 x seconds to the first token"
        " - $0.0005 x seconds in all",
        "",
        "With an answer worth $0.02 (work): one point of quality is worth $0.0002, as much as"
        " 0.1 s to the first token or 0.4 s of the whole answer.",
        "Limits: a price of at most $0.01, the first token within 1.5 s (95 of 100 times),"
        " a quality of at least 0.8.",
        "If nothing is within the limits, the least bad is taken.",
        "Another target takes over only when it is better by more than 5 %.",
        "2 % of the requests explore: any candidate that fits, at random.",
        "Where one fails, at most 2 candidates are asked, and one again where that is cheaper than"
        " the next, once at most, after 0.2 s to 5 s.",
    ]


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (policy(limits=Limits(whole_p95=8.0), refuse=True), "the whole answer within 8 s"),
        (policy(limits=Limits(whole_p95=8.0), refuse=True), "refused (503)"),
        (policy(), "No limits."),
        (policy(), "With an answer worth $0.01:"),
        (policy(), "Nothing is explored"),
        (policy(waiting_first_token=0, waiting_whole=0), "waiting costs nothing"),
        (policy(value_weight=2.0), "net = 2 x value x P(right) - price"),
        (policy(value_weight=2.0), "one point of quality is worth $0.0002, as much as 0.1 s"),
        (policy(price_weight=2.0), "one point of quality is worth $0.00005"),
        (policy(price_weight=0.0), "counts $0.0001, and the price for nothing"),
        (
            policy(value_weight=0.0, waiting_first_token=0, waiting_whole=0),
            "quality and waiting count for nothing, only the price",
        ),
        (policy(value_weight=0.0, price_weight=0.0), "only waiting"),
        (policy(value_weight=0.0), "one cent buys 5 s to the first token or 20 s of the whole"),
    ],
)
def test_a_policy_says_what_counts_and_what_does_not(chosen: Policy, words: str) -> None:
    assert words in describe(chosen)


def test_the_winner_and_each_loser_say_why() -> None:
    verdict = said(world())
    assert verdict["openai/mini"] == "the greatest net value"
    assert verdict["local/qwen"].startswith("$0.0024 less: right less often (0.80, not 0.90)")
    assert "though cheaper by $0.00087" in verdict["local/qwen"]
    assert verdict["openai/large"].startswith("$0.0078 less: dearer by $0.0081")
    assert verdict["openai/large"].endswith("though right more often (0.98, not 0.90)")


def test_two_shares_that_differ_are_told_apart() -> None:
    near = [("local/qwen", 0.9301), ("openai/mini", 0.9304)]
    config = snapshot([route(near, value=10.0)], [LOCAL, MINI], policy())
    verdict = said(config)["local/qwen"]
    assert "right less often (0.9301, not 0.9304)" in verdict


def test_an_explored_choice_says_so() -> None:
    verdict = said(world(policy(explore=0.3)), draw=0.29)
    assert verdict["openai/large"] == "explored (the draw was 0.29, under 0.3)"
    assert verdict["openai/mini"] == "$0.0078 more, but this request explored"


def test_a_kept_incumbent_says_so() -> None:
    live = Live()
    live.incumbents[ROUTE, POLICY] = "local/qwen"
    verdict = said(world(policy(switch_margin=0.5)), live=live)
    assert verdict["local/qwen"] == "kept: the best is not better by more than 50 %"
    assert verdict["openai/mini"] == "$0.0024 more, not enough to switch (50 %)"


def test_a_named_target_says_so() -> None:
    assert said(world(), question(only="openai/large")) == {
        "openai/large": "the target that was asked for"
    }


def test_a_named_target_that_is_no_candidate_says_so() -> None:
    config = snapshot([route([("local/qwen", 0.8)])], [LOCAL, MINI], policy())
    assert said(config, question(only="openai/mini")) == {
        "openai/mini": "the target that was asked for"
    }


def test_the_only_one_left_says_so() -> None:
    verdict = said(world(policy(limits=Limits(cost=0.0001))))
    assert verdict == {"local/qwen": "the only one left"}


def test_the_least_bad_says_so() -> None:
    verdict = said(world(policy(limits=Limits(cost=0.0))))
    assert verdict["openai/mini"] == "the least bad: none is within the limits"


def test_another_replica_says_so() -> None:
    pair = target("local/qwen", internal=True, replicas=("http://one", "http://two"))
    config = snapshot([route([("local/qwen", 0.9)])], [pair], policy())
    live = Live()
    live.started(pair, "http://one", ROUTE, 0.0)
    decision = ask(config, live=live)
    assert verdicts(decision, config)[1].startswith("another replica: $0.00006")
    assert verdicts(ask(config), config)[1] == (
        "another replica: as good, but slower or declared later"
    )


def test_a_decision_that_ranks_nothing_has_no_verdict() -> None:
    config = snapshot([route([("openai/mini", 0.9)], internal=True)], [MINI], policy())
    assert verdicts(ask(config), config) == ()


def test_an_old_decision_can_be_read_with_a_snapshot_that_lost_its_route_and_policy() -> None:
    decision = ask(world())
    other = snapshot([route(QUALITIES, name="other")], [MINI])
    other = msgspec.structs.replace(other, policies={"another": Policy("another")})
    assert verdicts(decision, other) == (
        "the greatest net value",
        "$0.0024 less",
        "$0.0078 less",
    )
