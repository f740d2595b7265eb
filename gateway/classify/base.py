"""What a classifier is to the pipeline: a text in, a label with a calibrated confidence out.

`predict` is a plain function. `blocking` says where to call it: false means that it takes tens of
microseconds and is called right on the event loop; true means that it takes milliseconds, or waits
for a server, and belongs on a thread.
"""

from collections.abc import Sequence
from typing import Protocol

import msgspec
import numpy as np

from gateway.classify.softmax import Floats

CLASSIFIED_CHARS = 4000
"""Characters from a turn's beginning that a classifier reads: what it is about shows there."""


class Computed(msgspec.Struct, frozen=True, eq=False):
    """What a classifier has worked out of a text on the way, for who goes by the same: its words,
    as `features.split` has them, or the vector of the encoder with the id `encoder`."""

    words: Sequence[str] | None = None
    vector: Floats | None = None
    encoder: str = ""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Computed):
            return NotImplemented
        same = (self.words, self.encoder) == (other.words, other.encoder)
        if self.vector is None or other.vector is None:
            return same and self.vector is other.vector
        return same and np.array_equal(self.vector, other.vector)

    __hash__ = None  # type: ignore[assignment]


class Prediction(msgspec.Struct, frozen=True):
    """The best label for one text.

    `confidence` is the calibrated probability, in 0..1, that `label` is right given that one of
    the labels is. `scores` are the best few labels with their logits, best first; logits order
    labels within one text and have no unit, so compare texts by `confidence` only.
    """

    label: str
    confidence: float
    scores: tuple[tuple[str, float], ...]
    computed: Computed | None = None


class Classifier(Protocol):
    """One fitted classifier; immutable as far as callers can see, and safe to share.

    `labels` are sorted. A prediction whose confidence is below `threshold` should go to the
    default route; `gateway.classify.calibration` tells how the threshold is chosen.
    """

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def threshold(self) -> float: ...

    @property
    def blocking(self) -> bool: ...

    def predict(self, text: str) -> Prediction: ...
