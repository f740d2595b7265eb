"""Compositions' machines, played with answers that are known beforehand."""

from collections.abc import Mapping, Sequence

from gateway.compose.moves import Ask, Ending, Heard, Machine, Said


def said(ask: Ask, text: str) -> Said:
    """An answer whose body is its text."""
    return Said(ask, text.encode(), text)


def played(
    machine: Machine, answers: Mapping[str, str | Heard]
) -> tuple[list[tuple[Ask, ...]], Ending]:
    """Who was asked together, in turn, where each call has its answer by name; and the ending."""
    asked: list[tuple[Ask, ...]] = []
    try:
        asks = next(machine)
        while True:
            asked.append(asks)
            heard = [(ask, answers[ask.name]) for ask in asks]
            asks = machine.send(
                tuple(said(ask, each) if isinstance(each, str) else each for ask, each in heard)
            )
    except StopIteration as stopped:
        ending: Ending = stopped.value
        return asked, ending


def names(asked: Sequence[tuple[Ask, ...]]) -> list[list[str]]:
    """The names of the calls."""
    return [[ask.name for ask in asks] for asks in asked]
