"""Fits P(right | prompt, target) for a route, and tells on rows held out what it is worth. Pure.

The model is `model.fit`. What it says beyond each target's share is scaled by a slope, found by
least squares on predictions for rows left out within the rows learned from, and never above 1: so a
model that has found nothing says the shares. The report is by five folds around all of that.

    net = value x right - cost, of whom the router asks: the best value x P(right) - mean cost

Where it is not known what the one that a router asks would have brought, what the model foretells
stands there, set right by what is known, with its weight w (`rows`; doubly robust, Dudik et al.
2011). Of a prompt that all targets have answered that is what it brought.

    net = foretold + w x (value x right - cost - foretold)
"""

from collections.abc import Callable, Collection
from typing import Any

import msgspec
import numpy as np

from gateway.learn.model import Ints, Matrix, Model, Vector, fit
from gateway.learn.rows import FEWEST, Heard, Rows

FOLDS, BINS, TIMES, SEED = 5, 10, 2000, 20_260_101
_SURE = 1e-3


class Versus(msgspec.Struct, frozen=True):
    """The new model less the one before, in dollars of net value a request, with a paired
    bootstrap's 95 % interval: over `prompts` that neither had learned from."""

    prompts: int
    gain: float
    gain_low: float
    gain_high: float


class Report(msgspec.Struct, frozen=True):
    """On rows held out, of the model and of each target's share: Brier score, log loss in nats,
    expected calibration error, each weighted as the rows are; and dollars of net value a request.

    `gain` is the difference of net values, with the 95 % interval of a bootstrap over prompts.
    `left_out` prompts were not asked of all: they are learned from, and nothing is judged by them.
    Of the targets `few` so little is known that nothing is learned of them.
    """

    prompts: int
    left_out: int
    targets: tuple[str, ...]
    brier: float
    brier_shares: float
    log_loss: float
    log_loss_shares: float
    calibration_error: float
    net: float
    net_shares: float
    gain: float
    gain_low: float
    gain_high: float
    few: dict[str, int] = {}
    heard: Heard | None = None

    @property
    def pays(self) -> bool:
        """Whether it is surely better than the shares."""
        return self.gain_low > 0.0


class Trained(msgspec.Struct, frozen=True):
    """A model of all rows, and its report; `predicted` is what models made so said of each row
    without having seen it, `cost` what they expected answers to cost, and `value` dollars."""

    model: Model
    report: Report
    predicted: Matrix
    cost: Matrix
    value: float


def train(
    rows: Rows, value: float, progress: Callable[[int, int], None] = lambda done, of: None
) -> Trained:
    """The model of all rows, and what one made so is worth. `value` is dollars a right answer.
    Raises ValueError where too little is known of all targets but one."""
    if len(rows.targets) < 2:
        known = dict.fromkeys(rows.targets, FEWEST) | dict(rows.few)
        told = ", ".join(
            f"{'at least ' if target in rows.targets else ''}{n} of {target}"
            for target, n in known.items()
        )
        raise ValueError(
            f"too few answers are known to be right or wrong: {told or 'none'};"
            f" {FEWEST} of each of two targets are needed"
        )
    predicted, shares, cost = (np.zeros_like(rows.right) for _ in range(3))
    folds = dealt(len(rows.keys))
    for fold in range(FOLDS):
        held = folds == fold
        model = calibrated(some_of(rows, ~held))
        predicted[held] = model.scores(rows.vectors[held], rows.plain[held])
        shares[held] = means(rows.right[~held], rows.known[~held])
        cost[held] = means(rows.cost[~held], rows.known[~held])
        progress(fold + 1, FOLDS + 1)
    model = calibrated(rows)
    progress(FOLDS + 1, FOLDS + 1)
    report = reported(rows, predicted, shares, cost, value)
    return Trained(model, report, predicted, cost, value)


def versus(
    rows: Rows,
    new: Trained,
    before: Model,
    targets: Collection[str],
    known: Collection[str],
    since: float,
) -> Versus | None:
    """`new` against the version before, of `targets`, which has learned from the texts `known` and
    from requests until `since`; None where it was not learned of all targets, or there are fewer
    than `FEWEST` prompts new to it."""
    place = {target: at for at, target in enumerate(targets)}
    if any(target not in place for target in rows.targets):
        return None
    fresh = np.where(rows.at > 0.0, rows.at > since, [key not in known for key in rows.keys])
    fresh &= rows.stands > 0.0
    if int(fresh.sum()) < FEWEST:
        return None
    news = some_of(rows, fresh)
    told = before.scores(news.vectors, news.plain)[:, [place[target] for target in rows.targets]]
    own, cost = new.predicted[fresh], new.cost[fresh]
    lead = net(news, own, own, cost, new.value) - net(news, told, own, cost, new.value)
    return Versus(len(lead), *gained(lead, news.stands))


