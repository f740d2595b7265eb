"""The schemas that editors use: current, and of one mind with the models."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import BaseModel, TypeAdapter

from gateway.config import docs, schema
from gateway.config.files.gateway import GatewayFile
from gateway.config.files.part import Part
from gateway.config.files.policies import PolicyFile
from gateway.config.files.routes import RouteFile
from tests.config.trees import FILES

ROOT = Path(__file__).parents[2]
KINDS = {"gateway.yaml": "gateway.json", "routes": "route.json", "policies": "policy.json"}


def validator(name: str) -> Draft202012Validator:
    """The schema of that name, itself checked."""
    text = schema.schemas()[name]
    found: dict[str, Any] = yaml.safe_load(text)
    Draft202012Validator.check_schema(found)
    return Draft202012Validator(found)


def parts(of: type[BaseModel] = Part) -> list[type[BaseModel]]:
    """Every model of a mapping in the files."""
    below = of.__subclasses__()
    return [*below, *(each for part in below for each in parts(part))]


def test_the_schemas_in_the_tree_are_current() -> None:
    assert schema.stale(ROOT / "schemas") == []


def test_the_reference_in_the_tree_is_current() -> None:
    assert (ROOT / docs.PAGE).read_text("utf-8") == docs.page()


def test_a_schema_that_is_not_current_is_named(tmp_path: Path) -> None:
    schema.write(tmp_path)
    assert schema.run(tmp_path, check=True) == 0
    (tmp_path / "route.json").write_text("{}")
    (tmp_path / "policy.json").unlink()
    assert schema.stale(tmp_path) == [tmp_path / "route.json", tmp_path / "policy.json"]
    assert schema.run(tmp_path, check=True) == 1
    assert (tmp_path / "route.json").read_text() == "{}"
    assert schema.run(tmp_path, check=False) == 0
    assert schema.stale(tmp_path) == []


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".yaml")])
def test_what_the_models_take_the_schemas_take(name: str) -> None:
    data = yaml.safe_load(FILES[name].replace("${OPENAI_API_KEY}", "'${OPENAI_API_KEY}'"))
    validator(KINDS[name.partition("/")[0]]).validate(data)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("policy.json", "{name: a, explore: 2 percent}"),
        ("policy.json", "{name: a, explor: 2 %}"),
        ("policy.json", "{name: A Policy}"),
        ("policy.json", "{name: a, limits: {cost: 1}}"),
        ("policy.json", "{name: a, if_none_fits: worst}"),
        ("policy.json", "{}"),
        ("route.json", "{name: a, value: 1 usd, policy: b, candidates: []}"),
        ("route.json", "{name: a, value: 1 usd, policy: b, candidates: [{target: a/b}]}"),
        ("route.json", "{name: a, value: 1 usd, policy: b, candidates: [], match: any}"),
        ("gateway.json", "{default_route: a, backends: {b: {kind: vlm, models: {}}}}"),
        ("gateway.json", "{default_route: a, backends: {}}"),
    ],
)
def test_what_the_models_refuse_the_schemas_refuse(name: str, text: str) -> None:
    assert list(validator(name).iter_errors(yaml.safe_load(text)))


def test_a_variable_may_stand_for_any_value_that_is_text_number_or_switch() -> None:
    text = """
    {default_route: a, server: {max_open: '${A}', max_body: '${B}'}, backends: {b: {kind: openai,
     internal: '${C}', url: '${D}', models: {m: {id: x, typical: {tokens_per_second: '${E}'}}}}}}
    """
    validator("gateway.json").validate(yaml.safe_load(text))


@pytest.mark.parametrize("part", parts(), ids=lambda part: part.__name__)
def test_every_key_is_described_and_its_examples_are_right(part: type[BaseModel]) -> None:
    assert part.__doc__
    for name, field in part.model_fields.items():
        assert field.description, name
        if name == "kind" and field.is_required():
            continue
        assert field.examples, name
        adapter: TypeAdapter[Any] = TypeAdapter(field.rebuild_annotation())
        for example in field.examples:
            adapter.validate_python(example)


@pytest.mark.parametrize("model", [GatewayFile, RouteFile, PolicyFile])
def test_the_reference_has_every_key(model: type[BaseModel]) -> None:
    page = docs.page()
    for part in [model, *parts()]:
        for name, field in part.model_fields.items():
            assert f"| `{field.alias or name}` | {field.description} |" in page
