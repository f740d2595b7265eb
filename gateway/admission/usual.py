"""How long the first byte of one sort of answers usually takes, while nobody waits. Pure.

The mean over the last few hundred answers, but for eras that are a quarter above it: then somebody
waits, or the server is slow. What is a quarter below is the new mean. An era is as long as it takes
to know its own mean to a tenth (5 s and 30 answers at least, 300 answers at most). The mean is held
to at most half more than in the least era of 10 to 20 minutes, so that it does not creep up with a
load that does, and to no less than in that one, so that what has become slower for good is usual in
the end.
"""

from math import inf, sqrt

ERA_S, ERA_ANSWERS, ERA_MOST = 5.0, 30, 300
KNOWN = 0.1
FIRST = 20
"""Answers of a sort before anything is usual."""
MOST_WEIGHT = 300
ALIKE, CREEP = 1.25, 1.5
GENERATION_S = 600.0


class Usual:
    """`level` in seconds, None until it is known."""

    __slots__ = (
        "_answers",
        "_before",
        "_ends",
        "_least",
        "_rotates",
        "_squares",
        "_sum",
        "_weight",
        "level",
    )

    def __init__(self, now: float) -> None:
        self.level: float | None = None
        self._weight = self._answers = 0
        self._sum = self._squares = 0.0
        self._least = self._before = inf
        self._ends = now + ERA_S
        self._rotates = now + GENERATION_S

    def saw(self, seconds: float, waited_s: float, now: float, *, in_use: bool) -> None:
        """One more answer.

        While a bound is `in_use` nothing is as usual. Of the first it is assumed that they wait
        for as long as those of other sorts do.
        """
        self._sum += seconds
        self._squares += seconds * seconds
        self._answers += 1
        if self.level is None:
            if self._answers >= FIRST:
                mean = self._sum / self._answers
                self.level = max(mean - max(0.0, waited_s), 0.1 * mean)
                self._weight = self._answers
        elif now >= self._ends and self._answers >= ERA_ANSWERS:
            mean = self._sum / self._answers
            spread = max(0.0, self._squares / self._answers - mean * mean)
            error = sqrt(spread / self._answers)
            if error <= KNOWN * mean or self._answers >= ERA_MOST:
                self.level = self._after(self.level, mean, now, in_use=in_use)
                self._sum, self._squares, self._answers = 0.0, 0.0, 0
                self._ends = now + ERA_S

    def _after(self, level: float, mean: float, now: float, *, in_use: bool) -> float:
        """The level, once an era is over that had that mean."""
        self._least = min(self._least, mean)
        if mean * ALIKE < level:
            level, self._weight = mean, self._answers
        elif mean < level * ALIKE and not in_use:
            self._weight = min(self._weight + self._answers, MOST_WEIGHT)
            level += (mean - level) * min(1.0, self._answers / self._weight)
        level = min(level, CREEP * min(self._least, self._before))
        if now >= self._rotates and not in_use:
            level = max(level, min(self._least, self._before))
            self._before, self._least = self._least, inf
            self._rotates = now + GENERATION_S
        return level
