"""Whether the files fit together: each check yields what is wrong, with line and mend.

Names are checked against what stands in the files, also in those that have other problems, so that
one mistake in `gateway.yaml` does not make every candidate unknown.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from gateway.config.check_backends import check_backends, check_classifier
from gateway.config.check_compositions import check_compositions
from gateway.config.check_experiments import check_experiments
from gateway.config.compile_backends import targets
from gateway.config.compile_compositions import composition, used_by
from gateway.config.fields import is_target, split_target
from gateway.config.files.gateway import GatewayFile
from gateway.config.files.policies import LimitsPart, PolicyFile
from gateway.config.files.routes import MatchPart, RouteFile
from gateway.config.sheets import Files, M, Sheet, mapping
from gateway.config.words import closest, did_you_mean
from gateway.config.yaml import Path
from gateway.errors import Problem
from gateway.policy.composed import composed
from gateway.policy.words import dollars, number
from gateway.types.backends import Target
from gateway.types.compositions import BACKEND
from gateway.types.routes import TENANT

AUTO = "auto"


def check(files: Files) -> Iterator[Problem]:
    """Everything that is wrong between the files, and warnings."""
    yield from _twice("route", files.routes)
    yield from _twice("policy", files.policies)
    targets = _targets(files.gateway, files.texts)
    if files.gateway is not None:
        yield from _aliases(files.gateway, files)
        if files.gateway.model is not None:
            yield from check_backends(files.gateway, files.gateway.model, files.directory)
            yield from check_classifier(
                files.gateway, files.gateway.model, files.directory, targets
            )
            yield from check_compositions(files.gateway, files.gateway.model, targets, files.texts)
    for sheet in files.routes:
        yield from _policy_known(sheet, files.policies)
        if files.gateway is not None:
            yield from _candidates_known(sheet, declared_targets(files.gateway.document.data))
        if sheet.model is not None:
            yield from _route(sheet, sheet.model, files, targets)
    yield from _same_examples(files.routes)
    if files.gateway is not None:
        declared = declared_targets(files.gateway.document.data)
        yield from check_experiments(files.routes, declared, targets, _asked_by(files.gateway))


def _route(
    sheet: Sheet[RouteFile], route: RouteFile, files: Files, targets: Mapping[str, Target]
) -> Iterator[Problem]:
    if route.name == AUTO:
        said = f"`{AUTO}` is what applications send to have their requests recognised"
        yield sheet.problem(("name",), said, "give the route another name")
    yield from _can_match(sheet, route, files.gateway)
    yield from _candidates_differ(sheet, route)
    yield from _internal(sheet, route, targets)
    yield from _metrics(sheet, route)
    for policy in files.policies:
        if policy.model is not None and policy.model.name == route.policy:
            yield from _limits(sheet, route, policy, policy.model, targets)


def _targets(gateway: Sheet[GatewayFile] | None, texts: Mapping[str, str]) -> dict[str, Target]:
    """The targets of a valid `gateway.yaml`."""
    if gateway is None or gateway.model is None:
        return {}
    declared = {
        target.name: target
        for name, part in gateway.model.backends.items()
        for target in targets(name, part)
    }
    known = defaultdict(str, texts)  # what cannot be read is told elsewhere
    return declared | {
        f"{BACKEND}/{name}": composed(composition(name, part, known), declared)
        for name, part in gateway.model.compositions.items()
        if all(target in declared for target in used_by(part))
    }


def _asked_by(gateway: Sheet[GatewayFile] | None) -> dict[str, list[str]]:
    """The targets that each composition asks."""
    parts = gateway.model.compositions if gateway is not None and gateway.model is not None else {}
    return {f"{BACKEND}/{name}": used_by(part) for name, part in parts.items()}


def _meant(candidate: str, targets: Mapping[str, Target]) -> Target | None:
    """The target of a candidate; for an adapter that follows the caller, its model."""
    return targets.get(candidate.partition("+")[0] if TENANT in candidate else candidate)


# ---------------------------------------------------------------- names


def declared_targets(data: object) -> list[str]:
    """The targets that `gateway.yaml` declares, also where it has problems."""
    found = []
    for backend, part in mapping(mapping(data).get("backends")).items():
        for model, declared in mapping(mapping(part).get("models")).items():
            found.append(f"{backend}/{model}")
            for adapter, written in mapping(mapping(declared).get("adapters")).items():
                target = f"{backend}/{model}+{adapter}"
                versions = mapping(mapping(written).get("versions"))
                found += [target, *(f"{target}@{version}" for version in versions)]
    return found + [f"{BACKEND}/{name}" for name in mapping(mapping(data).get("compositions"))]


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


def _aliases(sheet: Sheet[GatewayFile], files: Files) -> Iterator[Problem]:
    """Every alias leads somewhere and hides nothing; the default route is there."""
    data = mapping(sheet.document.data)
    targets = declared_targets(data)
    routes = _names(files.routes)
    for alias, meant in mapping(data.get("aliases")).items():
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
    sheet: Sheet[RouteFile], policies: Sequence[Sheet[PolicyFile]]
) -> Iterator[Problem]:
    policy, known = mapping(sheet.document.data).get("policy"), _names(policies)
    if isinstance(policy, str) and policy not in known:
        mend = did_you_mean(policy, known, f"add policies/{policy}.yaml")
        yield sheet.problem(("policy",), f"unknown policy `{policy}`", mend)


def _candidates_known(sheet: Sheet[RouteFile], declared: Sequence[str]) -> Iterator[Problem]:
    candidates = mapping(sheet.document.data).get("candidates")
    for index, candidate in enumerate(candidates if isinstance(candidates, list) else ()):
        target = mapping(candidate).get("target")
        if not isinstance(target, str) or not is_target(target):
            continue
        if (target.partition("+")[0] if TENANT in target else target) not in declared:
            yield sheet.problem(
                ("candidates", index, "target"),
                f"unknown candidate `{target}`",
                _candidate_mend(target, declared),
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


# ---------------------------------------------------------------- routes


def _can_match(
    sheet: Sheet[RouteFile], route: RouteFile, gateway: Sheet[GatewayFile] | None
) -> Iterator[Problem]:
    if not isinstance(route.match, MatchPart) or any(route.match.model_dump().values()):
        return
    if gateway is None:
        return
    data = mapping(gateway.document.data)
    if route.name in (data.get("default_route"), *mapping(data.get("aliases")).values()):
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
        meant = _meant(candidate.target, targets)
        if meant is not None and not meant.internal:
            yield sheet.problem(
                ("candidates", index, "target"),
                f"`{candidate.target}` is not self-hosted, and the route's data is internal",
                "leave it out, or write `data: any` if the data may leave",
            )


def _metrics(sheet: Sheet[RouteFile], route: RouteFile) -> Iterator[Problem]:
    """What makes an answer right is declared, and says when it does."""
    for name, metric in route.metrics.items():
        compares = isinstance(metric.right_when, tuple)
        if metric.right_when is not None and compares != (metric.type == "score"):
            mend = "`true` or `false`" if metric.type == "boolean" else "a comparison, as `>= 4`"
            yield sheet.problem(
                ("metrics", name, "right_when"),
                f"says nothing about a {metric.type}",
                f"write {mend}",
            )
    if route.right is None:
        return
    if route.right not in route.metrics:
        yield sheet.problem(
            ("right",),
            f"unknown metric `{route.right}`",
            did_you_mean(route.right, list(route.metrics), "declare it under `metrics`"),
        )
    elif (said := route.metrics[route.right]).type == "score" and said.right_when is None:
        yield sheet.problem(
            ("metrics", route.right),
            "the route's `right`, but nobody knows which score is right",
            'write `right_when`, such as `right_when: ">= 4"`',
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
        target = _meant(candidate.target, targets)
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
