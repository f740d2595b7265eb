"""How often each adapter is asked for, as rates that decay. Pure: time comes in as `now`.

    rate = sum over requests of 2^(-age / HALF_LIFE_S) x ln 2 / HALF_LIFE_S

which is exact on average for steady demand, and forgets half of what was in a half-life.
"""

import math

HALF_LIFE_S = 60.0
FORGOTTEN = 1e-5
"""Requests a second below which an adapter is not in demand any more."""

_PER_WEIGHT = math.log(2.0) / HALF_LIFE_S


class Demand:
    """The demand on one backend."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[str, tuple[float, float]] = {}

    def asked(self, adapter: str, now: float, times: int = 1) -> None:
        """One request more, or so many."""
        weight, at = self._seen.get(adapter, (0.0, now))
        self._seen[adapter] = (weight * 0.5 ** ((now - at) / HALF_LIFE_S) + times, now)

    def rates(self, now: float) -> dict[str, float]:
        """Requests a second of each adapter that is in demand; what is not is forgotten."""
        found = {}
        for adapter, (weight, at) in list(self._seen.items()):
            rate = weight * 0.5 ** ((now - at) / HALF_LIFE_S) * _PER_WEIGHT
            if rate < FORGOTTEN:
                del self._seen[adapter]
            else:
                found[adapter] = rate
        return found
