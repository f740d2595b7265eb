"""Which features learned quality goes by under a configuration: the encoder's vectors where it has
one, the classifier's words where not."""

from collections.abc import Callable

import msgspec

from gateway.classify.declared import Reads, declared
from gateway.classify.encoder import EncoderError
from gateway.learn.features import FeatureKind, VectorKind, WordKind
from gateway.types.snapshot import Snapshot

WORDS = WordKind()


def kind_for(snapshot: Snapshot) -> FeatureKind:
    """The kind that a configuration asks for. Raises EncoderError where its encoder is away or
    cannot be used."""
    alone = declared(msgspec.structs.replace(snapshot, routes={}))  # there is nothing to fit
    kind = kind_of(alone)()
    if kind is None:
        raise EncoderError(
            f"{snapshot.server.encoder_target}: the encoder is away, and what is learned goes by it"
        )
    return kind


def kind_of(of: Reads) -> Callable[[], FeatureKind | None]:
    """Tells the kind as it is now: None while the encoder is away."""
    if not of.encodes:
        return lambda: WORDS
    known: list[VectorKind] = []

    def now() -> FeatureKind | None:
        encoder = of.encoder
        if encoder is None:
            return None
        if not known or known[0].encoder is not encoder:
            known[:] = [VectorKind(encoder, of.encoder_id)]
        return known[0]

    return now
