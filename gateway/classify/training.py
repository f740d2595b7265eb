"""What the learned classifiers' fits share: the problem, its features, the held-out folds."""

import re
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from gateway.classify import features
from gateway.classify.calibration import Calibration, Example, Prior, Top, calibrate, folds
from gateway.classify.features import Sparse, Vocabulary
from gateway.classify.softmax import Ints
from gateway.classify.table import TABLE_BYTES

_NAME = re.compile(r"[\W_]+")


class Problem(msgspec.Struct, frozen=True):
    """Texts and the classes they belong to. `classes` is at least two.

    A label's own words stand among the texts as one more example of it. A lone label is told from
    an empty second class, which learns the opposite of it.
    """

    labels: tuple[str, ...]
    texts: tuple[str, ...]
    target: Ints
    classes: int


def problem(examples: Sequence[Example]) -> Problem:
    """The problem that these examples pose; raises ValueError without any."""
    if not examples:
        raise ValueError("there are no examples to fit a classifier on; give at least one")
    labels = tuple(sorted({label for _, label in examples}))
    named = [*examples, *((label_words(label), label) for label in labels)]
    number = {label: at for at, label in enumerate(labels)}
    target = np.array([number[label] for _, label in named])
    return Problem(labels, tuple(text for text, _ in named), target, max(2, len(labels)))


def label_words(label: str) -> str:
    """`card_arrival` or `card-arrival` as a text."""
    return _NAME.sub(" ", label).strip().lower()


def lexical_features(posed: Problem) -> tuple[Vocabulary, Sparse]:
    """The problem's vocabulary, cut where its table would become too large, and its matrix."""
    texts = [features.split(text) for text in posed.texts]
    vocabulary = features.learn(texts, TABLE_BYTES // (4 * (posed.classes + 1)))
    return vocabulary, features.matrix(texts, vocabulary)


def held_out_calibration(
    examples: Sequence[Example],
    prior: Prior,
    fit: Callable[[Sequence[Example]], Callable[[str], tuple[str, Top]]],
) -> Calibration:
    """Calibrate on predictions for each fold of the examples by a fit on the others.

    `fit` gives, for examples, a function from a text to its best label and top logits.
    """
    held = folds(examples)
    tops: list[Top] = []
    right: list[bool] = []
    for fold in sorted({at for at in held if at is not None}):
        predict = fit([e for e, at in zip(examples, held, strict=True) if at != fold])
        for text, label in (e for e, at in zip(examples, held, strict=True) if at == fold):
            best, found = predict(text)
            tops.append(found)
            right.append(best == label)
    return calibrate(tops, right, prior)
