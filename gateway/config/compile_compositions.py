"""Compositions of valid files as the domain's frozen values. Pure."""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import msgspec

from gateway.config.files.compositions import (
    AgreementPart,
    AnyComposition,
    BestOfPart,
    CascadePart,
    CheckPart,
    ChosenPart,
    ContainsPart,
    JudgedPart,
    LinkPart,
    LogProbabilityPart,
    MarksPart,
    OwnPart,
    RegexPart,
    SchemaPart,
    StepPart,
)
from gateway.config.yaml import Path
from gateway.types.compositions import Check, Composition, Judge, Step

Written: TypeAlias = tuple[Path, str]
"""Where it stands below a composition, and a path of a file as it is written there."""


def prompts_of(part: AnyComposition) -> Iterator[Written]:
    """The files of system prompts that it names."""
    for index, step in enumerate(part.steps):
        if isinstance(step, OwnPart) and step.system is not None:
            yield ("steps", index, "system"), step.system


def schemas_of(part: AnyComposition) -> Iterator[Written]:
    """The files of JSON Schemas that it names."""
    for path, check in checks_of(part):
        if isinstance(check, SchemaPart) and isinstance(check.schema_, str):
            yield (*path, "schema"), check.schema_


def checks_of(part: AnyComposition) -> Iterator[tuple[Path, CheckPart]]:
    """Every check with its place."""
    if not isinstance(part, CascadePart):
        return
    for index, check in enumerate(part.checks):
        yield ("checks", index), check
    for index, step in enumerate(part.steps):
        for n, check in enumerate((isinstance(step, StepPart) and step.checks) or ()):
            yield ("steps", index, "checks", n), check


def judges_of(part: AnyComposition) -> Iterator[Written]:
    """The targets that judge, with the places where they stand."""
    if isinstance(part, BestOfPart) and isinstance(part.choose, ChosenPart):
        yield ("choose", "target"), part.choose.target
    for path, check in checks_of(part):
        if isinstance(check, JudgedPart):
            yield (*path, "target"), check.target


def step_parts(part: AnyComposition) -> list[OwnPart]:
    """Its steps, each written out; those without a name are called by their number."""
    written = [step if isinstance(step, OwnPart) else StepPart(target=step) for step in part.steps]
    return [
        step.model_copy(update={"name": step.name or str(number)})
        for number, step in enumerate(written, 1)
    ]


def used_by(part: AnyComposition) -> list[str]:
    """Every target that it names."""
    return [*(step.target for step in step_parts(part)), *(name for _, name in judges_of(part))]


def composition(name: str, part: AnyComposition, texts: Mapping[str, str]) -> Composition:
    """A composition; `texts` are those of the files that it names."""
    parts = step_parts(part)
    whole = Composition(
        name=name,
        kind=part.kind,
        steps=tuple(_step(step, part, step is parts[-1], texts) for step in parts),
        max_cost=part.max_cost,
    )
    if isinstance(part, CascadePart):
        return msgspec.structs.replace(whole, escalates=part.escalates)
    if not isinstance(part, BestOfPart):
        return whole
    choose = part.choose
    return msgspec.structs.replace(
        whole,
        samples=part.samples,
        temperature=part.temperature,
        alike="text" if isinstance(choose, ChosenPart) else choose.alike,
        judge=_judge(choose) if isinstance(choose, ChosenPart) else None,
    )


def _step(step: OwnPart, part: AnyComposition, last: bool, texts: Mapping[str, str]) -> Step:
    checks: list[CheckPart] = []
    if isinstance(part, CascadePart) and not last:
        checks = (isinstance(step, StepPart) and step.checks) or part.checks
    link = step if isinstance(step, LinkPart) else None
    return Step(
        name=step.name or "",
        target=step.target,
        checks=tuple(_check(each, texts) for each in checks),
        system=texts[step.system] if step.system is not None else None,
        prompt=link.prompt if link is not None else None,
        max_tokens=link.max_tokens if link is not None else None,
    )


def _judge(part: MarksPart) -> Judge:
    return Judge(part.target, part.rubric, part.scale)


def _check(part: CheckPart, texts: Mapping[str, str]) -> Check:
    match part:
        case RegexPart():
            return Check("regex", pattern=part.pattern)
        case ContainsPart():
            return Check("contains", text=part.text)
        case LogProbabilityPart():
            return Check("log_probability", least=part.least)
        case AgreementPart():
            return Check(
                "agreement",
                least=part.least,
                samples=part.samples,
                temperature=part.temperature,
                alike=part.alike,
            )
        case JudgedPart():
            return Check("judge", least=part.least, judge=_judge(part))
        case SchemaPart():
            written = part.schema_
            text = texts[written].encode() if isinstance(written, str) else None
            return Check("schema", schema=text or msgspec.json.encode(written))
