"""What may be said of an experiment now: its arms, guards, money and answer. Pure."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from gateway.experiments.answers import Look, Versus, asked_words, known, said
from gateway.experiments.progress import Progress
from gateway.experiments.rates import SRM_ALPHA, above, ratio_p
from gateway.experiments.slots import Ratio, Slot
from gateway.experiments.slots import ratio as slots_ratio
from gateway.types.experiments import Experiment, Standing

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


class Findings(msgspec.Struct, frozen=True):
    """All of it. `answer` is None while there is none; `winner` the arm that it is for, and `at`
    the scored units that it took. Of a question for the best arm `versus` has the differences of
    that which leads and the others.

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
    winner: str | None = None
    versus: tuple[Versus, ...] = ()
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
    seen_so_far = known(experiment, progress, looks)
    answer = seen_so_far.answer
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
        asked=asked_words(experiment),
        answer=answer.yes if answer is not None else None,
        winner=answer.winner if answer is not None else None,
        at=answer.at if answer is not None else None,
        said=said(experiment, seen_so_far),
        course=seen_so_far.course,
        versus=seen_so_far.versus,
        ratio_p=ratio,
        response_p=response,
        times_comparable=comparable,
        saved_a_month=_saved(experiment, progress),
        warnings=tuple(_warnings(ratio, response, comparable)),
        first_token_ratio=_slower(experiment, progress.first_slots),
        whole_ratio=_slower(experiment, progress.whole_slots),
    )


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


def _slower(experiment: Experiment, slots: Mapping[str, Slot]) -> Ratio | None:
    """By the slots that are over; the last is not yet."""
    if experiment.bandit and len(experiment.arms) > 2:
        return None  # of a slot only its own arm's chance is known
    other = experiment.control
    asked = experiment.asked
    named = asked.arm if asked is not None and not asked.best else None
    arm = named or next(a for a in experiment.arms if a != other)
    mine, others = experiment.shares[arm], experiment.shares[other]
    fixed = None if experiment.bandit else mine / (mine + others)
    return slots_ratio(list(slots.values())[:-1], arm, other, fixed, 1.0 - experiment.confidence)


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
    if asked is None or asked.best:
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
