"""Targets made of other targets, and what became of their steps."""

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

BACKEND = "composed"
"""What stands before the name of a composition in that of its target. No backend is called so."""

INPUT = "input"
"""What stands for the user's last message in the template of a chain's step."""

FIELD = re.compile(r"\{(\w[\w.-]*)\}")
"""What stands in such a template for that, or for what a step has said."""

JUDGED_TOKENS = 200
"""Most tokens that a judge may take to say its mark."""


class Judge(msgspec.Struct, frozen=True):
    """A target that gives an answer a mark by a rubric, from 1 (worst) to `scale`."""

    target: str
    rubric: str
    scale: int = 5


Alike = Literal["text", "number", "json"]
"""By what two answers are the same: their words, the last number in them, their JSON value."""


class Check(msgspec.Struct, frozen=True):
    """What a step's answer must pass, so that no further step is asked.

    `pattern` is matched by the whole answer, `text` stands in it, `schema` is a JSON Schema as JSON
    text. `least` is of the geometric mean of the tokens' probabilities, of the share of `samples`
    answers at a `temperature` that are `alike`, or of the judge's mark.
    """

    kind: Literal["regex", "contains", "schema", "log_probability", "agreement", "judge"]
    pattern: str = ""
    text: str = ""
    schema: bytes = b""
    least: float = 0.0
    samples: int = 1
    temperature: float | None = None
    alike: Alike = "text"
    judge: Judge | None = None


class Step(msgspec.Struct, frozen=True):
    """One target that is asked. `system` is the text of a system prompt of its own here, and
    `checks` what its answer must pass. `prompt` is asked instead of the user's last message, with
    that and what steps have said put in; `max_tokens` bounds what it answers, if given."""

    name: str
    target: str
    checks: tuple[Check, ...] = ()
    system: str | None = None
    prompt: str | None = None
    max_tokens: int | None = None


class Call(msgspec.Struct, frozen=True):
    """One of the calls that a composition may make: `most` times at most, `expected` times, as far
    as is declared, and the client waits for `waited` of them, one after the other.

    In its input are `answers` that others gave; its own has `output` tokens at most, if given.
    """

    target: str
    most: int
    expected: float
    waited: float
    answers: int = 0
    output: int | None = None
    system: str | None = None


class Composition(msgspec.Struct, frozen=True):
    """A cascade, whose steps are asked one after the other until an answer passes its checks; the
    best of the answers that its steps give, each `samples` times at a `temperature`, by what most
    of them say or by a judge; or a chain, whose last step answers with what the others have said.

    `escalates` is the share of a cascade's answers that do not pass, as declared: it counts until
    it is known. No step is begun that could make a request cost more than `max_cost`.
    """

    name: str
    kind: Literal["cascade", "best_of", "chain"]
    steps: tuple[Step, ...]
    escalates: float = 0.5
    max_cost: float | None = None
    samples: int = 1
    temperature: float | None = None
    alike: Alike = "text"
    judge: Judge | None = None

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
        return tuple(dict.fromkeys(call.target for call in self.calls()))

    def calls(self) -> Iterator[Call]:
        """Every call that it may make."""
        if self.kind == "cascade":
            yield from self._cascade()
        elif self.kind == "chain":
            for n, step in enumerate(self.steps):
                output = step.max_tokens
                yield Call(step.target, 1, 1.0, 1.0, answers=n, output=output, system=step.system)
        else:
            yield from self._best_of()

    def _cascade(self) -> Iterator[Call]:
        for n, step in enumerate(self.steps):
            asked = self.escalates**n
            yield Call(step.target, 1, asked, asked, system=step.system)
            for check in step.checks:
                if check.kind == "agreement":
                    more = check.samples - 1
                    yield Call(step.target, more, more * asked, asked, system=step.system)
                elif check.judge is not None:
                    yield _judging(check.judge, 1, asked)

    def _best_of(self) -> Iterator[Call]:
        """The answers are given at the same time: the time of one is waited for."""
        for step in self.steps:
            waited = 1.0 / len(self.steps)
            yield Call(step.target, self.samples, self.samples, waited, system=step.system)
        if self.judge is not None:
            yield _judging(self.judge, self.samples * len(self.steps), 1.0)


def _judging(judge: Judge, calls: int, asked: float) -> Call:
    return Call(judge.target, calls, calls * asked, asked, answers=1, output=JUDGED_TOKENS)


class StepTaken(msgspec.Struct, frozen=True, gc=False):
    """What came of one step of a request: `came_to` is a sentence for people."""

    step: str
    target: str
    came_to: str
