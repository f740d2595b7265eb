"""Compositions in `gateway.yaml`: what they become, and what is wrong with those that cannot be."""

from pathlib import Path

import pytest

from gateway.types.compositions import Check, Composition, Step
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
