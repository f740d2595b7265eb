"""What may be said of an experiment now. Pure.

The question is two one-sided tests, each at 1 - confidence, that may be read at any time: "not
better" (or "worse by more than the margin") refuted is a yes, the contrary refuted is a no. Until
then there is no answer. The interval is two-sided and for people to look at: at the same
confidence, so it is a little wider than what the answer needs.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from gateway.experiments.progress import Progress
from gateway.experiments.rates import SRM_ALPHA, above, ratio_p
from gateway.experiments.slots import Ratio, Slot
from gateway.experiments.slots import ratio as slots_ratio
from gateway.experiments.stats import contrasts, intervals, refuted_at
from gateway.types import Asked, Experiment, Standing

LOOKS = 60
"""Points of the course that is plotted, at most."""
MONTH_S = 30 * 86400.0
LEAST_S = 3600.0
"""Of an experiment that is not that old nobody can tell what a month would bring."""
P95_SHARE = 0.05
UNLIKE = (
    "units did not come to the arms in the declared shares, so the arms' requests are not alike "
    "and nothing follows from their difference"
)
LOPSIDED = (
    "one arm's units have an outcome more often than the other's: who answers differs, and with it "
    "may the difference"
)


class Times(msgspec.Struct, frozen=True):
    """Seconds: the median and the 95th percentile; None without any."""

    p50: float | None
    p95: float | None


class ArmSeen(msgspec.Struct, frozen=True):
    """One arm so far. `units` took part, `scored` of them have an outcome, `mean` is theirs.
    Dollars, shares."""

    arm: str
    target: str
    share: float
    requests: int
    units: int
    scored: int
    mean: float | None
    cost: float
    per_request: float | None
    failed: float | None
    first_token: Times
    whole: Times


class Guard(msgspec.Struct, frozen=True):
    """One guard of one arm: the limit, what is seen, and how sure a breach is, as an e-value: it
    is told when that reaches 1 / (1 - confidence)."""

    arm: str
    what: str
    limit: float
    seen: float | None
    e_value: float
    breached: bool


class Look(msgspec.Struct, frozen=True):
    """The difference after so many scored units, and its interval."""

    units: int
    estimate: float
    low: float
    high: float


class Findings(msgspec.Struct, frozen=True):
    """All of it. `answer` is None while there is none; `at` the scored units that it took.

    The two ratios say how many times as long the question's arm takes as the other, by slots of
    time. `ratio_p` is None where shares move. `saved_a_month` are the dollars of the route's
    traffic of now, if all of it went to the question's arm and not the other.
    """

    experiment: str
    route: str
    state: str
    why: str
    since: float | None
    until: float
    arms: tuple[ArmSeen, ...]
    guards: tuple[Guard, ...]
    cost: float
    asked: str
    answer: bool | None
    at: int | None
    said: str
    course: tuple[Look, ...]
    ratio_p: float | None
    response_p: float | None
    times_comparable: bool
    saved_a_month: float | None
    warnings: tuple[str, ...]
    first_token_ratio: Ratio | None = None
    whole_ratio: Ratio | None = None


def found(
    experiment: Experiment,
    route: str,
    progress: Progress,
    standing: Standing | None,
    now: float,
    *,
    shared: bool,
    looks: int = LOOKS,
) -> Findings:
    """What there is to say. `shared` is whether arms share replicas; `looks` of 0 plots nothing."""
    shares = (standing.shares if standing is not None else None) or experiment.shares
    seen = tuple(_arm(experiment, arm, shares[arm], progress) for arm in experiment.arms)
    answer, at, course = _answered(experiment, progress, looks)
    ratio, response = _ratios(experiment, progress)
    comparable = not shared or experiment.slot_s is not None
    return Findings(
        experiment=experiment.name,
        route=route,
        state=_state(experiment, standing),
        why=standing.why if standing is not None else "",
        since=standing.since if standing is not None else None,
        until=now,
        arms=seen,
        guards=tuple(guards(experiment, progress)),
        cost=progress.cost,
        asked=asked_words(experiment.asked) if experiment.asked is not None else "",
        answer=answer,
        at=at,
        said=_said(experiment, answer, course),
        course=course,
        ratio_p=ratio,
        response_p=response,
        times_comparable=comparable,
        saved_a_month=_saved(experiment, progress),
        warnings=tuple(_warnings(ratio, response, comparable)),
        first_token_ratio=_slower(experiment, progress.first_slots),
        whole_ratio=_slower(experiment, progress.whole_slots),
    )


def answered(experiment: Experiment, progress: Progress) -> bool | None:
    """Whether the question's answer is yes; None while there is none, or no question."""
    return _answered(experiment, progress, 0)[0]


