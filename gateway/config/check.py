"""Whether the files fit together: each check yields what is wrong, with line and mend. Pure but for
looking whether an adapter's directory is there.

Names are checked against what stands in the files, also in those that have other problems, so that
one mistake in `gateway.yaml` does not make every candidate unknown.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path as FilePath
from typing import Generic, TypeVar

import msgspec
from pydantic import BaseModel

from gateway.config import compile
from gateway.config.fields import TENANT, split_target
from gateway.config.models import (
    AnyBackend,
    GatewayFile,
    HostedPart,
    LimitsPart,
    LitellmPart,
    MatchPart,
    OpenaiPart,
    PolicyFile,
    RouteFile,
    VllmPart,
)
from gateway.config.words import closest, did_you_mean
from gateway.config.yaml import Document, Path, dotted
from gateway.errors import Problem
from gateway.policy.words import dollars, number
from gateway.types import Target

AUTO = "auto"

M = TypeVar("M", bound=BaseModel)


class Sheet(msgspec.Struct, Generic[M], frozen=True):
    """One file: what stands in it, and the model of it where it is valid."""

    document: Document
    model: M | None

    @property
    def name(self) -> str | None:
        """The `name` in it, also where the rest of the file is wrong."""
        data = self.document.data
        name = data.get("name") if isinstance(data, dict) else None
        return name if isinstance(name, str) else None

    def problem(self, path: Path, message: str, mend: str = "") -> Problem:
        """An error at `path`."""
        document = self.document
        return Problem(document.file, document.value_line(path), dotted(path), message, mend)

    def warning(self, path: Path, message: str, mend: str = "") -> Problem:
        """Something to know about `path`."""
        return msgspec.structs.replace(self.problem(path, message, mend), severity="warning")


class Files(msgspec.Struct, frozen=True):
    """Everything that was read; `gateway` is None when the file cannot be parsed at all."""

    directory: FilePath
    gateway: Sheet[GatewayFile] | None
    routes: Sequence[Sheet[RouteFile]]
    policies: Sequence[Sheet[PolicyFile]]


def check(files: Files) -> Iterator[Problem]:
    """Everything that is wrong between the files, and warnings."""
    yield from _twice("route", files.routes)
    yield from _twice("policy", files.policies)
    declared = declared_targets(files.gateway.document.data) if files.gateway is not None else None
    targets: dict[str, Target] = {}
    if files.gateway is not None:
        yield from _aliases(files.gateway, files, declared or [])
        if files.gateway.model is not None:
            yield from _backends(files.gateway, files.gateway.model, files.directory)
            yield from _classifier(files.gateway, files.gateway.model, declared or [])
            targets = {
                target.name: target
                for name, part in files.gateway.model.backends.items()
                for target in compile.targets(name, part)
            }
    policies = {sheet.model.name: sheet for sheet in files.policies if sheet.model is not None}
    for sheet in files.routes:
        if sheet.model is None:
            continue
        if sheet.model.name == AUTO:
            yield sheet.problem(("name",), f"`{AUTO}` is what applications send to be classified")
        yield from _policy_known(sheet, sheet.model, files.policies)
        yield from _can_match(sheet, sheet.model, files.gateway)
        if declared is not None:
            yield from _candidates_known(sheet, sheet.model, declared)
        yield from _candidates_differ(sheet, sheet.model)
        yield from _internal(sheet, sheet.model, targets)
        policy = policies.get(sheet.model.policy)
        if policy is not None and policy.model is not None:
            yield from _limits(sheet, sheet.model, policy, policy.model, targets)
    yield from _same_examples(files.routes)


# ---------------------------------------------------------------- names


def declared_targets(data: object) -> list[str]:
    """The targets that `gateway.yaml` declares, also where it has problems."""
    found = []
    for backend, part in _mapping(_mapping(data).get("backends")).items():
        for model, declared in _mapping(_mapping(part).get("models")).items():
            found.append(f"{backend}/{model}")
            adapters = _mapping(_mapping(declared).get("adapters"))
            found += [f"{backend}/{model}+{adapter}" for adapter in adapters]
    return found


def _mapping(data: object) -> Mapping[str, object]:
    return data if isinstance(data, dict) else {}


def _names(sheets: Iterable[Sheet[M]]) -> list[str]:
    return [sheet.name for sheet in sheets if sheet.name is not None]


def _twice(what: str, sheets: Sequence[Sheet[M]]) -> Iterator[Problem]:
    first: dict[str, Sheet[M]] = {}
    for sheet in sheets:
        if sheet.name is None:
            continue
        before = first.setdefault(sheet.name, sheet).document
        if before is not sheet.document:
            yield sheet.problem(
                ("name",),
                f"the {what} `{sheet.name}` is declared already, at"
                f" {before.file}:{before.line(('name',))}",
                "give one of them another name",
            )


def _aliases(sheet: Sheet[GatewayFile], files: Files, targets: Sequence[str]) -> Iterator[Problem]:
    """Every alias leads somewhere and hides nothing; the default route is there."""
    data = _mapping(sheet.document.data)
    routes = _names(files.routes)
    for alias, meant in _mapping(data.get("aliases")).items():
        path: Path = ("aliases", alias)
        if alias in (AUTO, *routes, *targets):
            yield sheet.problem(path, f"the alias hides the route or target `{alias}`", "rename it")
        if isinstance(meant, str) and meant not in (AUTO, *routes, *targets):
            yield sheet.problem(
                path,
                f"`{meant}` is neither `{AUTO}` nor a route nor a target",
                did_you_mean(meant, [AUTO, *routes, *targets]),
            )
    default = data.get("default_route")
    if isinstance(default, str) and default not in routes:
        mend = did_you_mean(default, routes, f"add routes/{default}.yaml")
        yield sheet.problem(("default_route",), f"unknown route `{default}`", mend)


def _policy_known(
    sheet: Sheet[RouteFile], route: RouteFile, policies: Sequence[Sheet[PolicyFile]]
) -> Iterator[Problem]:
    known = _names(policies)
    if route.policy not in known:
        mend = did_you_mean(route.policy, known, f"add policies/{route.policy}.yaml")
        yield sheet.problem(("policy",), f"unknown policy `{route.policy}`", mend)


def _candidates_known(
    sheet: Sheet[RouteFile], route: RouteFile, declared: Sequence[str]
) -> Iterator[Problem]:
    for index, candidate in enumerate(route.candidates):
        known = candidate.target in declared
        if TENANT in candidate.target:
            known = candidate.target.partition("+")[0] in declared
        if not known:
            yield sheet.problem(
                ("candidates", index, "target"),
                f"unknown candidate `{candidate.target}`",
                _candidate_mend(candidate.target, declared),
            )


def _candidate_mend(target: str, declared: Sequence[str]) -> str:
    """The declared target that was meant, or where to declare this one."""
    near = closest(target, declared)
    if near is not None:
        return f"did you mean `{near}`?"
    backend, model, adapter = split_target(target)
    what = f"adapter `{adapter}` of model" if adapter is not None else "model"
    return f"declare the {what} `{model}` of backend `{backend}` in gateway.yaml"


def _candidates_differ(sheet: Sheet[RouteFile], route: RouteFile) -> Iterator[Problem]:
    first: dict[tuple[str, str | None], int] = {}
    for index, candidate in enumerate(route.candidates):
        before = first.setdefault((candidate.target, candidate.system), index)
        if before != index:
            yield sheet.problem(
                ("candidates", index),
                f"`{candidate.target}` is a candidate already, on line"
                f" {sheet.document.line(('candidates', before))}",
                "leave one of them out",
            )


# ---------------------------------------------------------------- backends


def _backends(
    sheet: Sheet[GatewayFile], file: GatewayFile, directory: FilePath
) -> Iterator[Problem]:
    for name, part in file.backends.items():
        path: Path = ("backends", name)
        if isinstance(part, OpenaiPart) and (part.url is None) == (part.replicas is None):
            yield sheet.problem(
                path, "needs either `url` or `replicas`", "write `url: https://host/v1`"
            )
        yield from _prices(sheet, path, part)
        if isinstance(part, VllmPart):
            yield from _adapters(sheet, path, part, directory)


def _prices(sheet: Sheet[GatewayFile], path: Path, part: AnyBackend) -> Iterator[Problem]:
    """A price that nobody knows would be decided on as 0."""
    for name, model in part.models.items():
        if compile.price(part, model) is not None:
            continue
        place = (*path, "models", name)
        if isinstance(part, LitellmPart):
            yield sheet.warning(
                place,
                "has no price: it is taken from litellm's map once its process has started",
                "declare `price` to decide on your own",
            )
        elif compile.is_internal(part):
            assert isinstance(part, HostedPart)
            missing = "replica_hour" if part.replica_hour is None else "peak_tokens_per_second"
            yield sheet.warning(
                place,
                "has no price: it is decided on as free",
                f"add `{missing}` to the backend, or declare `price`",
            )
        else:
            yield sheet.problem(
                place,
                "has no price",
                "add `price: {input: 0.25 usd/Mtok, output: 2 usd/Mtok}`, or `internal: true` to"
                " the backend if you host it",
            )


def _adapters(
    sheet: Sheet[GatewayFile], path: Path, part: VllmPart, directory: FilePath
) -> Iterator[Problem]:
    """vLLM knows an adapter by its name alone, among those of all its models and their ids."""
    taken: dict[str, Path] = {}
    for name, model in part.models.items():
        taken.setdefault(model.id, (*path, "models", name, "id"))
    store = compile.adapter_store(part, directory)[0]
    present = sorted(each.name for each in store.iterdir()) if store and store.is_dir() else []
    if store is not None and not store.is_dir():
        yield sheet.warning((*path, "adapter_store"), f"there is no directory {store}")
    for name, model in part.models.items():
        for adapter, declared in model.adapters.items():
            place = (*path, "models", name, "adapters", adapter)
            before = taken.setdefault(adapter, place)
            if before != place:
                yield sheet.problem(
                    place,
                    f"`{adapter}` is the name of something else in this backend already, on line"
                    f" {sheet.document.line(before)}",
                    "give the adapter another name",
                )
            if declared.mix is not None:
                yield sheet.problem(
                    (*place, "mix"), "mixing adapters is not supported yet", "give it a `source`"
                )
            elif declared.source is None:
                yield sheet.problem(place, "needs a `source`", f"write `source: {adapter}`")
            elif not _stays_inside(declared.source, part.adapter_store is not None):
                yield sheet.problem(
                    (*place, "source"),
                    f"`{declared.source}` leads out of the adapter store",
                    "write a path below it, without `..`",
                )
            elif store is not None and store.is_dir() and not (store / declared.source).is_dir():
                yield sheet.warning(
                    (*place, "source"),
                    f"there is no `{declared.source}` in {store}",
                    did_you_mean(declared.source, present),
                )


def _stays_inside(source: str, has_store: bool) -> bool:
    path = FilePath(source)
    return ".." not in path.parts and not (has_store and path.is_absolute())


def _classifier(
    sheet: Sheet[GatewayFile], file: GatewayFile, targets: Sequence[str]
) -> Iterator[Problem]:
    part = file.classifier
    given = [key for key in ("directory", "target") if getattr(part, key) is not None]
    if part.kind == "embedding" and len(given) != 1:
        yield sheet.problem(
            ("classifier",),
            "an embedding classifier needs an encoder: either `directory` or `target`",
            "write `directory: PATH` of a sentence-transformer",
        )
    if part.kind == "lexical" and given:
        yield sheet.warning(
            ("classifier", given[0]),
            "a lexical classifier has no encoder",
            "write `kind: embedding`, or leave it out",
        )
    if part.target is not None and part.target not in targets:
        yield sheet.problem(
            ("classifier", "target"),
            f"unknown target `{part.target}`",
            did_you_mean(part.target, targets),
        )


# ---------------------------------------------------------------- routes


def _can_match(
    sheet: Sheet[RouteFile], route: RouteFile, gateway: Sheet[GatewayFile] | None
) -> Iterator[Problem]:
    if not isinstance(route.match, MatchPart) or any(route.match.model_dump().values()):
        return
    data = _mapping(gateway.document.data) if gateway is not None else {}
    if route.name in (data.get("default_route"), *_mapping(data.get("aliases")).values()):
        return
    yield sheet.problem(
        ("match",),
        "nothing leads to this route: it has no headers, keywords, patterns or examples, no alias"
        " means it, and it is not the default",
        "give it `examples`, or write `match: named` if applications name it",
    )


def _internal(
    sheet: Sheet[RouteFile], route: RouteFile, targets: Mapping[str, Target]
) -> Iterator[Problem]:
    if route.data != "internal":
        return
    for index, candidate in enumerate(route.candidates):
        meant = targets.get(candidate.target)
        if meant is None and TENANT in candidate.target:
            meant = targets.get(candidate.target.partition("+")[0])
        if meant is not None and not meant.internal:
            yield sheet.problem(
                ("candidates", index, "target"),
                f"`{candidate.target}` is not self-hosted, and the route's data is internal",
                "leave it out, or write `data: any` if the data may leave",
            )


def _limits(
    sheet: Sheet[RouteFile],
    route: RouteFile,
    policy_sheet: Sheet[PolicyFile],
    policy: PolicyFile,
    targets: Mapping[str, Target],
) -> Iterator[Problem]:
    """Limits over which every candidate is from the start, by what is declared of it."""
    over = []
    for candidate in route.candidates:
        target = targets.get(candidate.target.removesuffix(f"+{TENANT}"))
        if target is None:
            return
        excess = _excess(policy.limits, candidate.quality, target)
        if excess is None:
            return
        over.append(f"`{candidate.target}` {excess}")
    place = f"{policy_sheet.document.file}:{policy_sheet.document.line(('limits',))}"
    yield sheet.problem(
        ("policy",),
        f"no candidate is within the limits of `{policy.name}` ({place}): {'; '.join(over)}",
        "loosen the limits, choose another policy, or add a candidate",
    )


def _excess(limits: LimitsPart, quality: float, target: Target) -> str | None:
    """The limit that a candidate cannot keep, going by its declared figures."""
    if limits.quality is not None and quality < limits.quality:
        return f"has a quality of {number(quality, 3)}, under {number(limits.quality, 3)}"
    cost = target.output_tokens * target.price.output
    if limits.cost is not None and cost > limits.cost:
        return (
            f"costs {dollars(cost)} for its usual answer of {number(target.output_tokens, 3)}"
            f" tokens alone, over {dollars(limits.cost)}"
        )
    first = target.first_token_s
    if limits.first_token_p95 is not None and first > limits.first_token_p95:
        return (
            f"has its first token after {number(first)} s, over {number(limits.first_token_p95)} s"
        )
    whole = first + target.output_tokens / target.tokens_per_s
    if limits.whole_p95 is not None and whole > limits.whole_p95:
        return f"takes {number(whole)} s, over {number(limits.whole_p95)} s"
    return None


def _same_examples(sheets: Sequence[Sheet[RouteFile]]) -> Iterator[Problem]:
    """The same message as an example of two routes teaches nothing."""
    first: dict[str, tuple[str, Sheet[RouteFile]]] = {}
    for sheet in sheets:
        if sheet.model is None or not isinstance(sheet.model.match, MatchPart):
            continue
        for index, example in enumerate(sheet.model.match.examples):
            text = " ".join(example.casefold().split())
            route, where = first.setdefault(text, (sheet.model.name, sheet))
            if where is not sheet:
                yield sheet.warning(
                    ("match", "examples", index),
                    f"the same message is an example of `{route}` ({where.document.file})",
                    "leave one of them out",
                )
