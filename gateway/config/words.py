"""Words that a person may have meant."""

import difflib
from collections.abc import Iterable


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like `word`, without regard to case; None if none is close."""
    folded = {each.lower(): each for each in known}
    near = difflib.get_close_matches(word.lower(), folded, 1)
    return folded[near[0]] if near else None


def did_you_mean(word: str, known: Iterable[str], otherwise: str = "") -> str:
    """A mend for an unknown word: the closest known one, or all when they are few."""
    known = list(known)
    near = closest(word, known)
    if near is not None:
        return f"did you mean `{near}`?"
    if known and len(known) <= 8:
        return f"known: {', '.join(f'`{each}`' for each in known)}"
    return otherwise
