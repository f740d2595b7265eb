"""Experiments in a route's file: what they become, and what is wrong with them."""

from pathlib import Path

import pytest

from gateway.types.experiments import Asked, Experiment
from gateway.types.routes import Shadow
from tests.config.trees import GENERAL, loaded, problems

METRICS = """\
metrics: {accepted: {type: boolean, from: feedback, right_when: true, within: 48 h}}
right: accepted
"""
GOOD = """\
experiments:
  mini-vs-ours:
    arms: {commercial: openai/mini, lora: local/qwen+contracts}
    traffic: 20 %
    stick_to: header:x-team
    question: {arm: lora, metric: accepted, no_worse_than: commercial, margin: 2 points}
    guards: {first_token_p95: 2 s, errors: 1 %}
    confidence: 95 %
    stop_at: {spend: 500 usd, days: 30}
    when_answered: promote
"""
FILE = "routes/general.yaml"


def test_an_experiment_is_read_as_it_is_written(tmp_path: Path) -> None:
    found = (
        loaded(tmp_path, {FILE: GENERAL + METRICS + GOOD}).snapshot.routes["general"].experiments
    )

    assert found == (
        Experiment(
            "mini-vs-ours",
            {"commercial": "openai/mini", "lora": "local/qwen+contracts"},
            {"commercial": 0.5, "lora": 0.5},
            0.2,
            stick_to="header:x-team",
            asked=Asked("lora", "commercial", "accepted", no_worse=True, margin=0.02),
            first_token_p95=2.0,
            errors=0.01,
            most_usd=500.0,
            most_s=30 * 86400.0,
            promote=True,
        ),
    )
    assert found[0].control == "commercial"


def test_a_question_without_an_arm_is_which_is_best(tmp_path: Path) -> None:
    best = GOOD.replace("arm: lora, ", "").replace("no_worse_than: commercial, ", "")
    text = best.replace("traffic:", "mode: bandit\n    traffic:")
    (found,) = (
        loaded(tmp_path, {FILE: GENERAL + METRICS + text}).snapshot.routes["general"].experiments
    )

    assert found.asked == Asked("", "", "accepted", no_worse=False, margin=0.02, best=True)
    assert found.control == "commercial"


@pytest.mark.parametrize(
    ("old", "new", "key", "said"),
    [
        ("openai/mini,", "openai/minni,", "arms.commercial", "unknown target `openai/minni`"),
        ("local/qwen+contracts", "openai/mini", "arms.lora", "has this target, too"),
        ("arm: lora", "arm: lara", "question.arm", "no arm `lara`"),
        ("no_worse_than: commercial", "no_worse_than: lora", "question", "with itself"),
        ("no_worse_than: commercial, ", "", "question", "compares with nothing"),
        ("arm: lora, ", "", "question", "is about no arm"),
        ("margin: 2 points", "margin: 2 %", "question.margin", "unknown unit `%`"),
        ("traffic: 20 %", "traffic: 0 %", "traffic", "is nothing"),
        ("95 %", "100 %", "confidence", "is no confidence"),
        ("header:x-team", "team", "stick_to", "nothing that an arm can stick to"),
        ("20 %", "20 %\n    shares: {lora: 30 %, commercial: 60 %}", "shares", "90 % together"),
        ("20 %", "20 %\n    shares: {lora: 100 %}", "shares", "must have each arm"),
        ("metric: accepted", "metric: acepted", "question.metric", "unknown metric `acepted`"),
        ("20 %", "20 %\n    winner: loser", "winner", "no arm `loser`"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, old: str, new: str, key: str, said: str) -> None:
    (found,) = problems(tmp_path, {FILE: GENERAL + METRICS + GOOD.replace(old, new, 1)})

    assert found.key == f"experiments.mini-vs-ours.{key}"
    assert said in found.message
    assert found.mend


def test_what_does_not_go_together_is_told(tmp_path: Path) -> None:
    more = GOOD.partition("\n")[2].replace("20 %", "90 %").replace("header:x-team", "key")
    second = more.replace("mini-vs-ours", "second")
    found = problems(tmp_path, {FILE: GENERAL + METRICS + GOOD + second})

    assert [each.key for each in found] == ["experiments", "experiments.second.stick_to"]
    assert "110 % of the route's traffic together" in found[0].message
    again = GENERAL.replace("name: general", "name: other\nmatch: named") + METRICS + GOOD
    found = problems(tmp_path, {FILE: GENERAL + METRICS + GOOD, "routes/other.yaml": again})
    assert [each.message for each in found] == [
        "there is an experiment `mini-vs-ours` already, in routes/general.yaml"
    ]


def test_data_that_must_stay_inside_is_given_to_no_arm_outside(tmp_path: Path) -> None:
    inside = GENERAL.replace("openai/mini", "local/qwen+contracts") + "data: internal\n"
    (found,) = problems(tmp_path, {FILE: inside + METRICS + GOOD})

    assert found.key == "experiments.mini-vs-ours.arms.commercial"
    assert "not self-hosted" in found.message


def test_arms_that_wait_for_each_other_are_told_of(tmp_path: Path) -> None:
    ours = GENERAL + METRICS + GOOD.replace("openai/mini", "local/qwen")
    (found,) = problems(tmp_path, {FILE: ours})

    assert found.severity == "warning"
    assert "`commercial` and `lora` share replicas" in found.message
    switched = ours.replace("traffic:", "latency: switchback\n    slot: 10 m\n    traffic:")
    assert problems(tmp_path, {FILE: switched}) == []
    (one,) = loaded(tmp_path, {FILE: switched}).snapshot.routes["general"].experiments
    assert one.slot_s == 600.0


def test_a_shadow_is_some_target_and_inside_where_data_is(tmp_path: Path) -> None:
    shadow = "shadow: {target: openai/mini, traffic: 5 %, budget: 5 usd}\n"
    found = loaded(tmp_path, {FILE: GENERAL + shadow}).snapshot.routes["general"].shadow
    assert found == Shadow("openai/mini", 0.05, 5.0)

    (unknown,) = problems(tmp_path, {FILE: GENERAL + shadow.replace("mini", "minni")})
    assert (unknown.key, unknown.message) == ("shadow.target", "unknown target `openai/minni`")
    inside = GENERAL.replace("openai/mini", "local/qwen+contracts") + "data: internal\n"
    (outside,) = problems(tmp_path, {FILE: inside + shadow})
    assert "not self-hosted" in outside.message
