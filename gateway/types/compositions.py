"""Targets made of other targets, and what became of their steps."""

from typing import Literal

import msgspec

BACKEND = "composed"
"""What stands before the name of a composition in that of its target. No backend is called so."""


class Check(msgspec.Struct, frozen=True):
    """What a step's answer must pass, so that no further step is asked.

    `pattern` is matched by the whole answer, `text` stands in it, `schema` is a JSON Schema as JSON
    text.
    """

    kind: Literal["regex", "contains", "schema"]
    pattern: str = ""
    text: str = ""
    schema: bytes = b""


class Step(msgspec.Struct, frozen=True):
    """One target that is asked. `system` is the text of a system prompt of its own here, and
    `checks` what its answer must pass."""

    name: str
    target: str
    checks: tuple[Check, ...] = ()
    system: str | None = None


class Composition(msgspec.Struct, frozen=True):
    """A cascade: the steps are asked one after the other, until an answer passes its checks.

    `escalates` is the share of the answers that do not pass, as declared: it counts until it is
    known. No step is begun that could make a request cost more than `max_cost`.
    """

    name: str
    kind: Literal["cascade"]
    steps: tuple[Step, ...]
    escalates: float = 0.5
    max_cost: float | None = None

    @property
    def target(self) -> str:
        """The name of the target that it is."""
        return f"{BACKEND}/{self.name}"

    @property
    def replica(self) -> str:
        """What stands for a replica's URL: it has no servers of its own."""
        return f"{BACKEND}:{self.name}"

    @property
    def targets(self) -> tuple[str, ...]:
        """Every target that it may ask, each once."""
        return tuple(dict.fromkeys(step.target for step in self.steps))


class StepTaken(msgspec.Struct, frozen=True, gc=False):
    """What came of one step of a request: `came_to` is a sentence for people."""

    step: str
    target: str
    came_to: str
