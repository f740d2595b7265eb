"""Whether an experiment's question is answered, and what is known until then. Pure.

A question about two arms is two one-sided tests, each at 1 - confidence, that may be read at any
time: "not better" (or "worse by more than the margin") refuted is a yes, the contrary refuted is a
no. Which of several arms is best is answered when of one arm against each other "is worse by more
than the margin" is refuted, each at (1 - confidence) / (arms - 1) (Bonferroni). To say so wrongly,
the test against the truly best arm must err, whichever arm it is said of: there are arms - 1 of
those, so all of it errs with a probability of 1 - confidence at most.

Intervals are two-sided and for people to look at: at the same level, so they are a little wider
than what the answer needs.
"""

from collections.abc import Sequence

import msgspec
import numpy as np

from gateway.experiments.bandit import least_share
from gateway.experiments.progress import Progress
from gateway.experiments.stats import Contrasts, between, contrasts, intervals, refuted_at
from gateway.types.experiments import Asked, Experiment


class Look(msgspec.Struct, frozen=True):
    """The difference after so many scored units, and its interval."""

    units: int
    estimate: float
    low: float
    high: float


class Versus(msgspec.Struct, frozen=True):
    """An arm's mean less another's, and its interval."""

    arm: str
    than: str
    estimate: float
    low: float
    high: float


class Answer(msgspec.Struct, frozen=True):
    """The arm that the answer is for, whether it is that which was asked about, and after how many
    scored units."""

    winner: str
    yes: bool
    at: int


class Known(msgspec.Struct, frozen=True):
    """What is known: the answer, None while there is none; `course` is the plotted difference of
    `arm` and `than`, and `versus` are those of `arm` and every other that it is compared with."""

    arm: str = ""
    than: str = ""
    answer: Answer | None = None
    course: tuple[Look, ...] = ()
    versus: tuple[Versus, ...] = ()


def known(experiment: Experiment, progress: Progress, looks: int) -> Known:
    """What is known by now; `looks` of 0 gives no differences."""
    asked = experiment.asked
    if asked is None:
        return Known()
    return (_best if asked.best else _of_two)(experiment, asked, progress, looks)


def answer(experiment: Experiment, progress: Progress) -> Answer | None:
    """The question's answer; None while there is none, or no question."""
    return known(experiment, progress, 0).answer


# ---------------------------------------------------------------- two arms


def _of_two(experiment: Experiment, asked: Asked, progress: Progress, looks: int) -> Known:
    seen = _between(experiment, progress, asked.arm, asked.than)
    if not len(seen.values):
        return Known(asked.arm, asked.than)
    alpha = 1.0 - experiment.confidence
    null = -asked.margin if asked.no_worse else asked.margin
    yes, no = refuted_at(seen, null, alpha), refuted_at(seen, null, alpha, "below")
    first = min(((at, answer) for at, answer in ((yes, True), (no, False)) if at), default=None)
    found = None
    if first is not None:
        found = Answer(asked.arm if first[1] else asked.than, first[1], first[0])
    course = _course(seen, alpha, looks) if looks else ()
    return Known(asked.arm, asked.than, found, course)


def _between(experiment: Experiment, progress: Progress, arm: str, than: str) -> Contrasts:
    """Contrasts of two arms over their own units, where these' chances are known."""
    shares = experiment.shares
    if not experiment.bandit or len(experiment.arms) == 2:
        mine, other = shares[arm], shares[than]
        fixed = None if experiment.bandit else mine / (mine + other)
        return contrasts(*progress.pair(arm, than, fixed))
    return _of_all(experiment, progress, arm, than)


# ---------------------------------------------------------------- the best of several


def _best(experiment: Experiment, asked: Asked, progress: Progress, looks: int) -> Known:
    arms = list(experiment.arms)
    alpha = (1.0 - experiment.confidence) / (len(arms) - 1)
    pairs = {
        (arm, than): _of_all(experiment, progress, arm, than)
        for arm in arms
        for than in arms
        if arm != than
    }
    if not len(pairs[arms[0], arms[1]].values):
        return Known()
    ends: dict[str, int] = {}
    for arm in arms:
        refuted = [
            refuted_at(pairs[arm, than], -asked.margin, alpha) for than in arms if than != arm
        ]
        if all(refuted):
            ends[arm] = max(at for at in refuted if at is not None)
    found = None
    if ends:
        winner = min(ends, key=lambda arm: ends[arm])
        found = Answer(winner, True, ends[winner])
    if not looks:
        return Known(answer=found)
    leader = found.winner if found is not None else _leader(arms, pairs)
    versus = tuple(
        _versus(leader, than, pairs[leader, than], alpha) for than in arms if than != leader
    )
    nearest = min(versus, key=lambda each: each.estimate).than
    course = _course(pairs[leader, nearest], alpha, looks)
    return Known(leader, nearest, found, course, versus)


