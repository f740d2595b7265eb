"""The default classifier: linear in words, pairs of words and pieces of words.

A softmax regression over features.py's vectors. Because a text's vector is a sum over its words and
pairs, fitting ends in a table with one row of logits for each of them; a prediction looks rows up,
adds them and scales the sum. A word that is not in the table gets its row from its pieces, once,
and is then remembered in a cache of strictly limited size.

How the constants here and in features.py were chosen: on the training parts of BANKING77, CLINC150
and HWU64 alone. Fits on the given ten-shot split, and on another one drawn from the rest of the
training part, were scored on training texts outside the split (at most 30 a class). The mean
accuracy of those six moves by less than half a point around the chosen values.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

import msgspec
import numpy as np

from gateway.classify import features
from gateway.classify.base import Prediction
from gateway.classify.calibration import (
    Calibration,
    Example,
    Prior,
    Top,
    calibrate,
    folds,
    predicted,
    top,
)
from gateway.classify.features import Sparse, Vocabulary
from gateway.classify.softmax import Floats, fit_dual

RIDGE = 0.01
# The table of logits: features in few texts are left out where it would become larger.
_TABLE_BYTES = 128 << 20
_CACHE_BYTES = 16 << 20
_CACHE_WORDS = 4096
_CHUNK_BYTES = 64 << 20
_NAME = re.compile(r"[\W_]+")
_PRIOR = Prior(bias=-2.1, level=0.4, margin=0.85)
_UNCALIBRATED = Calibration(_PRIOR.bias, _PRIOR.level, _PRIOR.margin, 0.5)


class Tables(msgspec.Struct, frozen=True):
    """What a fit leaves: for every feature one row, [classes + 1].

    The row of a word (with its pieces) or of a pair is what it adds to each logit and, last, to the
    squared length of the text's vector. The row of a piece is still to be weighed, and its last
    column is empty: pieces only make the rows of words that are not in the vocabulary.
    """

    labels: tuple[str, ...]
    vocabulary: Vocabulary
    rows: Floats
    calibration: Calibration


class LexicalClassifier:
    """Predicts in tens of microseconds, on the event loop; safe to share between threads."""

    blocking = False

    def __init__(self, tables: Tables) -> None:
        self.tables = tables
        self.labels = tables.labels
        self.threshold = tables.calibration.threshold
        size = min(_CACHE_WORDS, _CACHE_BYTES // (4 * tables.rows.shape[1]))
        self._composed = lru_cache(maxsize=size)(self._compose)

    def predict(self, text: str) -> Prediction:
        """The best label; any text is safe, an empty one gets a low confidence.

        Of a text over 2,000 characters only the first and last 1,000 are read.
        """
        return predicted(self.top(text), self.labels, self.tables.calibration)

    def top(self, text: str) -> Top:
        """The best few logits of a text."""
        words = features.split(text)
        total = self._total(words)
        square = float(total[-1])
        return top(total[:-1], square**-0.5 if square > 0 else 0.0)

    def _total(self, words: Sequence[str]) -> Floats:
        parts = features.parts(words)
        found = list(map(self.tables.vocabulary.index.get, parts))
        known = [at for at in found if at is not None]
        total: Floats = np.add.reduce(self.tables.rows.take(known, axis=0), axis=0)
        if len(known) < len(found):
            for part, at in zip(parts, found, strict=True):
                if at is None and " " not in part:
                    total += self._composed(part)
        return total

    def _compose(self, word: str) -> Floats:
        return _composed(features.vector(word, self.tables.vocabulary), self.tables.rows)


def fit_lexical(examples: Sequence[Example]) -> LexicalClassifier:
    """Fit on (text, label) pairs; their order does not matter. Raises ValueError without any.

    A label's own words count as one more example of it. Takes about two seconds for 1,500 examples
    of 150 labels, most of it for the calibration, and memory for the square of their number.
    """
    if not examples:
        raise ValueError("there are no examples to fit a classifier on; give at least one")
    examples = sorted(set(examples))
    tops, right = _held_out(examples)
    return LexicalClassifier(_fit(examples, calibrate(tops, right, _PRIOR)))


def _held_out(examples: Sequence[Example]) -> tuple[list[Top], list[bool]]:
    held = folds(examples)
    tops, right = [], []
    for fold in sorted({at for at in held if at is not None}):
        seen = [example for example, at in zip(examples, held, strict=True) if at != fold]
        unseen = [example for example, at in zip(examples, held, strict=True) if at == fold]
        classifier = LexicalClassifier(_fit(seen, _UNCALIBRATED))
        for text, label in unseen:
            found = classifier.top(text)
            tops.append(found)
            right.append(classifier.labels[found.classes[0]] == label)
    return tops, right


def _fit(examples: Sequence[Example], calibration: Calibration) -> Tables:
    labels = tuple(sorted({label for _, label in examples}))
    named = [*examples, *((_NAME.sub(" ", label), label) for label in labels)]
    texts = [features.split(text) for text, _ in named]
    # A lone label is told from an empty class, which learns the opposite of it.
    classes = max(2, len(labels))
    vocabulary = features.learn(texts, _TABLE_BYTES // (4 * (classes + 1)))
    rows = features.matrix(texts, vocabulary)
    number = {label: at for at, label in enumerate(labels)}
    target = np.array([number[label] for _, label in named])
    coefficients = fit_dual(features.gram(rows), target, classes, RIDGE)
    table = _table(rows, coefficients[:, : len(labels)], vocabulary)
    return Tables(labels, vocabulary, table, calibration)


def _table(rows: Sparse, coefficients: Floats, vocabulary: Vocabulary) -> Floats:
    """Xᵀ A, in which each word's and pair's row is then replaced by what it adds in all."""
    table = np.zeros((rows.width, coefficients.shape[1] + 1), np.float32)
    _transposed_product(rows, coefficients, table[:, :-1])
    for key, at in vocabulary.index.items():
        if not key.startswith(features.PIECE):
            table[at] = _composed(features.vector(key, vocabulary), table)
    return table


def _transposed_product(rows: Sparse, coefficients: Floats, out: Floats) -> None:
    owner = np.repeat(np.arange(len(coefficients)), np.diff(rows.starts))
    order = np.argsort(rows.columns, kind="stable")
    begin = np.searchsorted(rows.columns[order], np.arange(rows.width + 1))
    step = max(1, _CHUNK_BYTES // (4 * coefficients.shape[1]))
    low = 0
    while low < rows.width:
        high = max(low + 1, int(np.searchsorted(begin, begin[low] + step, side="right")) - 1)
        at = order[begin[low] : begin[high]]
        terms = rows.values[at, None] * coefficients[owner[at]]
        out[low:high] = np.add.reduceat(terms, begin[low:high] - begin[low], axis=0)
        low = high


def _composed(weights: dict[int, float], table: Floats) -> Floats:
    """One word's row: its features' rows weighed and summed, and the square of its length."""
    values = np.fromiter(weights.values(), np.float32, len(weights))
    row: Floats = values @ table.take(list(weights), axis=0)
    row[-1] = values @ values
    return row
