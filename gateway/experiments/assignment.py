"""Which arm of which experiment a request gets. Pure: hashes alone, so that every worker, before
and after a restart, says the same.

    place = BLAKE2b(salt, unit) / 2^64

Experiments of one route share one hash of it, and each has a range of places of its own: so no unit
is in two of them. Within an experiment another hash, salted with its name, chooses the arm. As long
as the shares stay, so does a unit's arm; when a bandit's shares move, so do the units at the edges.
"""

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import msgspec

from gateway.types.decisions import Trial
from gateway.types.experiments import Experiment, Standing
from gateway.types.requests import Request
from gateway.types.routes import Route

HEADER = "header:"


def place(salt: str, unit: str) -> float:
    """Where a unit stands in [0, 1)."""
    digest = blake2b(f"{salt}\0{unit}".encode(errors="replace"), digest_size=8).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2.0**53


def unit_of(request: Request, stick_to: str) -> str:
    """Whose request it is: the end user if the application tells, else the conversation; the
    conversation, which is what began it; the key; or what a header says."""
    if stick_to == "key":
        return request.caller.key or ""
    if stick_to.startswith(HEADER):
        told = request.headers.get(stick_to.removeprefix(HEADER))
        if told is not None:
            return f"{request.caller.key} {told}"
    elif stick_to == "user":
        for name in ("safety_identifier", "user"):
            if name in request.fields:
                told = bytes(request.fields[name]).decode(errors="replace")
                return f"{request.caller.key} {told}"
    return f"{request.caller.key} {request.turns[-1] if request.turns else request.id}"


class Assigned(msgspec.Struct, frozen=True, gc=False):
    """The target that stands first, and the arms' targets with their shares. `trial` is None where
    the request is no part of an experiment: one that a guard has stopped, or that has a winner."""

    target: str
    trial: Trial | None = None
    arms: tuple[tuple[str, float], ...] = ()


class Lane(msgspec.Struct, frozen=True):
    """One experiment's range of places, and what its arms' targets and shares are now."""

    experiment: str
    start: float
    end: float
    arms: tuple[tuple[str, str, float], ...]
    slot_s: float | None = None
    control: str | None = None


class Lanes(msgspec.Struct, frozen=True):
    """Those of one route. `pinned` is the target of the last experiment that has a winner."""

    route: str
    stick_to: str
    lanes: tuple[Lane, ...]
    pinned: str | None = None

    def assigned(self, request: Request, at: float) -> Assigned | None:
        """What the request gets at that instant; None where no experiment says anything."""
        unit = unit_of(request, self.stick_to)
        where = place(self.route, unit)
        for lane in self.lanes:
            if lane.start <= where < lane.end:
                return _in(lane, unit, at)
        return None if self.pinned is None else Assigned(self.pinned)


def _in(lane: Lane, unit: str, at: float) -> Assigned:
    if lane.control is not None:
        return Assigned(lane.control)
    if lane.slot_s is not None:
        unit = f"slot {int(at // lane.slot_s)}"
    arm, target, share = _arm(lane, place(lane.experiment, unit))
    name = blake2b(f"{lane.experiment}\0{unit}".encode(errors="replace"), digest_size=8)
    trial = Trial(lane.experiment, arm, share, name.hexdigest())
    return Assigned(target, trial, tuple((target, share) for _, target, share in lane.arms))


def _arm(lane: Lane, where: float) -> tuple[str, str, float]:
    below = 0.0
    for each in lane.arms:
        below += each[2]
        if where < below:
            return each
    return lane.arms[-1]  # shares may add up to a hair less than 1


def lanes(route: Route, standings: Mapping[str, Standing]) -> Lanes | None:
    """The lanes of a route, as its experiments stand; None where it has none that says anything.

    An experiment that has ended keeps its range, so that the others' units stay where they are.
    """
    made: list[Lane] = []
    pinned: str | None = None
    start = 0.0
    for each in route.experiments:
        end = start + each.traffic
        standing = standings.get(each.name)
        if standing is not None and standing.of != declaration(each):
            standing = None
        if each.winner is not None:
            pinned = each.arms[each.winner]
        elif standing is None or standing.state == "running":
            made.append(_lane(each, start, end, standing))
        elif standing.guarded:
            control = each.arms[each.control]
            made.append(Lane(each.name, start, end, (), control=control))
        start = end
    if not made and pinned is None:
        return None
    return Lanes(route.name, route.experiments[0].stick_to, tuple(made), pinned)


def _lane(each: Experiment, start: float, end: float, standing: Standing | None) -> Lane:
    shares = (standing.shares if standing is not None else None) or each.shares
    arms = tuple((name, target, shares[name]) for name, target in each.arms.items())
    return Lane(each.name, start, end, arms, slot_s=each.slot_s)


def declaration(each: Experiment) -> str:
    """A hash of what must stay as it is for its results to belong together."""
    parts: Sequence[object] = (
        each.arms,
        {} if each.bandit else each.shares,
        each.bandit,
        each.stick_to,
        None if each.asked is None else each.asked.metric,
        each.slot_s,
    )
    return blake2b(msgspec.json.encode(parts, order="deterministic"), digest_size=8).hexdigest()


def all_lanes(
    routes: Mapping[str, Route], standings: Mapping[str, Standing]
) -> Mapping[str, Lanes]:
    """The lanes of every route that has any."""
    made = ((name, lanes(route, standings)) for name, route in routes.items() if route.experiments)
    return {name: each for name, each in made if each is not None}
