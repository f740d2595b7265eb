"""Whether the experiments of the routes can be run, and can tell what they are to tell."""

from collections.abc import Iterator, Mapping, Sequence

from gateway.config.files.experiments import ExperimentPart, QuestionPart
from gateway.config.files.routes import RouteFile
from gateway.config.sheets import Sheet
from gateway.config.words import did_you_mean
from gateway.config.yaml import Path
from gateway.errors import Problem
from gateway.types.backends import Target
from gateway.types.routes import TENANT

Routes = Sequence[Sheet[RouteFile]]


def check_experiments(
    routes: Routes,
    declared: Sequence[str],
    targets: Mapping[str, Target],
    steps: Mapping[str, Sequence[str]],
) -> Iterator[Problem]:
    """What is wrong with them, and warnings. `declared` are the names of all targets, and `steps`
    what each composition asks."""
    yield from _twice(routes)
    for sheet in routes:
        if sheet.model is None:
            continue
        yield from _shadow(sheet, sheet.model, declared, targets)
        if not sheet.model.experiments:
            continue
        yield from _together(sheet, sheet.model)
        for name, part in sheet.model.experiments.items():
            at: Path = ("experiments", name)
            yield from _arms(sheet, sheet.model, at, part, declared, targets)
            yield from _replicas_shared(sheet, at, part, targets, steps)
            yield from _shares(sheet, at, part)
            if part.question is not None:
                yield from _question(sheet, at, part, part.question)
                yield from _metric(sheet, sheet.model, at, part, part.question)
            elif part.mode == "bandit" and sheet.model.right is None:
                said = "says nothing of what is right, so nobody knows what an arm is worth"
                yield sheet.problem((*at, "mode"), said, "give the route `metrics` and `right`")
            yield from _ending(sheet, at, part)


def _shadow(
    sheet: Sheet[RouteFile],
    route: RouteFile,
    declared: Sequence[str],
    targets: Mapping[str, Target],
) -> Iterator[Problem]:
    if route.shadow is None:
        return
    name, path = route.shadow.target, ("shadow", "target")
    target = targets.get(name)
    if TENANT in name or name not in declared:
        mend = did_you_mean(name, declared, "declare it first")
        yield sheet.problem(path, f"unknown target `{name}`", mend)
    elif route.data == "internal" and target is not None and not target.internal:
        yield sheet.problem(
            path,
            f"`{name}` is not self-hosted, and the route's data is internal",
            "name another, or write `data: any` if the data may leave",
        )


def _twice(routes: Routes) -> Iterator[Problem]:
    first: dict[str, Sheet[RouteFile]] = {}
    for sheet in routes:
        for name in sheet.model.experiments if sheet.model is not None else ():
            before = first.setdefault(name, sheet)
            if before is not sheet:
                yield sheet.problem(
                    ("experiments", name),
                    f"there is an experiment `{name}` already, in {before.document.file}",
                    "give one of them another name",
                )


def _together(sheet: Sheet[RouteFile], route: RouteFile) -> Iterator[Problem]:
    """Those of one route share its traffic: nobody is in two of them."""
    parts = list(route.experiments.items())
    whole = sum(part.traffic for _, part in parts)
    if whole > 1.0 + 1e-9:
        yield sheet.problem(
            ("experiments",),
            f"they get {100 * whole:.3g} % of the route's traffic together, and nobody is in two",
            "lower their `traffic` to 100 % in all",
        )
    first, part = parts[0]
    for name, other in parts[1:]:
        if other.stick_to != part.stick_to:
            yield sheet.problem(
                ("experiments", name, "stick_to"),
                f"is not that of `{first}`, so somebody could be in both",
                f"write `stick_to: {part.stick_to}`, as there",
            )


def _arms(
    sheet: Sheet[RouteFile],
    route: RouteFile,
    at: Path,
    part: ExperimentPart,
    declared: Sequence[str],
    targets: Mapping[str, Target],
) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for arm, name in part.arms.items():
        path: Path = (*at, "arms", arm)
        if TENANT in name or name not in declared:
            yield sheet.problem(
                path, f"unknown target `{name}`", did_you_mean(name, declared, "declare it first")
            )
            continue
        if name in seen:
            said = f"the arm `{seen[name]}` has this target, too"
            yield sheet.problem(path, said, "leave one of them out")
        seen.setdefault(name, arm)
        target = targets.get(name)
        if route.data == "internal" and target is not None and not target.internal:
            yield sheet.problem(
                path,
                f"`{name}` is not self-hosted, and the route's data is internal",
                "leave it out, or write `data: any` if the data may leave",
            )


