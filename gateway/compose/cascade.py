"""A cascade: cheap first; the next is asked where an answer does not pass its checks. Pure."""

from collections.abc import Generator
from typing import TypeAlias

import msgspec

from gateway.compose.checks import failing
from gateway.compose.judging import judging, mark
from gateway.compose.moves import Ask, Failed, Given, Heard, Last, Machine, Notes, Said, asking
from gateway.compose.votes import most_alike
from gateway.types.compositions import Check, Composition, Step

Checking: TypeAlias = Generator[tuple[Ask, ...], tuple[Heard, ...], tuple[Said, str]]
"""Yields what has to be asked; returns the answer that it comes to, and why it does not pass."""


class _TooDear(Exception):
    """What a check needs might cost too much: the answer stands."""


def cascade(composition: Composition, question: str, notes: Notes) -> Machine:
    """One step after the other, until one passes; the last one's answer is the client's anyway.

    A step that fails is passed over. An answer that calls tools has no text to be checked: it
    passes. Where the next step, or what a check needs, might cost too much, the latest answer that
    there is is given.
    """
    latest: Said | None = None
    for step in composition.steps[:-1]:
        (heard,) = yield (_first(step),)
        if isinstance(heard, Failed):
            if heard.too_dear and latest is not None:
                return Given(latest)
            continue
        latest = heard
        try:
            latest, why = yield from _checked(step, heard, question)
        except _TooDear as error:
            notes[step.name] = f"given: {error}"
            return Given(heard)
        if not why:
            notes[step.name] = "passed"
            return Given(latest)
        notes[step.name] = f"escalated: {why}"
    return Last(asking(composition.steps[-1]), instead=latest)


def _first(step: Step) -> Ask:
    sure = any(check.kind == "log_probability" for check in step.checks)
    return msgspec.structs.replace(asking(step), probability=sure)


def _checked(step: Step, said: Said, question: str) -> Checking:
    """First what needs nobody, then what others have to be asked for, in the order declared."""
    if said.calls:
        return said, ""
    for check in step.checks:
        if why := failing(check, said):
            return said, why
    for check in step.checks:
        why = ""
        if check.kind == "agreement":
            said, why = yield from _agreed(step, check, said)
        elif check.kind == "judge":
            why = yield from _judged(step, check, said, question)
        if why:
            return said, why
    return said, ""


def _agreed(step: Step, check: Check, said: Said) -> Checking:
    """Asks the same again, at a temperature: what most say is the answer, if enough do."""
    again = tuple(
        msgspec.structs.replace(
            asking(step), name=f"{step.name}.{n}", temperature=check.temperature
        )
        for n in range(2, check.samples + 1)
    )
    heard = yield again
    if any(isinstance(each, Failed) and each.too_dear for each in heard):
        raise _TooDear("asking it again might cost too much")
    answers = [said, *(each for each in heard if isinstance(each, Said))]
    best, alike = most_alike(answers, check.alike)
    if alike >= check.least * check.samples - 1e-9:
        others = (failing(each, best) for each in step.checks if each.kind != "log_probability")
        return best, next(filter(None, others), "")
    return best, f"{alike} of {check.samples} answers agree, under {check.least:.0%}"


def _judged(
    step: Step, check: Check, said: Said, question: str
) -> Generator[tuple[Ask, ...], tuple[Heard, ...], str]:
    assert check.judge is not None
    (heard,) = yield (judging(check.judge, f"{step.name}.judge", question, said),)
    if isinstance(heard, Failed) and heard.too_dear:
        raise _TooDear("having it judged might cost too much")
    given = mark(check.judge, heard)
    if given is None:
        return "its judge gives no mark"
    return "" if given >= check.least else f"its judge gives {given:g}, under {check.least:g}"
