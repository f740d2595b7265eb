"""From logits to the probability of being right, and to the threshold for the default route.

Both are fitted on predictions for examples that the classifier had not seen: five folds within the
examples, each predicted by a fit on the other four.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.classify.base import Computed, Prediction

FOLDS = 5
# Above this many examples one fold in five tells enough, and the other four fits are saved.
_ONE_FOLD_FROM = 4000
_SHOWN = 3

Example = tuple[str, str]


class Calibration(msgspec.Struct, frozen=True):
    """P(right) = 1 / (1 + exp(-(bias + level × best + margin × (best - second best))))."""

    bias: float
    level: float
    margin: float
    threshold: float

    def confidence(self, best: float, second: float) -> float:
        """In 0..1, from the two highest logits of one text."""
        odds = self.bias + self.level * best + self.margin * (best - second)
        return 1.0 / (1.0 + math.exp(-min(max(odds, -30.0), 30.0)))


class Prior(msgspec.Struct, frozen=True):
    """Where a calibration stands before it has seen an example, and how firmly.

    `strength` is the precision of the Gaussian around each of the three coefficients.
    """

    bias: float
    level: float
    margin: float
    strength: float = 4.0


class Top(msgspec.Struct, frozen=True):
    """The best few classes of one text, best first, as class index and logit."""

    classes: tuple[int, ...]
    logits: tuple[float, ...]

    @property
    def second(self) -> float:
        """The runner-up's logit; 0, what no evidence at all has, where there is one class only."""
        return self.logits[1] if len(self.logits) > 1 else 0.0


def top(logits: NDArray[np.float32], scale: float = 1.0) -> Top:
    """The best few of [classes] logits, each times `scale`.

    Plain floats: between requests numpy's code has left the caches, and each call of it costs more
    than a search through some hundred numbers.
    """
    left: list[float] = logits.tolist()
    classes, values = [], []
    for _ in range(min(_SHOWN, len(left))):
        best = max(left)
        at = left.index(best)
        classes.append(at)
        values.append(scale * best)
        left[at] = -math.inf
    return Top(tuple(classes), tuple(values))


def predicted(
    found: Top, labels: Sequence[str], calibration: Calibration, computed: Computed
) -> Prediction:
    """The prediction that these logits make, with what was computed on the way."""
    return Prediction(
        labels[found.classes[0]],
        calibration.confidence(found.logits[0], found.second),
        tuple((labels[at], logit) for at, logit in zip(found.classes, found.logits, strict=True)),
        computed,
    )


def folds(examples: Sequence[Example]) -> list[int | None]:
    """The fold that holds each example out; None for an example that is never held out.

    Each label's examples are dealt in the order of their hashes, which depends neither on the
    order given nor on the alphabet, so that near duplicates do not end up apart by design. The
    only example of its label is never held out: nothing could get it right.
    """
    used = 1 if len(examples) > _ONE_FOLD_FROM else FOLDS
    sizes = Counter(label for _, label in examples)
    dealt: Counter[str] = Counter()
    held: list[int | None] = [None] * len(examples)
    for at in sorted(range(len(examples)), key=lambda at: (_digest(examples[at][0]), at)):
        label = examples[at][1]
        fold = dealt[label] % FOLDS
        dealt[label] += 1
        if fold < used and sizes[label] > 1:
            held[at] = fold
    return held


def calibrate(tops: Sequence[Top], right: Sequence[bool], prior: Prior) -> Calibration:
    """Fit a calibration to held-out predictions.

    Platt scaling (Platt 1999) on two figures instead of one, by Newton's method, with the prior's
    Gaussian around its coefficients: with a handful of examples the prior decides, with hundreds
    the examples do.

    The threshold is the confidence that nine in ten of the *right* held-out predictions reach,
    kept within 0.3..0.7 and drawn towards 0.5 as if by twenty predictions. Chosen on the training
    parts of three public intent sets and the validation part of CLINC150's out-of-scope texts:
    there it refuses about half of what would be wrong and three in four of the texts that belong
    to no label, on each set alike, where a fixed confidence does so on one and not on another.
    """
    start = np.array([prior.bias, prior.level, prior.margin])
    shape = (len(tops), 3)
    figures = np.array([(1.0, t.logits[0], t.logits[0] - t.second) for t in tops]).reshape(shape)
    fitted = _logistic(figures, np.array(right, float), start, prior.strength)
    bias, level, margin = (float(value) for value in fitted)
    draft = Calibration(bias, level, margin, 0.5)
    reached = [
        draft.confidence(t.logits[0], t.second) for t, ok in zip(tops, right, strict=True) if ok
    ]
    return msgspec.structs.replace(draft, threshold=_threshold(reached))


def _threshold(right: Sequence[float]) -> float:
    if not right:
        return 0.5
    tenth = float(np.quantile(right, 0.1))
    return min(max((len(right) * tenth + 20 * 0.5) / (len(right) + 20), 0.3), 0.7)


def _logistic(
    figures: NDArray[np.float64],
    right: NDArray[np.float64],
    start: NDArray[np.float64],
    pull: float,
) -> NDArray[np.float64]:
    """Coefficients of a logistic regression; the prior is Gaussian at `start`, precision `pull`."""
    fitted = start.copy()
    for _ in range(50):
        shares = 1.0 / (1.0 + np.exp(-np.clip(figures @ fitted, -30.0, 30.0)))
        slope = figures.T @ (shares - right) + pull * (fitted - start)
        curve = (figures.T * (shares * (1 - shares))) @ figures + pull * np.eye(len(start))
        step = np.linalg.solve(curve, slope)
        # A cap on the step keeps Newton's method from overshooting where the curve is flat.
        fitted = fitted - step * min(1.0, 1.0 / max(float(np.abs(step).max()), 1e-12))
        if float(np.abs(step).max()) < 1e-8:
            break
    return fitted


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
