"""Compositions in `gateway.yaml`: what they become, and what is wrong with those that cannot be."""

from pathlib import Path

import pytest

from gateway.types.compositions import Check, Composition, Judge, Step
from tests.config.trees import CONTRACTS, GATEWAY, GENERAL, loaded, problems

CASCADE = """\
compositions:
  queue:
    kind: cascade
    steps:
      - local/qwen
      - {name: adapted, target: local/qwen+contracts, system: prompts/own.md}
      - openai/mini
    checks: [{kind: regex, pattern: "[a-z]+"}]
    escalates: 20 %
    max_cost: 0.01 usd
"""
FILES = {"gateway.yaml": GATEWAY + CASCADE, "prompts/own.md": "Say one word.\n"}


def test_a_cascade_is_a_target_of_its_steps(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, FILES).snapshot
    word = (Check("regex", pattern="[a-z]+"),)
    assert snapshot.compositions == {
        "composed/queue": Composition(
            "queue",
            "cascade",
            (
                Step("1", "local/qwen", word),
                Step("adapted", "local/qwen+contracts", word, "Say one word."),
                Step("3", "openai/mini"),
            ),
            0.2,
            0.01,
        )
    }
    composed = snapshot.targets["composed/queue"]
    local, mini = snapshot.targets["local/qwen"], snapshot.targets["openai/mini"]
    assert not composed.internal
    assert composed.price.input == pytest.approx(1.2 * local.price.input + 0.04 * mini.price.input)
    assert composed.first_token_s == pytest.approx(1.2 * 4.5 + 0.04 * 0.5)
    told = composed.output_tokens / composed.tokens_per_s
    assert composed.first_token_s + told == pytest.approx(1.24 * 4.5)


def test_files_that_it_names_are_part_of_the_configuration(tmp_path: Path) -> None:
    schema = '{"type": "object"}'
    checked = CASCADE.replace('{kind: regex, pattern: "[a-z]+"}', "{kind: schema, schema: s.json}")
    files = {**FILES, "gateway.yaml": GATEWAY + checked, "s.json": schema}
    found = loaded(tmp_path, files)
    assert {"s.json", "prompts/own.md"} <= set(found.texts)
    step = found.snapshot.compositions["composed/queue"].steps[0]
    assert step.checks == (Check("schema", schema=schema.encode()),)


def test_routes_aliases_and_experiments_may_name_it(tmp_path: Path) -> None:
    files = {
        **FILES,
        "gateway.yaml": GATEWAY.replace("gpt-4o: auto", "gpt-4o: composed/queue") + CASCADE,
        "routes/general.yaml": GENERAL.replace("openai/mini", "composed/queue")
        + "shadow: {target: composed/queue, traffic: 5 %, budget: 1 usd}\n"
        "experiments:\n  two: {arms: {a: composed/queue, b: openai/mini}, traffic: 10 %}\n",
    }
    assert not problems(tmp_path, files)


CASES = [
    ("- local/qwen\n", "- local/quen\n", "steps[0]", "unknown target `local/quen`"),
    ("target: local/qwen+contracts", "target: composed/queue", "steps[1].target", "composition"),
    ("name: adapted", 'name: "3"', "steps[2]", "another step is called `3`, too"),
    ('    checks: [{kind: regex, pattern: "[a-z]+"}]\n', "", "steps[0]", "nothing checks"),
    ('"[a-z]+"', '"[a-z"', "checks[0].pattern", ""),
    ("prompts/own.md", "prompts/none.md", "steps[1].system", "there is no file"),
    ('regex, pattern: "[a-z]+"', "schema, schema: {type: 7}", "checks[0].schema", "JSON Schema"),
    (
        'regex, pattern: "[a-z]+"',
        "schema, schema: {$ref: http://127.0.0.1:9/x.json}",
        "checks[0].schema",
        "refers to http://127.0.0.1:9/x.json",
    ),
    ('regex, pattern: "[a-z]+"', "schema, schema: none.json", "checks[0].schema", "no file"),
    ("- openai/mini\n    checks", "- {target: openai/mini, checks: [{kind: contains, text: a}]}"
     "\n    checks", "steps[2].checks", "no step after the last"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "key", "said"), CASES)
def test_problems_name_the_place_and_the_mend(
    tmp_path: Path, old: str, new: str, key: str, said: str
) -> None:
    assert old in CASCADE
    files = {**FILES, "gateway.yaml": GATEWAY + CASCADE.replace(old, new)}
    found = problems(tmp_path, files)[0]
    assert (found.file, found.key) == ("gateway.yaml", f"compositions.queue.{key}")
    assert found.line > GATEWAY.count("\n")
    assert said in found.message
    assert found.mend


MORE = """\
compositions:
  voted:
    kind: best_of
    steps: [local/qwen]
    samples: 5
    temperature: 0.4
    choose: {by: vote, alike: number}
  chosen:
    kind: best_of
    steps: [local/qwen, openai/mini]
    choose: {by: judge, target: openai/mini, rubric: Correct., scale: 10}
  reviewed:
    kind: chain
    steps:
      - {name: draft, target: local/qwen}
      - {target: openai/mini, prompt: "Mend {draft}, asked {input}", max_tokens: 90}
  unsure:
    kind: cascade
    steps: [local/qwen, openai/mini]
    checks:
      - {kind: log_probability, least: 90 %}
      - {kind: agreement, samples: 4, least: 75 %, alike: json}
      - {kind: judge, target: openai/mini, rubric: Polite., least: 3}
"""


