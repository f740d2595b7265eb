"""What several answers have in common: which are alike, and which most of them are. Pure."""

from collections.abc import Sequence

import msgspec

from gateway.compose.moves import Said
from gateway.evals.scorers import json_in, normalised, number_in
from gateway.types.compositions import Alike


def most_alike(answers: Sequence[Said], by: Alike) -> tuple[Said, int]:
    """The first of the answers that are alike to most, and how many those are. Of groups of the
    same size that of the earliest answer."""
    groups: dict[str, list[Said]] = {}
    for said in answers:
        groups.setdefault(_key(said, by), []).append(said)
    most = max(groups.values(), key=len)
    return most[0], len(most)


def _key(said: Said, by: Alike) -> str:
    """The same text for answers that are alike."""
    if said.calls:
        return f"calls {said.calls}"
    if by == "number":
        found = number_in(said.text)
        return said.text if found is None else repr(found)
    if by == "json":
        try:
            return msgspec.json.encode(json_in(said.text), order="deterministic").decode()
        except (msgspec.DecodeError, RecursionError):
            return said.text
    return normalised(said.text)