def net(rows: Rows, quality: Matrix, foretold: Matrix, expected: Matrix, value: float) -> Vector:
    """What each prompt brought, in dollars, asking who promises most by `quality`; `foretold` are
    P(right) by a model that has not seen it, and `expected` costs."""
    at = np.arange(len(rows.right))
    chosen = (value * quality - expected).argmax(axis=1)
    guess = value * foretold[at, chosen] - expected[at, chosen]
    came = value * rows.right[at, chosen] - rows.cost[at, chosen]
    found: Vector = guess + rows.known[at, chosen] * (came - guess)
    return found


def gained(lead: Vector, stands: Vector) -> tuple[float, float, float]:
    """The mean of `lead`, each as often as it `stands`, and its 95 % interval by a bootstrap."""
    rng = np.random.default_rng(SEED)
    again = np.empty(TIMES)
    whole = lead * stands
    for at in range(TIMES):
        drawn = rng.integers(0, len(lead), len(lead))
        again[at] = whole[drawn].sum() / max(stands[drawn].sum(), _SURE)
    low, high = np.quantile(again, (0.025, 0.975))
    return float(whole.sum() / max(stands.sum(), _SURE)), float(low), float(high)


def some_of(rows: Rows, which: "np.ndarray[Any, np.dtype[Any]]") -> Rows:
    """Those whose flag is set, or those of these numbers."""
    return msgspec.structs.replace(
        rows,
        keys=tuple(np.array(rows.keys, object)[which]),
        vectors=rows.vectors[which],
        plain=rows.plain[which],
        right=rows.right[which],
        cost=rows.cost[which],
        known=rows.known[which],
        at=rows.at[which],
        stands=rows.stands[which],
    )


def means(values: Matrix, known: Matrix) -> Vector:
    """Each target's, by weight."""
    found: Vector = (values * known).sum(axis=0) / np.maximum(known.sum(axis=0), 1e-9)
    return found


def dealt(n: int) -> Ints:
    """The fold of each of `n` prompts."""
    found: Ints = np.random.default_rng(SEED).permutation(n) % FOLDS
    return found


def calibrated(rows: Rows) -> Model:
    """The model of all rows, with what it says beyond each target's share scaled; see above."""
    beyond, wanted = np.zeros_like(rows.right), np.zeros_like(rows.right)
    folds = dealt(len(rows.keys))
    for fold in range(FOLDS):
        held = folds == fold
        rest = some_of(rows, ~held)
        inner = fit(rest.vectors, rest.plain, rest.right, rest.known)
        beyond[held] = inner.scores(rows.vectors[held], rows.plain[held]) - inner.shares
        wanted[held] = rows.right[held] - inner.shares
    size = (rows.known * beyond**2).sum(axis=0)
    along = (rows.known * beyond * wanted).sum(axis=0)
    slope = np.clip(along / np.maximum(size, 1e-12), 0.0, 1.0)
    model = fit(rows.vectors, rows.plain, rows.right, rows.known)
    return msgspec.structs.replace(model, weights=(model.weights * slope).astype(np.float32))


def reported(rows: Rows, predicted: Matrix, shares: Matrix, cost: Matrix, value: float) -> Report:
    """Of rows held out: what was `predicted` of them, and what each target\'s shares are."""
    right, known, stands = rows.right, rows.known, rows.stands
    own = net(rows, predicted, predicted, cost, value)
    plain = net(rows, shares, predicted, cost, value)
    total = max(float(stands.sum()), _SURE)
    return Report(
        int((stands > 0.0).sum()),
        int((stands == 0.0).sum()),
        rows.targets,
        _mean((predicted - right) ** 2, known),
        _mean((shares - right) ** 2, known),
        _log_loss(predicted, right, known),
        _log_loss(shares, right, known),
        calibration_error(predicted, right, known),
        float((own * stands).sum() / total),
        float((plain * stands).sum() / total),
        *gained(own - plain, stands),
        dict(rows.few),
        rows.heard,
    )


def _mean(values: Matrix, weight: Matrix) -> float:
    return float((values * weight).sum() / max(float(weight.sum()), _SURE))


def _log_loss(predicted: Matrix, right: Matrix, known: Matrix) -> float:
    p = np.clip(predicted, _SURE, 1.0 - _SURE)
    return -_mean(right * np.log(p) + (1.0 - right) * np.log(1.0 - p), known)


def calibration_error(predicted: Matrix, right: Matrix, known: Matrix) -> float:
    """The mean distance of what was said from what came, over ten bins of what was said."""
    place = np.minimum((predicted * BINS).astype(int), BINS - 1).ravel()
    said = np.bincount(place, (predicted * known).ravel(), BINS)
    came = np.bincount(place, (right * known).ravel(), BINS)
    return float(np.abs(said - came).sum() / max(float(known.sum()), _SURE))
