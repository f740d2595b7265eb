"""Whether an answer passes a step's checks. Pure but for the library of JSON Schemas."""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from gateway.evals import scorers
from gateway.types.compositions import Check

CACHED = 256
"""Validators of schemas that are kept; a gateway has a few."""


def failing(check: Check, text: str) -> str:
    """Why a text does not pass; "" where it does."""
    return _OF_TEXT[check.kind](check, text)


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
