"""What a composition's machine and whoever performs its steps say to each other. Pure.

A machine is a generator: it yields the calls that are to be made together, is sent what each came
to, in the same order, and returns its ending. It has no input or output of its own.
"""

from collections.abc import Generator
from typing import TypeAlias

import msgspec

from gateway.types.compositions import Step


class Ask(msgspec.Struct, frozen=True):
    """One step to be asked, whose whole answer the machine wants to see."""

    step: Step


class Said(msgspec.Struct, frozen=True):
    """A step's answer: the whole body, and the text in it; `calls` where it calls tools."""

    step: Step
    body: bytes
    text: str
    calls: bool = False


class Failed(msgspec.Struct, frozen=True):
    """A step that gave no answer; `too_dear` where it was not asked, for what it might cost."""

    step: Step
    why: str
    too_dear: bool = False


class Last(msgspec.Struct, frozen=True):
    """The ending in which one more step answers the client, streamed where that is asked for.

    `instead` is given where that step might cost too much.
    """

    step: Step
    instead: Said | None = None


class Given(msgspec.Struct, frozen=True):
    """The ending in which an answer that is there is given."""

    said: Said


Heard: TypeAlias = Said | Failed
Ending: TypeAlias = Last | Given
Machine: TypeAlias = Generator[tuple[Ask, ...], tuple[Heard, ...], Ending]
Notes: TypeAlias = dict[str, str]
"""What is said of steps beyond that they answered, by their names, for people."""
