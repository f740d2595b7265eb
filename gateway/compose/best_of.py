"""The best of several answers, asked for at the same time. Pure."""

import msgspec

from gateway.compose.judging import judging, mark
from gateway.compose.moves import Ask, Failed, Given, Machine, Notes, Nothing, Said, asking
from gateway.compose.votes import most_alike
from gateway.types.compositions import Composition


def best_of(composition: Composition, question: str, notes: Notes) -> Machine:
    """Every step is asked, as often as samples are wanted; of those that answer, what most say is
    given, or what a judge gives the best mark: of equal ones the earliest.

    Each answer is marked by itself, so that no place among several can be favoured. An answer that
    gets no mark, or calls tools, is behind those that have one; where none has, what most say.
    """
    heard = yield tuple(_asks(composition))
    answers = [each for each in heard if isinstance(each, Said)]
    if not answers:
        return Nothing("; ".join(each.why for each in heard if isinstance(each, Failed)))
    best, alike = most_alike(answers, composition.alike)
    why = f"chosen: {alike} of {len(answers)} say so"
    judge = composition.judge
    judged = [said for said in answers if not said.calls]
    if judge is not None and len(judged) > 1:
        asks = (judging(judge, f"{said.ask.name}.judge", question, said) for said in judged)
        marked = yield tuple(asks)
        marks = [mark(judge, each) for each in marked]
        known = [(said, given) for said, given in zip(judged, marks, strict=True) if given]
        if known:
            best, given = max(known, key=lambda each: each[1])
            why = f"chosen: its judge gives {given:g}"
    notes[best.ask.name] = why
    return Given(best)


def _asks(composition: Composition) -> list[Ask]:
    """As the client asked where there is one sample of each; at a temperature where more."""
    if composition.samples == 1:
        return [asking(step) for step in composition.steps]
    return [
        msgspec.structs.replace(
            asking(step), name=f"{step.name}.{n}", temperature=composition.temperature
        )
        for step in composition.steps
        for n in range(1, composition.samples + 1)
    ]
