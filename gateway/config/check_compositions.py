"""Whether the compositions of `gateway.yaml` can be performed, and what each check needs."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec

import msgspec

from gateway.config.compile_compositions import checks_of, judges_of, step_parts
from gateway.config.files.compositions import (
    AgreementPart,
    AnyComposition,
    BestOfPart,
    CascadePart,
    ChainPart,
    JudgedPart,
    LinkPart,
    LogProbabilityPart,
    OwnPart,
    SchemaPart,
    StepPart,
)
from gateway.config.files.gateway import GatewayFile
from gateway.config.json_schemas import checked
from gateway.config.sheets import Sheet
from gateway.config.words import did_you_mean
from gateway.config.yaml import Path
from gateway.errors import Problem
from gateway.types.backends import Target
from gateway.types.compositions import BACKEND, FIELD, INPUT
from gateway.types.routes import TENANT

CHAT = "chat/completions"
MOST_SAMPLES = 64
"""Answers that one step may ask for at once."""


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
        yield from _judges(sheet, path, part, targets, known)
        yield from _ability(sheet, path, part, targets)
        if isinstance(part, CascadePart):
            yield from _checked(sheet, path, part)
        elif isinstance(part, ChainPart):
            yield from _templates(sheet, path, part)
        else:
            yield from _several(sheet, path, part)
        yield from _schemas(sheet, path, part, texts)


def _steps(
    sheet: Sheet[GatewayFile], path: Path, part: AnyComposition, known: Sequence[str]
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


def _target_at(path: Path, part: AnyComposition, index: int) -> Path:
    where: Path = (*path, "steps", index)
    return (*where, "target") if isinstance(part.steps[index], OwnPart) else where


def _endpoints(
    sheet: Sheet[GatewayFile], path: Path, part: AnyComposition, targets: Mapping[str, Target]
) -> Iterator[Problem]:
    for index, step in enumerate(step_parts(part)):
        target = targets.get(step.target)
        if target is not None and CHAT not in target.capabilities.endpoints:
            yield sheet.problem(
                _target_at(path, part, index),
                f"`{step.target}` does not serve chat, and compositions serve nothing else",
                "name a model that does",
            )


def _judges(
    sheet: Sheet[GatewayFile],
    path: Path,
    part: AnyComposition,
    targets: Mapping[str, Target],
    known: Sequence[str],
) -> Iterator[Problem]:
    for place, name in judges_of(part):
        target = targets.get(name)
        if target is None or name not in known:
            yield sheet.problem(
                (*path, *place),
                f"unknown target `{name}`" if target is None else f"`{name}` is a composition",
                did_you_mean(name, known, "name a declared model that judges"),
            )
        elif CHAT not in target.capabilities.endpoints:
            yield sheet.problem(
                (*path, *place), f"`{name}` does not serve chat", "name a model that does"
            )
    for place, check in checks_of(part):
        if isinstance(check, JudgedPart) and not 1 < check.least <= check.scale:
            yield sheet.problem(
                (*path, *place, "least"),
                f"marks are from 1 to {check.scale}: {check.least:g} is passed by all or none",
                f"write one above 1 and up to {check.scale}",
            )
        if isinstance(check, AgreementPart) and not 2 <= check.samples <= MOST_SAMPLES:
            few = "one answer agrees with itself" if check.samples < 2 else "are too many"
            yield sheet.problem((*path, *place, "samples"), few, f"write 2 to {MOST_SAMPLES}")


def _ability(
    sheet: Sheet[GatewayFile], path: Path, part: AnyComposition, targets: Mapping[str, Target]
) -> Iterator[Problem]:
    """Log-probabilities are asked only of targets that tell them."""
    if not isinstance(part, CascadePart):
        return
    steps = step_parts(part)
    for index, step in enumerate(steps[:-1]):
        own = isinstance(step, StepPart) and step.checks is not None
        place: Path = ("steps", index, "checks") if own else ("checks",)
        checks = step.checks if isinstance(step, StepPart) and step.checks else part.checks
        target = targets.get(step.target)
        for n, check in enumerate(checks):
            if target is None or not isinstance(check, LogProbabilityPart):
                continue
            if "logprobs" in target.shaping.drop or not target.capabilities.log_probabilities:
                yield sheet.problem(
                    (*path, *place, n),
                    f"`{step.target}` tells no log-probabilities",
                    "check otherwise, or declare `capabilities: {log_probabilities: true}`"
                    " if it does, and do not drop `logprobs`",
                )


def _several(sheet: Sheet[GatewayFile], path: Path, part: BestOfPart) -> Iterator[Problem]:
    if part.samples * len(part.steps) < 2:
        yield sheet.problem(
            (*path, "steps"),
            "one answer is not chosen among",
            "write more steps, or `samples: 3`",
        )
    if part.samples * len(part.steps) > MOST_SAMPLES:
        yield sheet.problem(
            (*path, "samples"),
            f"are {part.samples * len(part.steps)} answers for one request, over {MOST_SAMPLES}",
            "write fewer",
        )


def _templates(sheet: Sheet[GatewayFile], path: Path, part: ChainPart) -> Iterator[Problem]:
    known = [INPUT]
    for index, step in enumerate(step_parts(part)):
        written = step.prompt if isinstance(step, LinkPart) else None
        where: Path = (*path, "steps", index)
        names = FIELD.findall(written or "")
        for name in names:
            if name not in known:
                yield sheet.problem(
                    (*where, "prompt"),
                    f"`{{{name}}}` is neither `{{{INPUT}}}` nor a step before this one",
                    did_you_mean(name, known, f"write one of {', '.join(known)}"),
                )
        if index and not any(name != INPUT for name in names):
            yield sheet.problem(
                (*where, "prompt") if written else where,
                "nothing that a step before it has said is in what it is asked",
                f"write `{{{known[-1]}}}` into its `prompt`",
            )
        if step.name == INPUT:
            yield sheet.problem(
                (*where, "name"), f"`{INPUT}` is the user's message", "give it another name"
            )
        known.append(step.name or "")


def _checked(sheet: Sheet[GatewayFile], path: Path, part: CascadePart) -> Iterator[Problem]:
    """An answer that nothing checks would never escalate."""
    steps = step_parts(part)
    for index, step in enumerate(steps[:-1]):
        if not (isinstance(step, StepPart) and step.checks) and not part.checks:
            yield sheet.problem(
                (*path, "steps", index),
                "nothing checks its answer, so no further step would ever be asked",
                'add `checks: [{kind: regex, pattern: "…"}]` to the cascade or to the step',
            )
    last = steps[-1]
    if isinstance(last, StepPart) and last.checks:
        yield sheet.problem(
            (*path, "steps", len(steps) - 1, "checks"),
            "there is no step after the last for an answer that does not pass",
            "leave them out",
        )


def _schemas(
    sheet: Sheet[GatewayFile], path: Path, part: AnyComposition, texts: Mapping[str, str]
) -> Iterator[Problem]:
    for place, check in checks_of(part):
        if not isinstance(check, SchemaPart):
            continue
        written = check.schema_
        where: Path = (*path, *place, "schema")
        if isinstance(written, str) and written not in texts:
            continue
        if find_spec("jsonschema") is None:
            yield sheet.problem(
                where,
                "checks by JSON Schema need the library jsonschema, which is not installed",
                "pip install 'switchboard[evals]'",
            )
            return
        try:
            checked(msgspec.json.decode(texts[written]) if isinstance(written, str) else written)
        except (msgspec.DecodeError, ValueError) as error:
            said = str(error).partition("\n")[0]
            yield sheet.problem(where, f"is no JSON Schema: {said}", "mend the schema")
