"""How good a router is, over all trades of quality against cost. Pure.

Of a strong and a weak model, by RouteLLM (Ong et al. 2024): each of the 10 quantile bins' edges of
the score is a threshold at or above which the strong one is asked; that gives points of the share p
of strong calls and the accuracy a, and

    APGR = (integral of a dp - a_weak x dp) / ((a_strong - a_weak) x dp)

by the trapezoid rule, dp being the range of p. CPT(x) is the p at which, by linear interpolation,
a = a_weak + x (a_strong - a_weak) is first reached.

Of a pool with costs, by RouterBench (Hu et al. 2024): the router's points of mean cost and mean
quality, with their non-decreasing convex hull, give

    AIQ = 1 / (c_max - c_min) x integral of the hull's quality over cost from c_min to c_max

where c_min and c_max are the mean costs of the cheapest and the dearest model.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Floats: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]
Matrix: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float64]]

BINS = 10


def points(score: Floats, strong: Floats, weak: Floats) -> tuple[Floats, Floats]:
    """Shares of strong calls, rising, and the accuracy at each."""
    edges = np.unique(np.quantile(score, np.linspace(0.0, 1.0, BINS + 1)))
    asked = score[None, :] >= edges[:, None]
    share = asked.mean(axis=1)
    accuracy = np.where(asked, strong[None, :], weak[None, :]).mean(axis=1)
    order = np.argsort(share, kind="stable")
    return share[order], accuracy[order]


def apgr(share: Floats, accuracy: Floats, strong: float, weak: float) -> float:
    """The part of the way from the weak's accuracy to the strong's, over all shares."""
    width = float(share[-1] - share[0])
    if width <= 0.0 or strong == weak:
        return float("nan")
    area = float(np.trapezoid(accuracy, share))
    return (area - weak * width) / ((strong - weak) * width)


def cpt(share: Floats, accuracy: Floats, strong: float, weak: float, part: float) -> float:
    """The share of strong calls, in percent, that reaches that part of the way; NaN if none."""
    wanted = weak + part * (strong - weak)
    reached = np.flatnonzero(accuracy >= wanted)
    if not len(reached):
        return float("nan")
    place = int(reached[0])
    if place == 0:
        return 100.0 * float(share[0])
    low, high = accuracy[place - 1], accuracy[place]
    between = (wanted - low) / (high - low)
    return 100.0 * float(share[place - 1] + between * (share[place] - share[place - 1]))


def pool_answers(
    predicted: Matrix, quality: Matrix, cost: Matrix, expected: Matrix, worths: Sequence[float]
) -> tuple[Matrix, Matrix]:
    """Cost and quality, [worths, prompts], of the router that asks, for each prompt, the model of
    the best `predicted` quality times what an answer is worth less `expected` cost.

    All others are [prompts, models]; `expected` is what the router knows of costs.
    """
    rows = np.arange(len(quality))
    found = [rows_of(predicted * worth - expected) for worth in worths]
    return (
        np.array([cost[rows, chosen] for chosen in found]),
        np.array([quality[rows, chosen] for chosen in found]),
    )


def rows_of(value: Matrix) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """The best column of each row."""
    best: np.ndarray[tuple[int], np.dtype[np.int64]] = np.argmax(value, axis=1)
    return best


def hull(cost: Floats, quality: Floats) -> tuple[Floats, Floats]:
    """The non-decreasing convex hull: mixtures of points are routers too, and nobody must do worse
    for more money."""
    order = np.lexsort((-quality, cost))
    kept: list[tuple[float, float]] = []
    for c, q in zip(cost[order], quality[order], strict=True):
        if kept and q <= kept[-1][1]:
            continue
        while len(kept) > 1 and _below(kept[-2], kept[-1], (c, q)):
            kept.pop()
        kept.append((float(c), float(q)))
    return np.array([c for c, _ in kept]), np.array([q for _, q in kept])


def _below(
    before: tuple[float, float], at: tuple[float, float], after: tuple[float, float]
) -> bool:
    """Whether `at` lies on or below the line from `before` to `after`."""
    return (at[1] - before[1]) * (after[0] - before[0]) <= (after[1] - before[1]) * (
        at[0] - before[0]
    )


def aiq(cost: Floats, quality: Floats, least: float, most: float) -> float:
    """The mean quality of the hull over costs from `least` to `most`; flat beyond its ends."""
    if most <= least:
        return float(np.max(quality))
    c, q = hull(cost, quality)
    grid = np.unique(np.concatenate([np.clip(c, least, most), [least, most]]))
    return float(np.trapezoid(np.interp(grid, c, q), grid) / (most - least))