def _of_all(experiment: Experiment, progress: Progress, arm: str, than: str) -> Contrasts:
    """Contrasts of two arms over all units, so that every pair's end at the same one. Of a bandit's
    draws only the chance of the arm that was drawn is known, and that no other's was under the
    least: that bounds what can be lost."""
    mine, others, scores, drawn = progress.all_of(arm, than)
    shares = experiment.shares
    if not experiment.bandit:
        p, q = shares[arm], shares[than]
        return between(mine, others, scores, np.where(mine, p, q), p, q)
    if len(shares) == 2:
        chance = np.where(mine, drawn, 1.0 - drawn)
        return between(mine, others, scores, drawn, chance, 1.0 - chance)
    least = min([least_share(len(shares)), *shares.values()])
    least = min(least, float(drawn.min(initial=1.0)))
    return between(mine, others, scores, drawn, least, least)


def _leader(arms: Sequence[str], pairs: dict[tuple[str, str], Contrasts]) -> str:
    """The arm with the highest mean, as far as that is known."""

    def ahead(arm: str) -> float:
        return min(float(pairs[arm, than].values.mean()) for than in arms if than != arm)

    return max(arms, key=ahead)


def _versus(arm: str, than: str, seen: Contrasts, alpha: float) -> Versus:
    ((low, high),) = intervals(seen, alpha)
    return Versus(arm, than, float(seen.values.mean()), low, high)


def _course(seen: Contrasts, alpha: float, looks: int) -> tuple[Look, ...]:
    points = np.unique(np.linspace(len(seen.values), 1, looks).astype(np.int64))
    ends = intervals(seen, alpha, points)
    return tuple(
        Look(int(n), float(seen.values[:n].mean()), low, high)
        for n, (low, high) in zip(points, ends, strict=True)
    )


# ---------------------------------------------------------------- words


def asked_words(experiment: Experiment) -> str:
    """The question as a sentence; empty without one."""
    asked = experiment.asked
    if asked is None:
        return ""
    by = f" by more than {_points(asked.margin)}" if asked.margin else ""
    if asked.best:
        arms = list(experiment.arms)
        names = f"{', '.join(arms[:-1])} and {arms[-1]}"
        if asked.margin:
            return f"which of {names} is no worse than any other{by} in {asked.metric}?"
        return f"which of {names} is best in {asked.metric}?"
    how = "no worse" if asked.no_worse else "better"
    return f"is {asked.arm} {how} than {asked.than}{by} in {asked.metric}?"


def answer_words(experiment: Experiment, found: Answer) -> str:
    """The answer as a sentence, with how sure it is."""
    asked = experiment.asked
    assert asked is not None
    by = f" by more than {_points(asked.margin)}" if asked.margin else ""
    sure = f"{100 * experiment.confidence:.4g} % sure"
    if asked.best:
        how = f"is no worse than any other arm{by}" if asked.margin else "is the best arm"
        return f"{sure}: {found.winner} {how} in {asked.metric}"
    if asked.no_worse:
        how = "no worse" if found.yes else "worse"
    else:
        how = "better" if found.yes else "not better"
    return f"{sure}: {asked.arm} is {how} than {asked.than}{by} in {asked.metric}"


def said(experiment: Experiment, found: Known) -> str:
    """What may be said by now."""
    asked = experiment.asked
    if asked is None:
        return "no question is asked"
    if found.answer is not None:
        return answer_words(experiment, found.answer)
    if not found.course:
        return "there is no outcome yet"
    last = found.course[-1]
    difference = f"the difference to {found.than}" if asked.best else "the difference"
    leads = f"{found.arm} leads, and " if asked.best else ""
    return (
        f"not sure yet: {leads}{difference} is {_signed(last.estimate)} points, between "
        f"{_signed(last.low)} and {_signed(last.high)}"
    )


def null_of(experiment: Experiment) -> float | None:
    """The difference that the question is about, in shares; None without one."""
    asked = experiment.asked
    if asked is None:
        return None
    return -asked.margin if asked.no_worse or asked.best else asked.margin


def _points(share: float) -> str:
    points = 100.0 * share
    return f"{points:.3g} point{'' if points == 1.0 else 's'}"


def _signed(share: float) -> str:
    return f"{100.0 * share:+.1f}"
