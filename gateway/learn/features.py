"""A text as the numbers that learned quality goes by: words and pairs of words, hashed. Pure.

Each is put, with a sign, in one of 256 places by its CRC-32 (Weinberger et al. 2009, on hashing):
no vocabulary has to be kept or to agree, and a text of a thousand characters takes some tens of
microseconds. Beside that stand the eight figures of `model.figures`.

Kept, they are a byte that stands for `KIND`, the figures, and the places that are not 0: about 300
bytes of a text of 350 characters. The text cannot be read from them, though a known one be told.
"""

from typing import TypeAlias
from zlib import crc32

import numpy as np

from gateway.classify.features import parts, split
from gateway.classify.softmax import Floats
from gateway.learn.model import figures

WIDTH = 256
READ = 2000
"""Characters that are read from a text's beginning: a gateway does it between two requests."""
KIND = "words-256-1"
"""Of what a model was learned: it is good with no other."""
MARK = 1
"""Stands for `KIND` before features that are kept."""
FIGURES = 8

Features: TypeAlias = tuple[Floats, Floats]
"""[256] and [8]."""


def features_of(text: str) -> Features:
    """Safe for any text."""
    text = text[:READ]
    codes = [crc32(part.encode("utf-8", "surrogatepass")) for part in parts(split(text))]
    found = np.array(codes, np.int64)
    places = np.bincount(found >> 1 & WIDTH - 1, (found & 1) * 2.0 - 1.0, WIDTH).astype(np.float32)
    return places, np.array(figures(text), np.float32)


def packed(features: Features) -> bytes:
    """As they are kept; nothing of them is lost."""
    places, plain = features
    at = np.flatnonzero(places)
    return b"".join(
        [
            bytes([MARK]),
            plain.astype("<f4").tobytes(),
            places[at].astype("<i2").tobytes(),
            at.astype(np.uint8).tobytes(),
        ]
    )


def unpacked(kept: bytes) -> Features | None:
    """What `packed` was given; None for features of another kind."""
    head = 1 + 4 * FIGURES
    if not kept or kept[0] != MARK or len(kept) < head or (len(kept) - head) % 3:
        return None
    count = (len(kept) - head) // 3
    places = np.zeros(WIDTH, np.float32)
    at = np.frombuffer(kept, np.uint8, count, head + 2 * count)
    places[at] = np.frombuffer(kept, "<i2", count, head)
    return places, np.frombuffer(kept, "<f4", FIGURES, 1).astype(np.float32)
