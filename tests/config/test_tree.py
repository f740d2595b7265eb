"""The configuration at the top of the tree works, and so does the one that `init` writes."""

import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from demo import tasks
from gateway.classify.lexical import fit_lexical
from gateway.config.init import NothingWritten, starting_files, write
from gateway.config.load import load
from gateway.types.snapshot import Snapshot

ROOT = Path(__file__).parents[2]
FIRST_LINE = re.compile(r"# yaml-language-server: \$schema=(\S+)\n")
VARIABLE = re.compile(r"\$\{[^}]*\}")


def files_of(directory: Path) -> list[Path]:
    """Every YAML file of a configuration."""
    return [
        directory / "gateway.yaml",
        *sorted((directory / "routes").glob("*.yaml")),
        *sorted((directory / "policies").glob("*.yaml")),
    ]


def check_against_its_schema(path: Path) -> None:
    """As an editor does it: the schema that the first line names, the text as it stands."""
    text = path.read_text("utf-8")
    first = FIRST_LINE.match(text)
    assert first is not None, f"{path} does not name its schema"
    found = yaml.safe_load((path.parent / first[1]).read_text("utf-8"))
    Draft202012Validator(found).validate(yaml.safe_load(text))


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    """The tree's own configuration with nothing set in the environment."""
    found = load(ROOT, {})
    assert found.warnings == ()
    return found.snapshot


@pytest.mark.parametrize("path", files_of(ROOT), ids=lambda path: path.name)
def test_each_file_of_the_tree_fits_its_schema(path: Path) -> None:
    check_against_its_schema(path)


def test_there_are_enough_routes_and_policies(snapshot: Snapshot) -> None:
    assert len(snapshot.routes) >= 6
    assert {"balanced", "cheapest", "fastest", "best"} <= set(snapshot.policies)


def test_each_route_is_in_the_file_of_its_name(snapshot: Snapshot) -> None:
    assert {path.stem for path in (ROOT / "routes").glob("*.yaml")} == set(snapshot.routes)
    assert {path.stem for path in (ROOT / "policies").glob("*.yaml")} == set(snapshot.policies)


def test_each_task_of_the_demo_is_a_route(snapshot: Snapshot) -> None:
    assert set(tasks.TASKS) <= set(snapshot.routes)
    assert {f"local/tiny+{name}" for name in tasks.ADAPTERS} <= set(snapshot.targets)
    for name in tasks.ADAPTERS:
        candidates = snapshot.routes[name].candidates
        best = max(candidates, key=lambda candidate: candidate.quality)
        assert best.target == f"local/tiny+{name}"


def test_each_declared_adapter_lies_where_it_is_declared(snapshot: Snapshot) -> None:
    for adapter in snapshot.adapters:
        here = Path(snapshot.backends[adapter.backend].adapters_here)
        for version in adapter.versions:
            assert version.mix or (here / str(version.source) / "adapter_config.json").is_file()


def test_no_example_is_a_prompt_that_the_demo_tests_with(snapshot: Snapshot) -> None:
    tested = {
        example.prompt for task in tasks.TASKS for example in tasks.sample(task, 500, 0, "test")
    }
    for route in snapshot.routes.values():
        assert len(route.match.examples) >= 10
        assert tested.isdisjoint(route.match.examples)


EVERYDAY = ("please", "thanks", "thank", "hello", "hi", "again", "want", "not", "great")


@pytest.mark.parametrize("word", EVERYDAY)
def test_an_everyday_word_speaks_for_no_route(snapshot: Snapshot, word: str) -> None:
    """One that stands in a single route's examples draws every polite turn to it."""
    said = re.compile(rf"\b{word}\b", re.IGNORECASE)
    routes = {
        route.name
        for route in snapshot.routes.values()
        if any(said.search(example) for example in route.match.examples)
    }
    assert len(routes) != 1
    classifier = fit_lexical(
        [(text, route.name) for route in snapshot.routes.values() for text in route.match.examples]
    )
    assert classifier.predict(word).confidence < classifier.threshold


def test_the_environment_says_where_the_backends_are() -> None:
    env = {
        "SWITCHBOARD_VLLM_URL": "http://gpu:8000/v1/",
        "SWITCHBOARD_COMMERCIAL_URL": "https://api.example/v1",
        "SWITCHBOARD_COMMERCIAL_KEY": "sk-real",
    }
    found = load(ROOT, env).snapshot
    assert found.backends["local"].replicas == ("http://gpu:8000",)
    assert found.backends["commercial"].replicas == ("https://api.example/v1",)
    assert found.backends["commercial"].api_key == "sk-real"


# ---------------------------------------------------------------- init


def test_what_init_writes_is_valid_as_it_stands(tmp_path: Path) -> None:
    written = write(tmp_path / "new")
    assert {path.relative_to(tmp_path / "new").as_posix() for path in written} == set(
        starting_files()
    )
    found = load(tmp_path / "new", {})
    assert found.warnings == ()
    assert found.snapshot.routes
    for path in files_of(tmp_path / "new"):
        check_against_its_schema(path)


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "balanced.yaml").write_text("mine")
    with pytest.raises(NothingWritten, match=r"balanced\.yaml would be overwritten"):
        write(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["balanced.yaml"]
    assert (tmp_path / "policies" / "balanced.yaml").read_text() == "mine"


def test_every_file_that_init_writes_says_what_it_is_for() -> None:
    for name, text in starting_files().items():
        if name.endswith(".yaml"):
            assert text.count("#") >= 3, name
