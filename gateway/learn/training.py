"""Fits P(right | prompt, target) for a route, and tells on rows held out what it is worth. Pure.

The model is `model.fit`. What it says beyond each target's share is scaled by a slope, found by
least squares on predictions for rows left out within the rows learned from, and never above 1: so a
model that has found nothing says the shares. The report is by five folds around all of that.

    net = value x right - cost, of whom the router asks: the best value x P(right) - mean cost
"""

from collections.abc import Callable, Collection, Sequence

import msgspec
import numpy as np

from gateway.classify.softmax import Floats
from gateway.learn.features import features_of
from gateway.learn.model import Matrix, Model, Vector, fit

FEWEST = 50
"""Prompts below which nothing is learned."""
FOLDS, BINS, TIMES, SEED = 5, 10, 2000, 20_260_101
_SURE = 1e-3


class Answer(msgspec.Struct, frozen=True):
    """One answer of a target: how right it was, in 0..1, and what it cost, in dollars. `run` is
    where that is known from."""

    text: str
    target: str
    right: float
    cost: float
    run: str = ""


class Rows(msgspec.Struct, frozen=True):
    """Prompts that every target has answered; matrices are [prompts, targets]. `left_out` prompts
    were not asked of all."""

    texts: tuple[str, ...]
    targets: tuple[str, ...]
    right: Matrix
    cost: Matrix
    left_out: int


class Versus(msgspec.Struct, frozen=True):
    """The new model less the one before, in dollars of net value a request, with a paired
    bootstrap's 95 % interval: over `prompts` that neither had learned from."""

    prompts: int
    gain: float
    gain_low: float
    gain_high: float


