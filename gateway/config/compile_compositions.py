"""Compositions of valid files as the domain's frozen values. Pure."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import msgspec

from gateway.config.files.compositions import (
    CascadePart,
    CheckPart,
    ContainsPart,
    RegexPart,
    SchemaPart,
    StepPart,
)
from gateway.config.yaml import Path
from gateway.types.compositions import Check, Composition, Step

Written: TypeAlias = tuple[Path, str]
"""A path of a file as it is written, and where it stands below a composition."""


def prompts_of(part: CascadePart) -> Iterator[Written]:
    """The files of system prompts that it names."""
    for index, step in enumerate(part.steps):
        if isinstance(step, StepPart) and step.system is not None:
            yield ("steps", index, "system"), step.system


def schemas_of(part: CascadePart) -> Iterator[Written]:
    """The files of JSON Schemas that it names."""
    for path, check in checks_of(part):
        if isinstance(check, SchemaPart) and isinstance(check.schema_, str):
            yield (*path, "schema"), check.schema_


def checks_of(part: CascadePart) -> Iterator[tuple[Path, CheckPart]]:
    """Every check with its place."""
    for index, check in enumerate(part.checks):
        yield ("checks", index), check
    for index, step in enumerate(part.steps):
        for n, check in enumerate((isinstance(step, StepPart) and step.checks) or ()):
            yield ("steps", index, "checks", n), check


def step_parts(part: CascadePart) -> list[StepPart]:
    """Its steps, each written out; those without a name are called by their number."""
    written = [step if isinstance(step, StepPart) else StepPart(target=step) for step in part.steps]
    return [
        step.model_copy(update={"name": step.name or str(number)})
        for number, step in enumerate(written, 1)
    ]


def composition(name: str, part: CascadePart, texts: Mapping[str, str]) -> Composition:
    """A composition; `texts` are those of the files that it names."""
    parts = step_parts(part)
    return Composition(
        name=name,
        kind=part.kind,
        steps=tuple(
            Step(
                name=step.name or "",
                target=step.target,
                checks=()
                if step is parts[-1]
                else tuple(_check(each, texts) for each in step.checks or part.checks),
                system=texts[step.system] if step.system is not None else None,
            )
            for step in parts
        ),
        escalates=part.escalates,
        max_cost=part.max_cost,
    )


def _check(part: CheckPart, texts: Mapping[str, str]) -> Check:
    if isinstance(part, RegexPart):
        return Check("regex", pattern=part.pattern)
    if isinstance(part, ContainsPart):
        return Check("contains", text=part.text)
    written = part.schema_
    if isinstance(written, str):
        return Check("schema", schema=texts[written].encode())
    return Check("schema", schema=msgspec.json.encode(written))