def _replicas_shared(
    sheet: Sheet[RouteFile],
    at: Path,
    part: ExperimentPart,
    targets: Mapping[str, Target],
    steps: Mapping[str, Sequence[str]],
) -> Iterator[Problem]:
    if part.latency == "switchback" or part.winner is not None:
        return
    by_replica: dict[str, list[str]] = {}
    for arm, name in part.arms.items():
        asked = [targets[each] for each in steps.get(name, [name]) if each in targets]
        for replica in {url for each in asked if each.internal for url in each.replicas}:
            by_replica.setdefault(replica, []).append(arm)
    shared = next((arms for arms in by_replica.values() if len(arms) > 1), None)
    if shared is not None:
        yield sheet.warning(
            (*at, "arms"),
            f"{' and '.join(f'`{arm}`' for arm in shared)} share replicas, so each waits for the"
            " other: their times cannot be compared",
            "write `latency: switchback` if times are to be compared",
        )


def _shares(sheet: Sheet[RouteFile], at: Path, part: ExperimentPart) -> Iterator[Problem]:
    if part.traffic <= 0.0:
        yield sheet.problem((*at, "traffic"), "is nothing", "write a share such as `20 %`")
    if part.shares is None:
        return
    if set(part.shares) != set(part.arms) or not all(part.shares.values()):
        yield sheet.problem((*at, "shares"), "must have each arm, and no other", "see `arms`")
    elif abs(sum(part.shares.values()) - 1.0) > 1e-6:
        said = f"are {100 * sum(part.shares.values()):.3g} % together"
        yield sheet.problem((*at, "shares"), said, "make them 100 %")


def _question(
    sheet: Sheet[RouteFile], at: Path, part: ExperimentPart, question: QuestionPart
) -> Iterator[Problem]:
    at = (*at, "question")
    arms = list(part.arms)
    named = {"arm": question.arm} if question.arm is not None else {}
    named |= {"better_than": question.better_than} if question.better_than is not None else {}
    named |= {"no_worse_than": question.no_worse_than} if question.no_worse_than is not None else {}
    for key, arm in named.items():
        if arm not in part.arms:
            yield sheet.problem((*at, key), f"no arm `{arm}`", did_you_mean(arm, arms))
    if question.arm is None and named:
        yield sheet.problem(at, "is about no arm", "write `arm`, or leave all of them out")
    elif question.arm is not None and len(named) != 2:
        yield sheet.problem(
            at, "compares with nothing, or with two", "write `better_than` or `no_worse_than`"
        )
    elif question.arm is not None and len(set(named.values())) == 1:
        yield sheet.problem(at, "compares an arm with itself", "name another arm")
    if question.margin >= 1.0:
        yield sheet.problem((*at, "margin"), "is the whole", "write it as `2 points`")


def _metric(
    sheet: Sheet[RouteFile], route: RouteFile, at: Path, part: ExperimentPart, asked: QuestionPart
) -> Iterator[Problem]:
    """What is asked about is declared, and says of an answer that it is right or not."""
    at = (*at, "question")
    metric = route.metrics.get(asked.metric)
    if metric is None:
        mend = did_you_mean(asked.metric, list(route.metrics), "declare it under `metrics`")
        yield sheet.problem((*at, "metric"), f"unknown metric `{asked.metric}`", mend)
    elif metric.type == "score" and metric.right_when is None:
        said = f"nobody knows which score of `{asked.metric}` is right"
        yield sheet.problem((*at, "metric"), said, "give the metric `right_when`")


def _ending(sheet: Sheet[RouteFile], at: Path, part: ExperimentPart) -> Iterator[Problem]:
    if not 0.5 < part.confidence < 1.0:
        yield sheet.problem(
            (*at, "confidence"), "is no confidence", "write one between 50 and 100 %, as `95 %`"
        )
    if part.when_answered == "promote" and part.question is None and part.winner is None:
        yield sheet.problem(
            (*at, "when_answered"), "there is no question to answer", "add a `question`"
        )
    if part.slot <= 0.0:
        yield sheet.problem((*at, "slot"), "is no time", "write it as `10 m`")
    if part.winner is not None and part.winner not in part.arms:
        yield sheet.problem(
            (*at, "winner"), f"no arm `{part.winner}`", did_you_mean(part.winner, list(part.arms))
        )
