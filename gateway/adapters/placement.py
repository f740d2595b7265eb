"""Which replicas an adapter is at home at, and what it costs to ask another. Pure.

vLLM evicts by least recent use, so a replica that is asked for more adapters than it holds reads
files again and again. Placement bounds that: each adapter has homes, as few as its demand allows,
so that the replicas together hold as many different ones as possible; hot ones have more homes, so
that no replica is asked for more than its share. It is work-conserving: a request goes elsewhere
where that is quicker, all told (`seconds_at`).

Homes, by greedy packing of the largest first (Graham 1969): an adapter with a share s of all demand
gets ceil(s x replicas / SPREAD) homes, each the replica with the least demand so far that still has
room. It stays where it was unless that replica is over the fair share by more than SLACK, and all
stay where the busiest replica would not have less to do by more than that: each move costs a load.
"""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import msgspec

SPREAD = 0.5
"""The largest part of a replica's fair share of the demand that one home of an adapter takes."""

SLACK = 0.15
"""How far over its fair share a replica may be before an adapter moves away."""

KEEP = 0.7
"""An adapter loses a home only when its demand is under this part of what the home was for."""


class Room(msgspec.Struct, frozen=True):
    """One replica: how many adapters it holds (None: all), and how much of the work it can take,
    relative to others."""

    replica: str
    slots: int | None = None
    speed: float = 1.0


Homes = Mapping[str, tuple[str, ...]]
"""Replicas by adapter, the first one first."""


def placed(
    demand: Mapping[str, float],
    rooms: Sequence[Room],
    before: Homes,
    *,
    pinned: Collection[str] = (),
    barred: Collection[tuple[str, str]] = (),
) -> dict[str, tuple[str, ...]]:
    """The homes of every adapter in `demand` (requests a second each).

    `barred` are (adapter, replica) that must not be. An adapter that nobody asks for keeps its
    homes or gets the emptiest one.
    """
    if not rooms:
        return dict.fromkeys(demand, ())
    packing = _Packing(demand, rooms, before, frozenset(barred))
    hottest = sorted(demand, key=lambda a: (a not in pinned, -demand[a], a))
    for adapter in hottest:
        packing.settle(adapter)
    packing.spread_out(hottest)
    return packing.kept() or packing.homes


class _Packing:
    """One greedy packing under way."""

    def __init__(
        self,
        demand: Mapping[str, float],
        rooms: Sequence[Room],
        before: Homes,
        barred: frozenset[tuple[str, str]],
    ) -> None:
        self._demand = demand
        self._before = before
        self._barred = barred
        self._rooms = {room.replica: room for room in rooms}
        self._whole = sum(demand.values())
        self._speed = sum(room.speed for room in rooms)
        self._load = dict.fromkeys(self._rooms, 0.0)
        self._count = dict.fromkeys(self._rooms, 0)
        self.homes: dict[str, tuple[str, ...]] = {}

    def settle(self, adapter: str) -> None:
        """Gives an adapter its homes, where it was before if that is not too much for them."""
        allowed = [url for url in self._rooms if (adapter, url) not in self._barred]
        wanted = min(self._copies(adapter), len(allowed))
        part = self._demand[adapter] / max(wanted, 1)
        stays = [url for url in self._before.get(adapter, ()) if url in allowed]
        homes = [url for url in stays if self._bears(url, part)][:wanted]
        while len(homes) < wanted:
            homes.append(
                min(
                    (url for url in allowed if url not in homes),
                    key=lambda url: (not self._has_room(url), self._relative(url, part), url),
                )
            )
        for url in homes:
            self._load[url] += part
            self._count[url] += 1
        self.homes[adapter] = tuple(homes)

    def spread_out(self, hottest: Sequence[str]) -> None:
        """Room that is left goes to the hottest: more homes for them, and nothing displaced."""
        if any(self._count[url] > (room.slots or math.inf) for url, room in self._rooms.items()):
            return
        for adapter in hottest:
            for url in self._rooms:
                home = url in self.homes[adapter] or (adapter, url) in self._barred
                if not home and self._has_room(url):
                    self.homes[adapter] += (url,)
                    self._count[url] += 1

    def kept(self) -> dict[str, tuple[str, ...]] | None:
        """The homes before, where they still may be and moving would not make the busiest replica
        much less so: else two packings that are as good as each other would take turns."""
        before = {adapter: self._before.get(adapter, ()) for adapter in self._demand}
        if all(set(before[adapter]) <= set(homes) for adapter, homes in self.homes.items()):
            return None  # nothing moves
        count: Counter[str] = Counter(url for homes in before.values() for url in homes)
        may_stay = (
            before.keys() == self._before.keys()
            and all(before.values())
            and count.keys() <= self._rooms.keys()
            and all(count[url] <= (self._rooms[url].slots or math.inf) for url in count)
            and not any((a, url) in self._barred for a, homes in before.items() for url in homes)
        )
        if may_stay and self._peak(before) <= self._peak(self.homes) + SLACK:
            return before
        return None

    def _peak(self, homes: Homes) -> float:
        """The busiest replica's load, of what would be fair."""
        load = dict.fromkeys(self._rooms, 0.0)
        for adapter, urls in homes.items():
            for url in urls:
                load[url] += self._demand[adapter] / len(urls)
        fair = self._whole / self._speed
        return max(load[url] / self._rooms[url].speed for url in load) / fair if fair else 0.0

    def _copies(self, adapter: str) -> int:
        """How many homes its demand wants; one less only when it wants that clearly."""
        if self._whole <= 0.0:
            return 1
        wants = self._demand[adapter] / self._whole * len(self._rooms) / SPREAD
        before = len(self._before.get(adapter, ()))
        if before > 1 and math.ceil(wants) < before and wants > KEEP * (before - 1):
            return before
        return max(1, math.ceil(wants))

    def _bears(self, url: str, part: float) -> bool:
        """Whether a replica may keep an adapter that it had."""
        fair = self._whole * self._rooms[url].speed / self._speed
        return self._load[url] + part <= fair * (1.0 + SLACK) or self._load[url] == 0.0

    def _has_room(self, url: str) -> bool:
        slots = self._rooms[url].slots
        return slots is None or self._count[url] < slots

    def _relative(self, url: str, part: float) -> float:
        return (self._load[url] + part) / self._rooms[url].speed


def seconds_at(
    queue_s: float, resident: float, load_s: float, running: float, spare: float
) -> float:
    """What asking a replica costs everybody, in seconds: the wait there, and what others lose."""
    return queue_s + (1.0 - resident) * load_s + others_lose(resident, load_s, running, spare)


def others_lose(resident: float, load_s: float, running: float, spare: float) -> float:
    """The seconds that others lose by a load: it stops the engine for the `running` requests there.

    `spare` is P(it is resident where it is at home), for a replica that is no home of it: then the
    load makes a second copy that nobody needs, and what that displaces has to be loaded again.
    """
    load = (1.0 - resident) * load_s
    return load * running + load * spare * (1.0 + running)
