"""A cascade: cheap first; the next is asked where an answer does not pass its checks. Pure."""

from gateway.compose.checks import failing
from gateway.compose.moves import Ask, Given, Last, Machine, Notes, Said
from gateway.types.compositions import Composition


def cascade(composition: Composition, notes: Notes) -> Machine:
    """One step after the other, until one passes; the last one's answer is the client's anyway.

    A step that fails is passed over. An answer that calls tools has no text to be checked: it
    passes. Where the next step might cost too much, the latest answer that there is is given.
    """
    latest: Said | None = None
    for step in composition.steps[:-1]:
        (heard,) = yield (Ask(step),)
        if isinstance(heard, Said):
            latest = heard
            why = "" if heard.calls else next(filter(None, _failings(heard)), "")
            if not why:
                notes[step.name] = "passed"
                return Given(heard)
            notes[step.name] = f"escalated: {why}"
        elif heard.too_dear and latest is not None:
            return Given(latest)
    return Last(composition.steps[-1], instead=latest)


def _failings(said: Said) -> list[str]:
    return [failing(check, said.text) for check in said.step.checks]
