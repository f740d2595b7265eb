"""What a stand-in was asked and would bill, in a file that outlives it."""

import os
from pathlib import Path
from typing import Self

import msgspec

from gateway.standin.answer import Whole
from gateway.standin.api import Answered
from gateway.standin.behaviour import Fault, FaultKind

ABOUT = 64
"""Characters of the last user's text that are written down, to know a call again by."""


class Call(msgspec.Struct, frozen=True):
    """One inference call: what it was about, and the tokens of the answer that it is to get.

    An answer that is cut, or whose client goes away, is made no longer than that.
    """

    model: str
    about: str
    prompt: int
    output: int


class Ledger:
    """Appends each call before it is answered: a killed stand-in leaves none out."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    @classmethod
    def at(cls, path: Path | None) -> Self | None:
        """The ledger in that file, if there is to be one."""
        return None if path is None else cls(path)

    def enter(self, answered: Answered, fault: Fault | None) -> None:
        """Writes one call down, in one piece."""
        refused = isinstance(answered.answer, Whole) and answered.answer.status >= 400
        if refused or (fault is not None and fault.kind is FaultKind.STATUS):
            call = Call(answered.model, answered.about[:ABOUT], 0, 0)
        else:
            made = (answered.prompt_tokens, answered.output_tokens)
            call = Call(answered.model, answered.about[:ABOUT], *made)
        os.write(self._file, msgspec.json.encode(call) + b"\n")

    def close(self) -> None:
        """Nothing more is written."""
        os.close(self._file)


def read(path: Path) -> list[Call]:
    """Every call of a ledger, in order."""
    if not path.exists():
        return []
    return msgspec.json.Decoder(Call).decode_lines(path.read_bytes())
