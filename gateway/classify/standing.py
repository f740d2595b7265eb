"""A classifier whose encoder's server may be away, when it is made or at any time after.

While it is away every prediction, and every text to be encoded, fails at once, so that no request
waits for it; `look` finds out whether it is there again. Each change is logged once.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

from gateway.classify.base import Classifier, Prediction
from gateway.classify.encoder import Encoder, EncoderError, TextRefused
from gateway.classify.softmax import Floats

_log = logging.getLogger("switchboard.classifier")

T = TypeVar("T")


class StandingClassifier:
    """Stands in for the classifier that `make` gives with its encoder, or for the encoder alone
    where there is nothing to classify by; `make` raises EncoderError while it cannot.

    Safe from any thread. `look` is called by the constructor, and then by whoever looks after it.
    """

    blocking = True

    def __init__(self, make: Callable[[], tuple[Encoder, Classifier | None]]) -> None:
        self._make = make
        self._made: _Made | None = None
        self._away = False
        self._changing = threading.Lock()
        self.look()

    @property
    def labels(self) -> tuple[str, ...]:
        """None while the encoder is away."""
        classifier = self._classifier
        return classifier.labels if classifier is not None else ()

    @property
    def threshold(self) -> float:
        """Nothing is sure while the encoder is away."""
        classifier = self._classifier
        return classifier.threshold if classifier is not None else 1.0

    @property
    def encoder(self) -> Encoder | None:
        """None while it is away; the same until it goes."""
        return self._made

    @property
    def _classifier(self) -> Classifier | None:
        made = self._made
        return made.classifier if made is not None else None

    def predict(self, text: str) -> Prediction:
        """Raises EncoderError while the encoder is away, TextRefused if it does not take `text`."""
        made = self._made
        if made is None or made.classifier is None:
            raise EncoderError("the classifier's encoder is away")
        predict = made.classifier.predict
        return self._watched(made, lambda: predict(text))

    def look(self) -> None:
        """Makes the classifier anew if the encoder was away; blocks as long as a fit takes.

        Anew, because what comes back may be another model with other vectors.
        """
        if self._made is not None:
            return
        try:
            made = _Made(*self._make(), self._watched)
        except EncoderError as error:
            self._lose(None, error)
            return
        with self._changing:
            self._made = made
            was_away, self._away = self._away, False
        if was_away:
            _log.warning("the classifier's encoder is there again")

    def _watched(self, made: "_Made", ask: Callable[[], T]) -> T:
        """What the encoder is asked; that it did not answer is noted."""
        if self._made is not made:
            raise EncoderError("the classifier's encoder is away")
        try:
            return ask()
        except TextRefused:
            raise
        except EncoderError as error:
            self._lose(made, error)
            raise

    def _lose(self, made: "_Made | None", error: EncoderError) -> None:
        with self._changing:
            if self._made is not made or self._away:
                return
            self._made = None
            self._away = True
        _log.warning(
            "the classifier's encoder is away, so texts that no rule decides go to the default "
            "route: %s",
            error,
        )


class _Made:
    """A classifier, and its encoder as others use it, too."""

    def __init__(
        self,
        encoder: Encoder,
        classifier: Classifier | None,
        watched: "Callable[[_Made, Callable[[], Floats]], Floats]",
    ) -> None:
        self.classifier = classifier
        self.dim, self.id, self.depth = encoder.dim, encoder.id, encoder.depth
        self._encoder = encoder
        self._watched = watched

    def encode(self, texts: Sequence[str]) -> Floats:
        """[n, dim]. Raises EncoderError, at once from when it has first failed."""
        return self._watched(self, lambda: self._encoder.encode(texts))
