"""A text as the numbers that learned quality goes by: words and pairs of words, hashed. Pure.

Each is put, with a sign, in one of 256 places by its CRC-32 (Weinberger et al. 2009, on hashing):
no vocabulary has to be kept or to agree, and a text of a thousand characters takes some tens of
microseconds. Beside that stand the eight figures of `model.figures`.
"""

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


def features_of(text: str) -> tuple[Floats, Floats]:
    """[256] and [8]; safe for any text."""
    text = text[:READ]
    places = np.zeros(WIDTH, np.float32)
    for part in parts(split(text)):
        code = crc32(part.encode("utf-8", "surrogatepass"))
        places[code >> 1 & WIDTH - 1] += 1.0 if code & 1 else -1.0
    return places, np.array(figures(text), np.float32)
