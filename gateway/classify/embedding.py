"""The better and slower classifier: a softmax regression over a sentence encoder's vectors and,
beside them, the lexical classifier's features.

Vectors are centred on the examples' mean and scaled to length one; their kernel and a fifth of the
lexical one are summed. How the constants were chosen: as in lexical.py, on the training parts
alone, with all-MiniLM-L6-v2. There the lexical share is worth 0.6 points of accuracy, and the
middle layer that bert.py adds 0.5; a Gaussian kernel, whitening by the total or the within-class
covariance, and other layers or poolings gave nothing beyond a fifth of a point.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from gateway.classify.base import Computed, Prediction
from gateway.classify.calibration import Calibration, Example, Prior, Top, predicted, top
from gateway.classify.encoder import Encoder
from gateway.classify.features import gram, split
from gateway.classify.softmax import Floats, fit_dual
from gateway.classify.table import Reader, Table, fold
from gateway.classify.training import held_out_calibration, lexical_features, problem

_RIDGE = 0.03
_LEXICAL_SHARE = 0.2
_PRIOR = Prior(bias=-2.2, level=0.4, margin=1.15)


class Linear(msgspec.Struct, frozen=True):
    """Logits are unit(vector - mean) @ weights + the table's logits.

    `mean` is [dim] and `weights` [dim, classes]; the lexical share is in the table already.
    """

    labels: tuple[str, ...]
    mean: Floats
    weights: Floats
    table: Table


class EmbeddingModel(msgspec.Struct, frozen=True):
    """What a fit leaves; good with the encoder that it was fitted with only."""

    linear: Linear
    calibration: Calibration


class EmbeddingClassifier:
    """Predicts in the encoder's time plus some tens of microseconds; call it on a thread."""

    blocking = True

    def __init__(self, model: EmbeddingModel, encoder: Encoder) -> None:
        self.model = model
        self.labels = model.linear.labels
        self.threshold = model.calibration.threshold
        self._top = _reader(model.linear)
        self.encoder = encoder

    def predict(self, text: str) -> Prediction:
        """The best label; any text is safe.

        Raises what the encoder raises: EncoderError when a server does not answer.
        """
        vector = self.encoder.encode([text])[0]
        found = self._top(text, vector)
        computed = Computed(vector=vector, encoder=self.encoder.id)
        return predicted(found, self.labels, self.model.calibration, computed)


def fit_embedding(examples: Sequence[Example], encoder: Encoder) -> EmbeddingClassifier:
    """Fit on (text, label) pairs; their order does not matter. Raises ValueError without any.

    Every example is encoded once.
    """
    examples = sorted(set(examples))
    texts = sorted(set(problem(examples).texts))
    vectors = dict(zip(texts, encoder.encode(texts), strict=True))

    def draft(seen: Sequence[Example]) -> Callable[[str], tuple[str, Top]]:
        linear = _fit(seen, vectors)
        read = _reader(linear)

        def predict(text: str) -> tuple[str, Top]:
            found = read(text, vectors[text])
            return linear.labels[found.classes[0]], found

        return predict

    calibration = held_out_calibration(examples, _PRIOR, draft)
    return EmbeddingClassifier(EmbeddingModel(_fit(examples, vectors), calibration), encoder)


def _fit(examples: Sequence[Example], vectors: Mapping[str, Floats]) -> Linear:
    posed = problem(examples)
    stacked = np.stack([vectors[text] for text in posed.texts])
    # A lone vector is its own mean: nothing would be left of it.
    mean = stacked.mean(axis=0) if len(posed.labels) > 1 else np.zeros_like(stacked[0])
    dense = _unit(stacked - mean)
    vocabulary, rows = lexical_features(posed)
    kernel = dense @ dense.T + np.float32(_LEXICAL_SHARE) * gram(rows)
    coefficients = fit_dual(kernel, posed.target, posed.classes, _RIDGE)[:, : len(posed.labels)]
    table = fold(rows, np.float32(_LEXICAL_SHARE) * coefficients, vocabulary)
    return Linear(posed.labels, mean, dense.T @ coefficients, table)


def _reader(linear: Linear) -> Callable[[str, Floats], Top]:
    reader = Reader(linear.table)

    def read(text: str, vector: Floats) -> Top:
        lexical, scale = reader.read(split(text))
        logits = _unit((vector - linear.mean)[None])[0] @ linear.weights
        return top(logits + np.float32(scale) * lexical)

    return read


def _unit(rows: Floats) -> Floats:
    scaled: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return scaled
