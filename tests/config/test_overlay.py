"""One file over another for an environment."""

from pathlib import Path

import pytest

from gateway.config.load import Loaded, load, load_texts
from gateway.errors import ConfigError, Problem
from tests.config.trees import ENV, FILES, write

OVERLAY = """\
default_route: contract-summary
aliases: {gpt-4o: null, all: general}
backends:
  local: {replicas: [http://10.0.0.1:8000, http://10.0.0.2:8000]}
  openai:
    models: {mini: {price: {output: 9 usd/Mtok}}}
"""


def over(directory: Path, overlay: str, environment: str = "prod") -> Loaded:
    write(directory, {**FILES, "gateway.prod.yaml": overlay})
    return load(directory, ENV, environment)


def problems(directory: Path, overlay: str, environment: str = "prod") -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as raised:
        over(directory, overlay, environment)
    return raised.value.problems


def test_mappings_are_merged_lists_replaced_and_null_takes_out(tmp_path: Path) -> None:
    found = over(tmp_path, OVERLAY)
    snapshot = found.snapshot
    assert snapshot.default_route == "contract-summary"
    assert snapshot.aliases == {"all": "general"}
    assert snapshot.backends["local"].replicas == ("http://10.0.0.1:8000", "http://10.0.0.2:8000")
    price = snapshot.targets["openai/mini"].price
    assert (price.input, price.output) == (0.25e-6, 9e-6)
    assert "gateway.prod.yaml" in found.texts
    assert load(tmp_path, ENV).snapshot.default_route == "general"


def test_its_texts_load_as_it_does(tmp_path: Path) -> None:
    found = over(tmp_path, OVERLAY)
    again = load_texts(found.texts, tmp_path, ENV, "prod")
    assert again.snapshot.hash == found.snapshot.hash
    assert again.texts == found.texts


@pytest.mark.parametrize(
    ("overlay", "line", "key"),
    [
        ("\n\ndefault_route: nowhere\n", 3, "default_route"),
        ("backends:\n  openai:\n    kinf: x\n", 3, "backends.openai.kinf"),
        ("backends:\n  local:\n    replica_hour: lots\n", 3, "backends.local.replica_hour"),
        ("aliases:\n  gpt-4o: ${NOT_SET}\n", 2, "aliases.gpt-4o"),
    ],
)
def test_what_is_wrong_in_it_is_found_in_it(
    overlay: str, line: int, key: str, tmp_path: Path
) -> None:
    (problem,) = (each for each in problems(tmp_path, overlay) if each.key == key)
    assert problem.file.endswith("gateway.prod.yaml")
    assert problem.line == line


def test_what_is_wrong_below_it_is_found_there(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "backends: {local: {models: {qwen: {id: null}}}}\n")
    assert "qwen" in problem.key
    assert problem.file.endswith("gateway.yaml")


def test_an_environment_without_a_file_is_a_mistake(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, OVERLAY, "prd")
    assert "the environment is `prd`" in problem.message
    assert problem.mend == "did you mean `prod`?"
