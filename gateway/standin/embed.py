"""Embeddings in OpenAI's wire format. Pure."""

import base64
import math
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from typing import Any


def vector(text: str, dimensions: int) -> list[float]:
    """A unit vector: each word adds to the place that its CRC-32 names, with its sign.

    Texts that share words are near each other, so that retrieval can be tried.
    """
    sums = [0.0] * dimensions
    for word in re.findall(r"\w+", text.lower()) or [text]:
        hashed = zlib.crc32(word.encode())
        sums[(hashed >> 1) % dimensions] += 1.0 if hashed & 1 else -1.0
    norm = math.sqrt(sum(value * value for value in sums))
    if norm == 0.0:
        return [1.0, *sums[1:]]
    return [value / norm for value in sums]


def packed(values: Sequence[float]) -> str:
    """Base64 of little-endian float32."""
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode("ascii")


def embeddings(
    model: str, texts: Sequence[str], body: Mapping[str, Any], dimensions: int, tokens: int
) -> dict[str, Any]:
    """A whole answer: one vector for each text, floats unless base64 was asked for."""
    vectors = [vector(text, body.get("dimensions") or dimensions) for text in texts]
    base64_asked = body.get("encoding_format") == "base64"
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": packed(values) if base64_asked else values,
            }
            for index, values in enumerate(vectors)
        ],
        "model": model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