def guards(experiment: Experiment, progress: Progress) -> Sequence[Guard]:
    """Each guard of each arm but the control."""
    told = []
    for arm, seen in progress.arms.items():
        if arm == experiment.control:
            continue
        if experiment.first_token_p95 is not None:
            p95 = _times(seen.first_s).p95
            n = len(seen.first_s)
            what, limit = "first_token_p95", experiment.first_token_p95
            told.append(_guard(experiment, arm, what, limit, p95, above(P95_SHARE, seen.late, n)))
        if experiment.errors is not None:
            failed = seen.failed / seen.counted if seen.counted else None
            e = above(experiment.errors, seen.failed, seen.counted)
            told.append(_guard(experiment, arm, "errors", experiment.errors, failed, e))
    return told


def breach(told: Sequence[Guard]) -> str | None:
    """Why the experiment is to be stopped at once, if it is."""
    for guard in told:
        if guard.breached and guard.seen is not None:
            if guard.what == "errors":
                seen, limit = f"{100 * guard.seen:.3g} %", f"{100 * guard.limit:.3g} %"
                return f"arm {guard.arm} failed {seen} of its requests (allowed: {limit})"
            seen, limit = f"{guard.seen:.3g} s", f"{guard.limit:.3g} s"
            return f"arm {guard.arm} has its first token within {seen} (95 %; allowed: {limit})"
    return None


def unlike(experiment: Experiment, progress: Progress) -> str | None:
    """Why nothing follows from the arms' difference, if units did not come in their shares."""
    ratio, _ = _ratios(experiment, progress)
    return UNLIKE if ratio is not None and ratio < SRM_ALPHA else None


def lopsided(experiment: Experiment, progress: Progress) -> str | None:
    """Why the difference may be that of who answers, if one arm's units do so more often."""
    _, response = _ratios(experiment, progress)
    return LOPSIDED if response is not None and response < SRM_ALPHA else None


def _ratios(experiment: Experiment, progress: Progress) -> tuple[float | None, float | None]:
    """How sure it is that units, and those with an outcome, came in other shares: p-values that
    hold at any time; None where shares move, or whole slots are units."""
    if experiment.bandit or experiment.slot_s is not None:
        return None, None
    units = {arm: len(seen.units) for arm, seen in progress.arms.items()}
    scored = {arm: seen.scored for arm, seen in progress.arms.items()}
    return ratio_p(units, experiment.shares), ratio_p(scored, experiment.shares)


def ended(experiment: Experiment, progress: Progress, since: float, now: float) -> str | None:
    """Why its time is up, if it is."""
    if experiment.most_usd is not None and progress.cost >= experiment.most_usd:
        return f"it has cost ${progress.cost:.4g}, of ${experiment.most_usd:.4g}"
    if experiment.most_s is not None and now - since >= experiment.most_s:
        return f"it is {(now - since) / 86400.0:.3g} days old"
    return None


def asked_words(asked: Asked) -> str:
    """The question as a sentence."""
    by = f" by more than {_points(asked.margin)}" if asked.margin else ""
    how = "no worse" if asked.no_worse else "better"
    return f"is {asked.arm} {how} than {asked.than}{by} in {asked.metric}?"


def answer_words(experiment: Experiment, answer: bool) -> str:
    """The answer as a sentence, with how sure it is."""
    asked = experiment.asked
    assert asked is not None
    by = f" by more than {_points(asked.margin)}" if asked.margin else ""
    if asked.no_worse:
        how = "no worse" if answer else "worse"
    else:
        how = "better" if answer else "not better"
    return (
        f"{100 * experiment.confidence:.4g} % sure: {asked.arm} is {how} than {asked.than}{by} in "
        f"{asked.metric}"
    )


