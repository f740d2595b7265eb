"""Whether an answer passes those of a step's checks that look at it alone. Pure, but for a library
of JSON Schemas."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from gateway.compose.moves import Said
from gateway.evals import scorers
from gateway.types.compositions import Check

CACHED = 256
"""Validators of schemas that are kept; a gateway has a few."""


def failing(check: Check, said: Said) -> str:
    """Why an answer does not pass; "" where it does, or where another has to be asked for that."""
    if check.kind == "log_probability":
        return _unsure(check, said.probability)
    of_text = _OF_TEXT.get(check.kind)
    return "" if of_text is None else of_text(check, said.text)


def _unsure(check: Check, probability: float | None) -> str:
    if probability is None:
        return "tells no log-probabilities"
    if probability >= check.least:
        return ""
    return f"its tokens have a probability of {probability:.3g}, under {check.least:.3g}"


def _regex(check: Check, text: str) -> str:
    if re.fullmatch(check.pattern, text.strip(), re.DOTALL) is not None:
        return ""
    return f"does not match {check.pattern}"


def _contains(check: Check, text: str) -> str:
    return "" if check.text in text else f"does not contain {check.text!r}"


def _schema(check: Check, text: str) -> str:
    return "" if _fits(check.schema)(text, "") else "is no JSON that fits the schema"


@lru_cache(maxsize=CACHED)
def _fits(schema: bytes) -> scorers.Score:
    read: Any = msgspec.json.decode(schema)
    return scorers.fits(read)


_OF_TEXT: Mapping[str, Callable[[Check, str], str]] = {
    "regex": _regex,
    "contains": _contains,
    "schema": _schema,
}
