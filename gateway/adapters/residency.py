"""What one replica holds, as an estimate with a probability. Pure: time comes in as `now`.

vLLM keeps adapters in CPU memory and evicts by least recent use; what was evicted is read from its
files again at its next use, which takes seconds and is no error. It tells what is registered, not
what is resident. So the same order of use is kept here, from our own traffic:

    an adapter with n others used after it is resident as long as n < slots

Others may use the replica too. Let them touch F adapters that push ours back, Poisson with rate x
time since ours was used; then

    P(resident) = P(F < slots - n)

The rate is learnt from how long first tokens took. With T the seconds to the first token, w what a
warm one takes and l a load, T is taken as log-normal with SIGMA about w or w + l, so that Bayes'
rule says how likely the adapter was cold. Each use then tells how many touches to expect between
it and the one before, given what was seen; the rate is the touches over the time, both decaying
(the expectation step of EM, Dempster, Laird and Rubin 1977, for a Poisson count).
"""

import math

import msgspec

SIGMA = 0.5
"""Spread of the log of a first-token time; as in `policy.live`, a tail of about twice the mean."""

FORGET = 0.995
"""What is left of the evidence on others' touches after each use."""

DOUBT = 0.01
"""P(our order of use is wrong), whatever the model says: what lets evidence speak against it."""

PRIOR_S = 60.0
"""Seconds without anybody's touch that a new replica is credited with."""


class Use(msgspec.Struct, frozen=True, gc=False):
    """One use of an adapter as it began at `at`: P(resident), how many touches by others would have
    pushed it out (`room`), and the seconds since it was used before."""

    at: float
    resident: float
    room: int
    since: float


class Residency:
    """The adapters of one replica, the one used last at the end. `slots` None holds all."""

    __slots__ = ("_order", "_seconds", "_touches", "slots")

    def __init__(self, slots: int | None) -> None:
        self.slots = slots
        self._order: dict[str, float] = {}
        self._touches = 0.0
        self._seconds = PRIOR_S

    @property
    def rate(self) -> float:
        """Touches a second by others."""
        return self._touches / self._seconds

    def used(self, adapter: str, now: float) -> str | None:
        """A request of ours uses it now: it is resident from here on.

        What that pushed out, if anything is surely gone by it.
        """
        order, slots = self._order, self.slots
        crowded = slots is not None and len(order) >= slots
        there = adapter in order and (not crowded or self.behind(adapter) < (slots or 0))
        order.pop(adapter, None)
        order[adapter] = now
        if there or slots is None or not crowded:
            return None
        return self._at(slots)

    def forgotten(self, adapter: str) -> None:
        """It is known to be there no more."""
        self._order.pop(adapter, None)

    def restarted(self) -> None:
        """Nothing is there any more, and nothing known of who else uses it."""
        self._order.clear()
        self._touches, self._seconds = 0.0, PRIOR_S

    def p_resident(self, adapter: str, now: float) -> float:
        """P(resident), before any use of it now."""
        at = self._order.get(adapter)
        if at is None:
            return 0.0
        if self.slots is None:
            return 1.0
        room = self.slots - self.behind(adapter)
        return _p_fewer(room, self.rate * max(0.0, now - at))

    def behind(self, adapter: str) -> int:
        """How many others of ours were used after it; that many push it towards eviction."""
        for place, name in enumerate(reversed(self._order)):
            if name == adapter:
                return place
        return len(self._order)

    def use(self, adapter: str, now: float) -> Use:
        """What is believed when a request for it is about to be sent: before `used`."""
        at = self._order.get(adapter)
        return Use(
            at=now,
            resident=self.p_resident(adapter, now),
            room=(self.slots or 0) - self.behind(adapter),
            since=0.0 if at is None else max(0.0, now - at),
        )

    def observed(self, use: Use, first_s: float, warm_s: float, load_s: float) -> float:
        """The first token of a use took `first_s`, where `warm_s` was to be expected of a resident
        adapter and `load_s` more of one that has to be loaded; P(it was cold)."""
        if use.resident >= 1.0 - DOUBT and use.since < use.room * load_s:
            # It takes `room` loads to push it out, and there was no time for them.
            cold = 0.0
        else:
            resident = min(use.resident, 1.0 - DOUBT)
            odds = math.exp(_log_bayes(first_s, warm_s, load_s))
            cold = (1.0 - resident) * odds / ((1.0 - resident) * odds + resident)
        self._learn(use, cold)
        return cold

    def held(self) -> list[str]:
        """What is likely there by our own use alone, the one used last first."""
        order = list(reversed(self._order))
        return order if self.slots is None else order[: self.slots]

    def _at(self, place: int) -> str:
        """The adapter that so many others were used after."""
        for at, name in enumerate(reversed(self._order)):
            if at == place:
                return name
        raise IndexError(place)

    def _learn(self, use: Use, cold: float) -> None:
        if self.slots is None or use.room <= 0 or use.since <= 0.0:
            return  # our own use explains it
        few, many = _means_about(use.room, self.rate * use.since)
        # A cold one that the rate so far cannot explain: at least `room` touches there were.
        expected = (1.0 - cold) * few + cold * max(many, float(use.room))
        self._touches = self._touches * FORGET + expected
        self._seconds = self._seconds * FORGET + use.since


def _log_bayes(first_s: float, warm_s: float, load_s: float) -> float:
    """The log of how much likelier `first_s` is of a cold one, within what exp can take."""
    first, warm = max(first_s, 1e-6), max(warm_s, 1e-6)
    from_warm = math.log(first / warm)
    from_cold = math.log(first / (warm + max(load_s, 0.0)))
    return max(-50.0, min(50.0, (from_warm**2 - from_cold**2) / (2.0 * SIGMA**2)))


def _p_fewer(room: int, mean: float) -> float:
    """P(F < room) of a Poisson count."""
    if room <= 0:
        return 0.0
    if mean <= 0.0:
        return 1.0
    term = total = math.exp(-mean)
    for k in range(1, room):
        term *= mean / k
        total += term
    return min(total, 1.0)


def _means_about(room: int, mean: float) -> tuple[float, float]:
    """E[F | F < room] and E[F | F >= room] of a Poisson count.

    From E[F; F < room] = mean x P(F < room - 1).
    """
    below = _p_fewer(room, mean)
    part = mean * _p_fewer(room - 1, mean)
    few = part / below if below > 0.0 else float(room - 1)
    above = 1.0 - below
    many = (mean - part) / above if above > 1e-12 else float(room)
    return few, many
