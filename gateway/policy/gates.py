"""What keeps requests from a target at a replica for a while, as `decide` sees it."""

from typing import Protocol

from gateway.types.requests import Needs


class Gate(Protocol):
    """Stands before one target at one replica while something speaks against asking it."""

    def shut(self, sort: str, now: float) -> str:
        """Why a request of this sort is not sent there now, and until when; "" if it may be."""


def sort_of(needs: Needs, stream: bool) -> str:
    """What sort of request one is: some backends fail at one sort and do others well."""
    parts = [
        word
        for word, is_so in (
            ("streamed", stream),
            ("tools", needs.tools),
            ("images", needs.vision),
            ("audio", needs.audio),
            ("JSON schema", needs.json_schema),
        )
        if is_so
    ]
    return f"{needs.endpoint} ({', '.join(parts)})" if parts else needs.endpoint
