"""A text as the numbers that learned quality goes by, of one of two kinds. Pure.

By words (`WordKind`), where the classifier is lexical: the words and pairs of neighbours of
`classify.features.split`, each once, are put, with a sign, in one of 256 places by a hash of theirs
(Weinberger et al. 2009): no vocabulary has to be kept or to agree. A word's hash is remembered.

By vectors (`VectorKind`), where it has a sentence encoder: those columns that tell how hard a text
is (`Encoder.depth`), scaled to length one and rounded to a byte each, so that what is kept of a
request is the very same that was decided by.

Beside that stand the eight figures of `model.figures`. What the classifier has worked out of a text
is taken from it; both read as much of a text as it does, and what one kind was learned of says
nothing of the other, nor of another encoder's: a version names its kind.

Kept, features are a byte that stands for the kind, the figures, and, of words, the places that are
not 0: about 300 bytes of a text of 350 characters; of vectors a hash of the encoder's id, and 384
bytes of all-MiniLM-L6-v2. From hashed words no text can be read, though a known one be told; from
a vector much of a short one can be guessed by who has the means.
"""

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol, TypeAlias
from zlib import crc32

import numpy as np

from gateway.classify.base import CLASSIFIED_CHARS, Computed
from gateway.classify.encoder import Encoder
from gateway.classify.features import split
from gateway.classify.softmax import Floats
from gateway.learn.model import figures

READ = CLASSIFIED_CHARS
"""Characters that are read from a text's beginning."""
FIGURES = 8
BATCH = 64
"""Texts that are encoded at a time."""

Features: TypeAlias = tuple[Floats, Floats]
"""[width] and [8]."""


class FeatureKind(Protocol):
    """How texts are read, and features kept. `name` stands in versions: a model is good with
    features of the kind that it was learned of, and no other.

    `slow` says that a text of which nothing was computed takes milliseconds, or waits for a server,
    and belongs on a thread.
    """

    @property
    def name(self) -> str: ...

    @property
    def slow(self) -> bool: ...

    def knows(self, computed: Computed | None) -> bool:
        """Whether that is all that has to be computed of a text."""
        ...

    def of(self, text: str, computed: Computed | None = None) -> Features:
        """Safe for any text. Raises EncoderError where one has to be asked and is away."""
        ...

    def of_all(self, texts: Sequence[str]) -> list[Features]:
        """The same for many. Raises EncoderError."""
        ...

    def packed(self, features: Features) -> bytes:
        """As they are kept; nothing of them is lost."""
        ...

    def unpacked(self, kept: bytes) -> Features | None:
        """What `packed` was given; None for features of another kind."""
        ...


class WordKind:
    """Words and pairs of words; see above."""

    name = "words-256-2"
    slow = False

    def knows(self, computed: Computed | None) -> bool:
        """Whether it was split."""
        return computed is not None and computed.words is not None

    def of(self, text: str, computed: Computed | None = None) -> Features:
        """Safe for any text; takes some tens of microseconds."""
        text = text[:READ]
        words = computed.words if computed is not None else None
        return _placed(split(text) if words is None else words), _plain(text)

    def of_all(self, texts: Sequence[str]) -> list[Features]:
        """One after the other."""
        return [self.of(text) for text in texts]

    def packed(self, features: Features) -> bytes:
        """The figures, and the places that are not 0."""
        places, plain = features
        at = np.flatnonzero(places)
        return b"".join(
            [
                bytes([_WORDS]),
                plain.astype("<f4").tobytes(),
                places[at].astype("<i2").tobytes(),
                at.astype(np.uint8).tobytes(),
            ]
        )

    def unpacked(self, kept: bytes) -> Features | None:
        """What `packed` was given; None for features of another kind."""
        head = 1 + 4 * FIGURES
        if not kept or kept[0] != _WORDS or len(kept) < head or (len(kept) - head) % 3:
            return None
        count = (len(kept) - head) // 3
        places = np.zeros(WIDTH, np.float32)
        at = np.frombuffer(kept, np.uint8, count, head + 2 * count)
        places[at] = np.frombuffer(kept, "<i2", count, head)
        return places, np.frombuffer(kept, "<f4", FIGURES, 1).astype(np.float32)


