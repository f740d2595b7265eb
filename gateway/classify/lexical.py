"""The default classifier: a softmax regression over words, pairs of words and pieces of words.

How the constants here and in features.py were chosen: on the training parts of BANKING77, CLINC150
and HWU64 alone. Fits on the given ten-shot split, and on another one drawn from the rest of the
training part, were scored on training texts outside the split (at most 30 a class). The mean
accuracy of those six moves by less than half a point around the chosen values.
"""

from collections.abc import Callable, Sequence

import msgspec

from gateway.classify.base import Computed, Prediction
from gateway.classify.calibration import Calibration, Example, Prior, Top, predicted, top
from gateway.classify.features import gram, split
from gateway.classify.softmax import fit_dual
from gateway.classify.table import Reader, Table, fold
from gateway.classify.training import held_out_calibration, lexical_features, problem

_RIDGE = 0.01
_PRIOR = Prior(bias=-2.0, level=0.35, margin=0.85)


class LexicalModel(msgspec.Struct, frozen=True):
    """What a fit leaves."""

    labels: tuple[str, ...]
    table: Table
    calibration: Calibration


class LexicalClassifier:
    """Predicts in tens of microseconds, on the event loop; safe to share between threads."""

    blocking = False

    def __init__(self, model: LexicalModel) -> None:
        self.model = model
        self.labels = model.labels
        self.threshold = model.calibration.threshold
        self._reader = Reader(model.table)

    def predict(self, text: str) -> Prediction:
        """The best label; any text is safe, one without a known word gets a low confidence.

        Of a text over 2,000 characters only the first and last 1,000 are read.
        """
        words = split(text)
        found = top(*self._reader.read(words))
        return predicted(found, self.labels, self.model.calibration, Computed(words))


def fit_lexical(examples: Sequence[Example]) -> LexicalClassifier:
    """Fit on (text, label) pairs; their order does not matter. Raises ValueError without any.

    A label's own words count as one more example of it. Takes about two seconds for 1,500 examples
    of 150 labels, most of it for the calibration, and memory for the square of their number.
    """
    examples = sorted(set(examples))
    labels, table = _fit(examples)
    return LexicalClassifier(
        LexicalModel(labels, table, held_out_calibration(examples, _PRIOR, _draft))
    )


def _fit(examples: Sequence[Example]) -> tuple[tuple[str, ...], Table]:
    posed = problem(examples)
    vocabulary, rows = lexical_features(posed)
    coefficients = fit_dual(gram(rows), posed.target, posed.classes, _RIDGE)
    return posed.labels, fold(rows, coefficients[:, : len(posed.labels)], vocabulary)


def _draft(examples: Sequence[Example]) -> Callable[[str], tuple[str, Top]]:
    labels, table = _fit(examples)
    reader = Reader(table)

    def predict(text: str) -> tuple[str, Top]:
        found = top(*reader.read(split(text)))
        return labels[found.classes[0]], found

    return predict
