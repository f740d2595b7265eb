"""A classifier whose encoder's server may be away, when it is made or at any time after.

While it is away every prediction fails at once, so that no request waits for it; `look` finds out
whether it is there again. Each change is logged once.
"""

import logging
import threading
from collections.abc import Callable

from gateway.classify.base import Classifier, Prediction
from gateway.classify.encoder import EncoderError, TextRefused

_log = logging.getLogger("switchboard.classifier")


class StandingClassifier:
    """Stands in for the classifier that `make` gives, which raises EncoderError while it cannot.

    Safe from any thread. `look` is called by the constructor, and then by whoever looks after it.
    """

    blocking = True

    def __init__(self, make: Callable[[], Classifier]) -> None:
        self._make = make
        self._made: Classifier | None = None
        self._away = False
        self._changing = threading.Lock()
        self.look()

    @property
    def labels(self) -> tuple[str, ...]:
        """None while the encoder is away."""
        made = self._made
        return made.labels if made is not None else ()

    @property
    def threshold(self) -> float:
        """Nothing is sure while the encoder is away."""
        made = self._made
        return made.threshold if made is not None else 1.0

    def predict(self, text: str) -> Prediction:
        """Raises EncoderError while the encoder is away, TextRefused if it does not take `text`."""
        made = self._made
        if made is None:
            raise EncoderError("the classifier's encoder is away")
        try:
            return made.predict(text)
        except TextRefused:
            raise
        except EncoderError as error:
            self._lose(made, error)
            raise

    def look(self) -> None:
        """Makes the classifier anew if the encoder was away; blocks as long as a fit takes.

        Anew, because what comes back may be another model with other vectors.
        """
        if self._made is not None:
            return
        try:
            made = self._make()
        except EncoderError as error:
            self._lose(None, error)
            return
        with self._changing:
            self._made = made
            was_away, self._away = self._away, False
        if was_away:
            _log.warning("the classifier's encoder is there again")

    def _lose(self, made: Classifier | None, error: EncoderError) -> None:
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
