"""A chain: what one step has said goes into what the next is asked. Pure."""

import msgspec

from gateway.compose.moves import Failed, Given, Last, Machine, Notes, Nothing, asking
from gateway.types.compositions import FIELD, INPUT, Composition, Step


def chain(composition: Composition, question: str, notes: Notes) -> Machine:
    """One step after the other, each with what the user and the steps before it have said.

    The last one's answer is the client's. A step that calls tools has no text that another could
    go on from: its answer is given, for the client to make the calls. Where a step fails there is
    no answer.
    """
    said = {INPUT: question}
    for step in composition.steps[:-1]:
        ask = msgspec.structs.replace(
            asking(step), prompt=_filled(step, said), inner=step.prompt is not None
        )
        (heard,) = yield (ask,)
        if isinstance(heard, Failed):
            return Nothing(f"step {step.name}: {heard.why}")
        if heard.calls:
            notes[step.name] = "calls tools"
            return Given(heard)
        said[step.name] = heard.text
    last = composition.steps[-1]
    return Last(msgspec.structs.replace(asking(last), prompt=_filled(last, said)))


def _filled(step: Step, said: dict[str, str]) -> str | None:
    """Its template, in one pass: braces in what is put in stay as they are."""
    if step.prompt is None:
        return None
    return FIELD.sub(lambda found: said.get(found[1], found[0]), step.prompt)