class Report(msgspec.Struct, frozen=True):
    """On rows held out, of the model and of each target's share: Brier score, log loss in nats,
    expected calibration error, and dollars of net value a request.

    `gain` is the difference of net values, with the 95 % interval of a paired bootstrap over
    prompts.
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


def rows_of(answers: Sequence[Answer], targets: Sequence[str]) -> Rows:
    """Several answers of a target to the same prompt count by their mean."""
    found: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for each in answers:
        if each.target in targets:
            of = found.setdefault(each.text, {})
            of.setdefault(each.target, []).append((each.right, each.cost))
    whole = {text: of for text, of in found.items() if len(of) == len(targets)}
    means = np.array(
        [[np.mean(of[target], axis=0) for target in targets] for of in whole.values()], float
    ).reshape(len(whole), len(targets), 2)
    left_out = len(found) - len(whole)
    return Rows(tuple(whole), tuple(targets), means[:, :, 0], means[:, :, 1], left_out)


def train(
    rows: Rows, value: float, progress: Callable[[int, int], None] = lambda done, of: None
) -> Trained:
    """The model of all rows, and what one made so is worth. `value` is dollars a right answer.
    Raises ValueError for fewer than `FEWEST` prompts or two targets."""
    n = len(rows.texts)
    if n < FEWEST or len(rows.targets) < 2:
        raise ValueError(
            f"{n} prompts were answered by all of {len(rows.targets)} targets; {FEWEST} prompts"
            " and two targets are needed"
        )
    read = [features_of(text) for text in rows.texts]
    vectors = np.stack([vector for vector, _ in read])
    plain = np.stack([figures for _, figures in read])
    predicted, shares, cost = (np.zeros_like(rows.right) for _ in range(3))
    for fold in range(FOLDS):
        held = _dealt(n, FOLDS) == fold
        model = _calibrated(vectors[~held], plain[~held], rows.right[~held])
        predicted[held] = model.scores(vectors[held], plain[held])
        shares[held] = rows.right[~held].mean(axis=0)
        cost[held] = rows.cost[~held].mean(axis=0)
        progress(fold + 1, FOLDS + 1)
    model = _calibrated(vectors, plain, rows.right)
    progress(FOLDS + 1, FOLDS + 1)
    report = _report(rows, predicted, shares, cost, value)
    return Trained(model, report, predicted, cost, value)


def versus(rows: Rows, new: Trained, before: Model, known: Collection[str]) -> Versus | None:
    """`new` against the version before, of the same targets, which has learned from the texts
    `known`; None where there are fewer than `FEWEST` others."""
    fresh = np.array([text not in known for text in rows.texts])
    if int(fresh.sum()) < FEWEST:
        return None
    read = [features_of(text) for text, is_fresh in zip(rows.texts, fresh, strict=True) if is_fresh]
    told = before.scores(
        np.stack([vector for vector, _ in read]), np.stack([figures for _, figures in read])
    )
    some = rows.right[fresh], rows.cost[fresh], new.cost[fresh], new.value
    lead = _net(new.predicted[fresh], *some) - _net(told, *some)
    return Versus(int(fresh.sum()), float(lead.mean()), *_between(lead))


def _dealt(n: int, folds: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    dealt: np.ndarray[tuple[int], np.dtype[np.int64]] = (
        np.random.default_rng(SEED).permutation(n) % folds
    )
    return dealt


def _calibrated(vectors: Floats, plain: Floats, right: Matrix) -> Model:
    beyond, wanted = np.zeros_like(right), np.zeros_like(right)
    dealt = _dealt(len(right), FOLDS)
    for fold in range(FOLDS):
        held = dealt == fold
        inner = fit(vectors[~held], plain[~held], right[~held])
        beyond[held] = inner.scores(vectors[held], plain[held]) - inner.shares
        wanted[held] = right[held] - inner.shares
    size = (beyond**2).sum(axis=0)
    slope = np.clip((beyond * wanted).sum(axis=0) / np.maximum(size, 1e-12), 0.0, 1.0)
    model = fit(vectors, plain, right)
    return msgspec.structs.replace(model, weights=(model.weights * slope).astype(np.float32))


def _report(rows: Rows, predicted: Matrix, shares: Matrix, cost: Matrix, value: float) -> Report:
    right = rows.right
    own = _net(predicted, right, rows.cost, cost, value)
    plain = _net(shares, right, rows.cost, cost, value)
    lead = own - plain
    return Report(
        len(right),
        rows.left_out,
        rows.targets,
        float(((predicted - right) ** 2).mean()),
        float(((shares - right) ** 2).mean()),
        _log_loss(predicted, right),
        _log_loss(shares, right),
        calibration_error(predicted.ravel(), right.ravel()),
        float(own.mean()),
        float(plain.mean()),
        float(lead.mean()),
        *_between(lead),
    )


def _net(quality: Matrix, right: Matrix, cost: Matrix, expected: Matrix, value: float) -> Vector:
    """What each prompt brought, asking who promised most."""
    at = np.arange(len(right))
    chosen = (value * quality - expected).argmax(axis=1)
    gained: Vector = value * right[at, chosen] - cost[at, chosen]
    return gained


def _between(lead: Vector) -> tuple[float, float]:
    rng = np.random.default_rng(SEED)
    again = [float(lead[rng.integers(0, len(lead), len(lead))].mean()) for _ in range(TIMES)]
    return float(np.quantile(again, 0.025)), float(np.quantile(again, 0.975))


def _log_loss(predicted: Matrix, right: Matrix) -> float:
    p = np.clip(predicted, _SURE, 1.0 - _SURE)
    return float(-(right * np.log(p) + (1.0 - right) * np.log(1.0 - p)).mean())


def calibration_error(
    predicted: np.ndarray[tuple[int], np.dtype[np.float64]],
    right: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> float:
    """The mean distance of what was said from what came, over ten bins of what was said."""
    place = np.minimum((predicted * BINS).astype(int), BINS - 1)
    said = np.bincount(place, predicted, BINS)
    came = np.bincount(place, right, BINS)
    return float(np.abs(said - came).sum() / len(predicted))