def test_the_other_kinds(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path, {"gateway.yaml": GATEWAY + MORE}).snapshot
    voted, chosen, reviewed, unsure = snapshot.compositions.values()
    one = (Step("1", "local/qwen"),)
    assert voted == Composition("voted", "best_of", one, samples=5, temperature=0.4, alike="number")
    assert chosen.judge == Judge("openai/mini", "Correct.", 10)
    assert reviewed.steps == (
        Step("draft", "local/qwen"),
        Step("2", "openai/mini", prompt="Mend {draft}, asked {input}", max_tokens=90),
    )
    assert unsure.steps[0].checks == (
        Check("log_probability", least=0.9),
        Check("agreement", least=0.75, samples=4, temperature=0.7, alike="json"),
        Check("judge", least=3.0, judge=Judge("openai/mini", "Polite.")),
    )
    local, mini = snapshot.targets["local/qwen"], snapshot.targets["openai/mini"]
    targets = snapshot.targets
    assert targets["composed/voted"].price.input == pytest.approx(5 * local.price.input)
    # Of five that are asked at the same time the slowest is waited for.
    assert 1.4 * 4.5 < targets["composed/voted"].first_token_s < 1.8 * 4.5
    assert targets["composed/voted"].internal
    expected = local.price.input + (1 + 2) * mini.price.input
    assert targets["composed/chosen"].price.input == pytest.approx(expected)
    assert 9.0 < targets["composed/chosen"].first_token_s < 1.8 * 9.0
    assert targets["composed/reviewed"].first_token_s == pytest.approx(5.0)
    expected = 4 * local.price.input + (1 + 0.5) * mini.price.input
    assert targets["composed/unsure"].price.input == pytest.approx(expected)
    assert not targets["composed/unsure"].internal


OTHERS = [
    ("samples: 5", "samples: 500", "voted.samples", "500 answers for one request"),
    ("samples: 5", "samples: 1", "voted.steps", "one answer is not chosen among"),
    ("{by: judge, target: openai/mini", "{by: judge, target: openai/max", "chosen.choose.target",
     "unknown target"),
    ("Mend {draft}", "Mend {drift}", "reviewed.steps[1].prompt", "neither"),
    ("Mend {draft}, asked {input}", "Mend it, asked {input}", "reviewed.steps[1].prompt",
     "nothing that a step before"),
    ("name: draft", "name: input", "reviewed.steps[0].name", "is the user's message"),
    ("samples: 4", "samples: 1", "unsure.checks[1].samples", "agrees with itself"),
    ("least: 3", "least: 9", "unsure.checks[2].least", "marks are from 1 to 5"),
    ("- {kind: judge, target: openai/mini", "- {kind: judge, target: composed/voted",
     "unsure.checks[2].target", "is a composition"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "key", "said"), OTHERS)
def test_problems_of_the_other_kinds(
    tmp_path: Path, old: str, new: str, key: str, said: str
) -> None:
    assert old in MORE
    found = problems(tmp_path, {"gateway.yaml": GATEWAY + MORE.replace(old, new)})
    places = {each.key: each for each in found}
    assert said in places[f"compositions.{key}"].message, found
    assert places[f"compositions.{key}"].mend


def test_arms_whose_steps_wait_at_the_same_replicas_are_told(tmp_path: Path) -> None:
    arms = "experiments: {two: {arms: {a: composed/voted, b: local/qwen}, traffic: 10 %}}\n"
    files = {"gateway.yaml": GATEWAY + MORE, "routes/general.yaml": GENERAL + arms}
    (found,) = problems(tmp_path, files)
    assert found.severity == "warning"
    assert "share replicas" in found.message


def test_log_probabilities_are_checked_only_where_they_are_told(tmp_path: Path) -> None:
    silent = GATEWAY.replace("id: Qwen/Qwen3-8B", "id: Qwen/Qwen3-8B\n        capabilities: "
                             "{log_probabilities: false}")  # fmt: skip
    (found,) = problems(tmp_path, {"gateway.yaml": silent + MORE})
    assert found.key == "compositions.unsure.checks[0]"
    assert "tells no log-probabilities" in found.message


def test_no_backend_is_called_composed(tmp_path: Path) -> None:
    files = {"gateway.yaml": GATEWAY.replace("  openai:", "  composed:"), "routes/general.yaml":
             GENERAL.replace("openai/mini", "composed/mini")}  # fmt: skip
    (found,) = problems(tmp_path, files)
    assert found.key == "backends.composed"


def test_data_that_is_internal_goes_to_no_composition_with_a_provider_in_it(
    tmp_path: Path,
) -> None:
    route = CONTRACTS.replace("target: local/qwen+contracts", "target: composed/queue")
    (found,) = problems(tmp_path, {**FILES, "routes/contract-summary.yaml": route})
    assert "not self-hosted" in found.message
    inside = CASCADE.replace("      - openai/mini\n", "")
    files = {**FILES, "gateway.yaml": GATEWAY + inside, "routes/contract-summary.yaml": route}
    assert not problems(tmp_path, files)