def _answered(
    experiment: Experiment, progress: Progress, looks: int
) -> tuple[bool | None, int | None, tuple[Look, ...]]:
    asked = experiment.asked
    if asked is None:
        return None, None, ()
    shares = experiment.shares
    mine, other = shares[asked.arm], shares[asked.than]
    fixed = None if experiment.bandit else mine / (mine + other)
    treated, scores, chances = progress.pair(asked.arm, asked.than, fixed)
    if not len(scores):
        return None, None, ()
    seen = contrasts(treated, scores, chances)
    alpha = 1.0 - experiment.confidence
    null = -asked.margin if asked.no_worse else asked.margin
    yes, no = refuted_at(seen, null, alpha), refuted_at(seen, null, alpha, "below")
    first = min(((at, answer) for at, answer in ((yes, True), (no, False)) if at), default=None)
    course: tuple[Look, ...] = ()
    if looks:
        points = np.unique(np.linspace(1, len(scores), looks).astype(np.int64))
        ends = intervals(seen, alpha, points)
        course = tuple(
            Look(int(n), float(seen.values[:n].mean()), low, high)
            for n, (low, high) in zip(points, ends, strict=True)
        )
    return (None, None, course) if first is None else (first[1], first[0], course)


def _slower(experiment: Experiment, slots: Mapping[str, Slot]) -> Ratio | None:
    """By the slots that are over; the last is not yet."""
    other = experiment.control
    asked = experiment.asked
    arm = asked.arm if asked is not None else next(a for a in experiment.arms if a != other)
    mine, others = experiment.shares[arm], experiment.shares[other]
    fixed = None if experiment.bandit else mine / (mine + others)
    return slots_ratio(list(slots.values())[:-1], arm, other, fixed, 1.0 - experiment.confidence)


def _said(experiment: Experiment, answer: bool | None, course: Sequence[Look]) -> str:
    if experiment.asked is None:
        return "no question is asked"
    if answer is not None:
        return answer_words(experiment, answer)
    if not course:
        return "there is no outcome yet"
    last = course[-1]
    return (
        f"not sure yet: the difference is {_signed(last.estimate)} points, between "
        f"{_signed(last.low)} and {_signed(last.high)}"
    )


def _arm(experiment: Experiment, arm: str, share: float, progress: Progress) -> ArmSeen:
    seen = progress.arms[arm]
    return ArmSeen(
        arm=arm,
        target=experiment.arms[arm],
        share=share,
        requests=seen.requests,
        units=len(seen.units),
        scored=seen.scored,
        mean=seen.score / seen.scored if seen.scored else None,
        cost=seen.cost,
        per_request=seen.cost / seen.requests if seen.requests else None,
        failed=seen.failed / seen.counted if seen.counted else None,
        first_token=_times(seen.first_s),
        whole=_times(seen.whole_s),
    )


def _times(seconds: Sequence[float]) -> Times:
    if not seconds:
        return Times(None, None)
    p50, p95 = np.percentile(np.array(seconds), [50.0, 95.0])
    return Times(float(p50), float(p95))


def _guard(
    experiment: Experiment, arm: str, what: str, limit: float, seen: float | None, e: float
) -> Guard:
    return Guard(arm, what, limit, seen, e, e >= 1.0 / (1.0 - experiment.confidence))


def _state(experiment: Experiment, standing: Standing | None) -> str:
    if experiment.winner is not None:
        return "promoted"
    return "new" if standing is None else standing.state


def _saved(experiment: Experiment, progress: Progress) -> float | None:
    asked = experiment.asked
    if asked is None:
        return None
    arm, other = progress.arms[asked.arm], progress.arms[asked.than]
    seconds = progress.last_at - progress.first_at
    if not (arm.requests and other.requests) or seconds < LEAST_S:
        return None
    cheaper = other.cost / other.requests - arm.cost / arm.requests
    requests = sum(each.requests for each in progress.arms.values())
    return cheaper * requests / experiment.traffic / seconds * MONTH_S


def _warnings(ratio: float | None, response: float | None, comparable: bool) -> Sequence[str]:
    told = []
    if ratio is not None and ratio < SRM_ALPHA:
        told.append(UNLIKE)
    elif response is not None and response < SRM_ALPHA:
        told.append(LOPSIDED)
    if not comparable:
        told.append(
            "arms share replicas, so each waits for the other: their times are not comparable "
            "(`latency: switchback` makes them so)"
        )
    return told


def _points(share: float) -> str:
    points = 100.0 * share
    return f"{points:.3g} point{'' if points == 1.0 else 's'}"


def _signed(share: float) -> str:
    return f"{100.0 * share:+.1f}"
