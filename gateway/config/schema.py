"""The JSON Schemas of the kinds of file, for editors. `python -m gateway.config.schema`."""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from gateway.config.fields import Read
from gateway.config.files.gateway import GatewayFile
from gateway.config.files.part import Part
from gateway.config.files.policies import PolicyFile
from gateway.config.files.routes import RouteFile
from gateway.config.files.suites import SuiteFile

FILES: Mapping[str, type[BaseModel]] = {
    "gateway.json": GatewayFile,
    "route.json": RouteFile,
    "policy.json": PolicyFile,
    "suite.json": SuiteFile,
}
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, str]:
    """The text of each schema by file name."""
    return {name: _written(model) for name, model in FILES.items()}


def stale(directory: Path) -> list[Path]:
    """The schemas in `directory` that are missing or not what the models say."""
    return [
        directory / name
        for name, text in schemas().items()
        if not (directory / name).is_file() or (directory / name).read_text("utf-8") != text
    ]


def write(directory: Path) -> list[Path]:
    """Writes every schema."""
    directory.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in schemas().items():
        path = directory / name
        path.write_text(text, "utf-8")
        written.append(path)
    return written


def run(directory: Path, *, check: bool) -> int:
    """Writes the schemas, or checks that they are current; the exit code."""
    if not check:
        for path in write(directory):
            print(f"wrote {path}")
        return 0
    old = stale(directory)
    for path in old:
        print(f"{path} is not current; write it with: switchboard schema {directory}")
    return 1 if old else 0


def default_text(field: FieldInfo) -> str | None:
    """A field's default as people write it; None where leaving it out means nothing is there."""
    default = field.default
    if field.is_required() or isinstance(default, Part) or default in (None, "", {}, []):
        return None
    show = next((each.show for each in field.metadata if isinstance(each, Read)), str)
    return show(default)


class _Generate(GenerateJsonSchema):
    """Defaults are said in words, because most of them are read into other units than written."""

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def get_title_from_name(self, name: str) -> str:
        return ""


def _written(model: type[BaseModel]) -> str:
    schema = {"$schema": DIALECT, **model.model_json_schema(schema_generator=_Generate)}
    parts = _parts(model)
    for definition in [schema, *schema.get("$defs", {}).values()]:
        part = parts.get(definition.get("title", ""))
        if part is not None:
            _say_defaults(definition, part)
    return json.dumps(_tidy(schema), indent=2, ensure_ascii=False) + "\n"


def _say_defaults(definition: dict[str, Any], part: type[BaseModel]) -> None:
    for name, field in part.model_fields.items():
        default = default_text(field)
        if default is not None:
            said = definition["properties"][field.alias or name]
            said["description"] = f"{said['description']} Default: `{default}`."


def _parts(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """The model and everything below `Part` that its file can hold, by name."""
    return {part.__name__: part for part in [model, *_subclasses(Part)]}


def _subclasses(part: type[BaseModel]) -> list[type[BaseModel]]:
    below = part.__subclasses__()
    return [*below, *(each for one in below for each in _subclasses(one))]


def _tidy(schema: Any) -> Any:
    """Without pydantic's titles, which say nothing that the keys do not."""
    if isinstance(schema, dict):
        return {
            key: _tidy(value)
            for key, value in schema.items()
            if not (key == "title" and isinstance(value, str))
        }
    return [_tidy(each) for each in schema] if isinstance(schema, list) else schema


def main() -> int:
    """The command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m gateway.config.schema", description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=Path("schemas"))
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if not current")
    arguments = parser.parse_args()
    return run(arguments.directory, check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
