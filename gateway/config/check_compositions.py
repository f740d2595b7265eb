"""Whether the compositions of `gateway.yaml` can be performed, and what each check needs."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from gateway.config.compile_compositions import checks_of, step_parts
from gateway.config.fields import TENANT
from gateway.config.files.compositions import CascadePart, SchemaPart, StepPart
from gateway.config.files.gateway import GatewayFile
from gateway.config.sheets import Sheet
from gateway.config.words import did_you_mean
from gateway.config.yaml import Path
from gateway.errors import Problem
from gateway.types.backends import Target
from gateway.types.compositions import BACKEND


def check_compositions(
    sheet: Sheet[GatewayFile],
    file: GatewayFile,
    targets: Mapping[str, Target],
    texts: Mapping[str, str],
) -> Iterator[Problem]:
    """What is wrong with them. `texts` are those of the files that could be read."""
    if BACKEND in file.backends:
        yield sheet.problem(
            ("backends", BACKEND),
            f"`{BACKEND}` is what the targets of compositions begin with",
            "give the backend another name",
        )
    for name, part in file.compositions.items():
        path: Path = ("compositions", name)
        known = [target for target in targets if not target.startswith(f"{BACKEND}/")]
        yield from _steps(sheet, path, part, known)
        yield from _endpoints(sheet, path, part, targets)
        yield from _checked(sheet, path, part)
        yield from _schemas(sheet, path, part, texts)


def _steps(
    sheet: Sheet[GatewayFile], path: Path, part: CascadePart, known: Sequence[str]
) -> Iterator[Problem]:
    names: dict[str, int] = {}
    for index, step in enumerate(step_parts(part)):
        where = _target_at(path, part, index)
        if step.target.startswith(f"{BACKEND}/"):
            yield sheet.problem(
                where,
                f"`{step.target}` is a composition, and a step of one is none itself",
                "name the targets that it is made of",
            )
        elif TENANT in step.target or step.target not in known:
            yield sheet.problem(
                where,
                f"unknown target `{step.target}`",
                did_you_mean(step.target, known, "declare it under `backends` first"),
            )
        name = step.name or ""
        if names.setdefault(name, index) != index:
            yield sheet.problem(
                (*path, "steps", index),
                f"another step is called `{name}`, too",
                "give each a name of its own, or none",
            )


def _target_at(path: Path, part: CascadePart, index: int) -> Path:
    where: Path = (*path, "steps", index)
    return (*where, "target") if isinstance(part.steps[index], StepPart) else where


def _endpoints(
    sheet: Sheet[GatewayFile], path: Path, part: CascadePart, targets: Mapping[str, Target]
) -> Iterator[Problem]:
    for index, step in enumerate(step_parts(part)):
        target = targets.get(step.target)
        if target is not None and "chat/completions" not in target.capabilities.endpoints:
            yield sheet.problem(
                _target_at(path, part, index),
                f"`{step.target}` does not serve chat, and compositions serve nothing else",
                "name a model that does",
            )


def _checked(sheet: Sheet[GatewayFile], path: Path, part: CascadePart) -> Iterator[Problem]:
    """An answer that nothing checks would never escalate."""
    steps = step_parts(part)
    for index, step in enumerate(steps[:-1]):
        if not step.checks and not part.checks:
            yield sheet.problem(
                (*path, "steps", index),
                "nothing checks its answer, so no further step would ever be asked",
                'add `checks: [{kind: regex, pattern: "…"}]` to the cascade or to the step',
            )
    if steps[-1].checks:
        yield sheet.problem(
            (*path, "steps", len(steps) - 1, "checks"),
            "there is no step after the last for an answer that does not pass",
            "leave them out",
        )


def _schemas(
    sheet: Sheet[GatewayFile], path: Path, part: CascadePart, texts: Mapping[str, str]
) -> Iterator[Problem]:
    for place, check in checks_of(part):
        if not isinstance(check, SchemaPart):
            continue
        written = check.schema_
        where: Path = (*path, *place, "schema")
        if isinstance(written, str) and written not in texts:
            continue
        try:
            from jsonschema.exceptions import SchemaError
            from jsonschema.validators import validator_for
        except ImportError:
            yield sheet.problem(
                where,
                "checks by JSON Schema need the library jsonschema, which is not installed",
                "pip install 'switchboard[evals]'",
            )
            return
        try:
            schema = msgspec.json.decode(texts[written]) if isinstance(written, str) else written
            validator_for(schema).check_schema(schema)
        except (msgspec.DecodeError, SchemaError) as error:
            said = str(error).partition("\n")[0]
            yield sheet.problem(where, f"is no JSON Schema: {said}", "mend the schema")
