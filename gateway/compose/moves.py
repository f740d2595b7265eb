"""What a composition's machine and whoever performs its steps say to each other. Pure.

A machine is a generator: it yields the calls that are to be made together, is sent what each came
to, in the same order, and returns its ending. It has no input or output of its own.
"""

from collections.abc import Generator
from typing import TypeAlias

import msgspec

from gateway.types.compositions import Step


class Ask(msgspec.Struct, frozen=True):
    """One call to be made: what the client asked, as far as nothing else is said here.

    `system` is put before its messages, and `prompt` takes the place of the last of the user; where
    it stands `alone` there is no more to it: no other messages, no tools and no format. With
    `inner` the answer is for us, in whatever form, and not for the client. With `probability` the
    log-probabilities of its tokens are asked for, too.
    """

    name: str
    target: str
    system: str | None = None
    prompt: str | None = None
    alone: bool = False
    inner: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    probability: bool = False


class Said(msgspec.Struct, frozen=True):
    """What was answered: the whole body, and the text in it; `calls` where it calls tools, as one
    text that is the same for the same calls. `probability` is the geometric mean of its tokens'."""

    ask: Ask
    body: bytes
    text: str
    calls: str = ""
    probability: float | None = None


class Failed(msgspec.Struct, frozen=True):
    """A call that gave no answer; `too_dear` where it was not made, for what it might cost."""

    ask: Ask
    why: str
    too_dear: bool = False


class Last(msgspec.Struct, frozen=True):
    """The ending in which one more step answers the client, streamed where that is asked for.

    `instead` is given where that step might cost too much.
    """

    ask: Ask
    instead: Said | None = None


class Given(msgspec.Struct, frozen=True):
    """The ending in which an answer that is there is given."""

    said: Said


class Nothing(msgspec.Struct, frozen=True):
    """The ending in which there is no answer: the composition has failed, for `why`."""

    why: str


Heard: TypeAlias = Said | Failed
Ending: TypeAlias = Last | Given | Nothing
Machine: TypeAlias = Generator[tuple[Ask, ...], tuple[Heard, ...], Ending]
Notes: TypeAlias = dict[str, str]
"""What is said of calls beyond that they were answered, by their names, for people."""


def asking(step: Step) -> Ask:
    """The call that a step is by itself."""
    return Ask(step.name, step.target, system=step.system, max_tokens=step.max_tokens)