class VectorKind:
    """An encoder's vectors; see above. `id` stands for the encoder where its own is not the same
    wherever it is asked from, as a server's is, whose address is part of it."""

    slow = True

    def __init__(self, encoder: Encoder, id: str | None = None) -> None:
        self.encoder = encoder
        own = range(*encoder.depth.indices(encoder.dim))
        self._width = len(own)
        self.name = f"vectors-{self._width}-1 {id or encoder.id}"
        self._head = bytes([_VECTORS]) + hashlib.sha256(self.name.encode()).digest()[:8]

    def knows(self, computed: Computed | None) -> bool:
        """Whether this very encoder has encoded it."""
        return computed is not None and computed.encoder == self.encoder.id

    def of(self, text: str, computed: Computed | None = None) -> Features:
        """Takes the encoder's time where `computed` has no vector of it. Raises EncoderError."""
        text = text[:READ]
        vector = computed.vector if computed is not None and self.knows(computed) else None
        if vector is None:
            vector = self.encoder.encode([text])[0]
        return self._rounded(vector), _plain(text)

    def of_all(self, texts: Sequence[str]) -> list[Features]:
        """Many at a time. Raises EncoderError."""
        found: list[Features] = []
        for at in range(0, len(texts), BATCH):
            some = [text[:READ] for text in texts[at : at + BATCH]]
            found += self.of_vectors(some, self.encoder.encode(some))
        return found

    def of_vectors(self, texts: Sequence[str], vectors: Floats) -> list[Features]:
        """Of texts that have been encoded, [n, dim], as `encode` does."""
        return [
            (self._rounded(vector), _plain(text[:READ]))
            for text, vector in zip(texts, vectors, strict=True)
        ]

    def _rounded(self, vector: Floats) -> Floats:
        own = vector[self.encoder.depth]
        most = max(float(own.max()), -float(own.min()))
        if most <= 0.0:
            return np.zeros(self._width, np.float32)
        steps = np.rint(own * np.float32(_STEPS / most))
        return _scaled(steps)

    def packed(self, features: Features) -> bytes:
        """A byte a column: the longest of them is 127 steps, whatever the length of a step."""
        vector, plain = features
        most = float(np.abs(vector).max())
        steps = np.rint(vector * np.float32(_STEPS / most)) if most > 0.0 else vector
        return self._head + plain.astype("<f4").tobytes() + steps.astype(np.int8).tobytes()

    def unpacked(self, kept: bytes) -> Features | None:
        """What `packed` was given; None for features of another kind, or of another encoder."""
        head = len(self._head) + 4 * FIGURES
        if not kept.startswith(self._head) or len(kept) != head + self._width:
            return None
        steps = np.frombuffer(kept, np.int8, self._width, head).astype(np.float32)
        plain = np.frombuffer(kept, "<f4", FIGURES, len(self._head)).astype(np.float32)
        return (_scaled(steps) if steps.any() else steps), plain


WIDTH = 256
_WORDS, _VECTORS = 2, 3
"""Stand for the kinds before features that are kept. 1 was the words of the first 2,000
characters, hashed in another way."""
_EDGE = 0x7FFF_FFFF
_MIX = np.int64(0x9E37_79B9_7F4A_7C15 - (1 << 64))
"""2^64 over the golden ratio: the highest bits of a product with it depend on all bits."""
_TRUE = np.ones(1, np.bool_)
_STEPS = 127.0
_KNOWN = 1 << 15
"""Words whose hashes are remembered, some 3 MB of them."""


@lru_cache(_KNOWN)
def _code(word: str) -> int:
    """31 bits that stand for a word."""
    return crc32(word.encode("utf-8", "surrogatepass")) >> 1


def _placed(words: Sequence[str]) -> Floats:
    """Each word, and each pair of neighbours, the edges being neighbours too, in its place; each
    counts once: long material repeats itself, and would drown what is asked about it."""
    if not words:
        return np.zeros(WIDTH, np.float32)
    codes = np.array([*map(_code, words), _EDGE], np.int64)
    parts = np.empty(2 * len(codes) - 1, np.int64)
    parts[: len(words)] = codes[:-1]
    pairs = parts[len(words) :]
    pairs[0] = _EDGE
    pairs[1:] = codes[:-1]
    pairs <<= 31
    pairs |= codes
    parts.sort()
    mixed = parts[np.concatenate((_TRUE, parts[1:] != parts[:-1]))] * _MIX
    signs = (mixed >> 54 & 1) * 2.0 - 1.0
    return np.bincount(mixed >> 55 & WIDTH - 1, signs, WIDTH).astype(np.float32)


def _plain(text: str) -> Floats:
    return np.array(figures(text), np.float32)


def _scaled(steps: Floats) -> Floats:
    """Whole steps, not all of them 0, as a vector of length one."""
    return steps / np.float32(np.sqrt(steps @ steps))
