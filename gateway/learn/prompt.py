"""A request's prompt on its way: read as features when that is needed, and once."""

import asyncio

import msgspec

from gateway.classify.base import Computed
from gateway.classify.encoder import EncoderError
from gateway.learn.features import FeatureKind, Features


class Prompt(msgspec.Struct):
    """`text` is read as `kind` does, from what the classifier has `computed` of it, if anything;
    `features` are there once it was read."""

    text: str
    kind: FeatureKind
    computed: Computed | None = None
    features: Features | None = None

    @property
    def is_quick(self) -> bool:
        """Whether reading it takes but some tens of microseconds."""
        kind = self.kind
        return self.features is not None or not kind.slow or kind.knows(self.computed)

    async def read(self) -> Features | None:
        """Its features; encoded on a thread where nobody has encoded it. None while the encoder is
        away, and for a text that it does not take."""
        if self.features is None and self.is_quick:
            self.features = self.kind.of(self.text, self.computed)
        if self.features is None:
            try:
                self.features = await asyncio.to_thread(self.kind.of, self.text)
            except EncoderError:  # said in the log when it went away
                return None
        return self.features

    def packed(self) -> bytes | None:
        """Its features as they are kept; None where they would have to be waited for."""
        if self.features is None:
            if not self.is_quick:
                return None
            self.features = self.kind.of(self.text, self.computed)
        return self.kind.packed(self.features)
