"""What an experiment's requests have come to so far: gathered row by row, in order."""

from array import array
from collections.abc import Iterable

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.experiments.bandit import Rewards
from gateway.experiments.slots import Slot
from gateway.experiments.stats import Floats

NEWS = 1.01
"""How many times as many outcomes as the last time are worth reading all of them again."""
OVERLAP = 2000
"""How far behind a row's number may be, for it is in a batch that took longer to be written."""
SLOTS_OPEN = 2
"""Slots of time whose outcomes are still waited for."""


class Ended(msgspec.Struct, frozen=True):
    """One logged request of an experiment. `failed` says that its arm did not answer it well;
    `counts` is false for what says nothing of the arm: refused, wrong in itself, or the client went
    away."""

    seq: int
    started: float
    arm: str
    unit: str
    failed: bool
    counts: bool
    cost: float
    first_token_s: float | None
    total_s: float
    share: float = 1.0


class Scored(msgspec.Struct, frozen=True):
    """One outcome of a request: `score` in 0..1; `reward` is its net value in dollars."""

    seq: int
    arm: str
    unit: str
    share: float
    score: float
    reward: float = 0.0


class Arm:
    """One arm's requests."""

    def __init__(self) -> None:
        self.requests = self.counted = self.failed = self.late = self.scored = 0
        self.cost = self.score = 0.0
        self.first_s, self.whole_s = array("d"), array("d")
        self.units: set[str] = set()
        self.rewards = Rewards()


class Numbers:
    """Which rows were read. Numbers are given before rows are there for others to see, so a lower
    one may come after a higher one: what is not far behind is read again."""

    def __init__(self) -> None:
        self._last = 0
        self._recent: set[int] = set()

    @property
    def after(self) -> int:
        """What is read next has numbers above this."""
        return max(0, self._last - OVERLAP)

    def is_new(self, number: int) -> bool:
        """Whether it was not read yet; from now on it was."""
        if number <= self.after or number in self._recent:
            return False
        self._recent.add(number)
        self._last = max(self._last, number)
        if len(self._recent) > 2 * OVERLAP:
            self._recent = {each for each in self._recent if each > self.after}
        return True


class Progress:
    """All of it. What is added twice counts once."""

    def __init__(
        self, arms: Iterable[str], *, late_s: float | None = None, slots: bool = False
    ) -> None:
        """First tokens after `late_s` seconds are counted as late. Units are `slots` of time, or
        else users, conversations and the like."""
        self.arms = {arm: Arm() for arm in arms}
        self.requests_read, self.scores_read = Numbers(), Numbers()
        self.first_at = self.last_at = 0.0
        self._late_s = late_s
        self._slots = slots
        self.first_slots: dict[str, Slot] = {}
        self.whole_slots: dict[str, Slot] = {}
        self._open: dict[str, _Opened] = {}
        self._read = 0
        self._known: set[str] = set()
        self._who: list[str] = []
        self._scores, self._shares = array("d"), array("d")

    def ended(self, rows: Iterable[Ended]) -> None:
        """More requests, in the order of their numbers."""
        for row in rows:
            arm = self.arms.get(row.arm)
            if arm is None or not self.requests_read.is_new(row.seq):
                continue
            self.first_at = min(self.first_at or row.started, row.started)
            self.last_at = max(self.last_at, row.started)
            arm.requests += 1
            arm.units.add(row.unit)
            arm.cost += row.cost
            if not row.counts:
                continue
            arm.counted += 1
            arm.failed += row.failed
            if row.failed:
                continue
            arm.whole_s.append(row.total_s)
            if self._slots:
                self._time(self.whole_slots, row, row.total_s)
            if row.first_token_s is not None:
                arm.first_s.append(row.first_token_s)
                if self._slots:
                    self._time(self.first_slots, row, row.first_token_s)
                arm.late += self._late_s is not None and row.first_token_s > self._late_s

    def scored(self, rows: Iterable[Scored]) -> None:
        """More outcomes. A unit counts once, by its first: one user's many are no evidence of many
        users. A slot of time counts by its mean, when two later ones have begun."""
        for row in rows:
            arm = self.arms.get(row.arm)
            if arm is None or not self.scores_read.is_new(row.seq):
                continue
            arm.rewards = arm.rewards.with_(row.reward)
            if self._slots:
                self._in_slot(row)
            elif row.unit not in self._known:
                self._known.add(row.unit)
                self._observed(row.arm, row.score, row.share)

    def _time(self, slots: dict[str, Slot], row: Ended, seconds: float) -> None:
        slots.setdefault(row.unit, Slot(row.arm, row.share)).add(seconds)

    def _in_slot(self, row: Scored) -> None:
        if row.unit in self._known:
            return
        slot = self._open.setdefault(row.unit, _Opened(row.arm, row.share))
        slot.n += 1
        slot.total += row.score
        while len(self._open) > SLOTS_OPEN:
            name = next(iter(self._open))
            closed = self._open.pop(name)
            self._known.add(name)
            self._observed(closed.arm, closed.total / closed.n, closed.share)

    def _observed(self, arm: str, score: float, share: float) -> None:
        self._who.append(arm)
        self._scores.append(score)
        self._shares.append(share)
        self.arms[arm].scored += 1
        self.arms[arm].score += score

    def news(self) -> bool:
        """Whether so many outcomes have come since this was last true that it is worth reading all
        of them again: a hundredth."""
        if len(self._scores) <= NEWS * self._read:
            return False
        self._read = len(self._scores)
        return True

    @property
    def cost(self) -> float:
        """Dollars, of all arms."""
        return sum(arm.cost for arm in self.arms.values())

    def pair(
        self, arm: str, other: str, fixed: float | None
    ) -> tuple[NDArray[np.bool_], Floats, Floats]:
        """Of the units of two arms, in order: who is in the first; scores; and the first's
        probability among the two. That is `fixed`, or, of two arms alone, what was logged."""
        who, shares = np.array(self._who, dtype=object), np.array(self._shares)
        mine = np.asarray(who == arm, dtype=np.bool_)
        both = mine | np.asarray(who == other, dtype=np.bool_)
        logged = np.where(mine, shares, 1.0 - shares)
        chances = logged if fixed is None else np.full(len(shares), fixed)
        return mine[both], np.array(self._scores)[both], chances[both]

    def all_of(
        self, arm: str, other: str
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_], Floats, Floats]:
        """Of all units, in order: who is in the first arm, who in the other; scores; and the chance
        that each unit's own arm had, as logged."""
        who = np.array(self._who, dtype=object)
        return (
            np.asarray(who == arm, dtype=np.bool_),
            np.asarray(who == other, dtype=np.bool_),
            np.array(self._scores),
            np.array(self._shares),
        )


class _Opened:
    def __init__(self, arm: str, share: float) -> None:
        self.arm, self.share, self.n, self.total = arm, share, 0, 0.0
