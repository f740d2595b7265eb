"""What replicas should have loaded before a new snapshot serves. Pure."""

import msgspec

from gateway.types.backends import Adapter, Backend
from gateway.types.snapshot import Snapshot


class Coming(msgspec.Struct, frozen=True):
    """`snapshot` is the old one and beside it the adapters and replicas that only the new one has;
    `adapters` are those of the new one that may be loaded nowhere once it serves."""

    snapshot: Snapshot
    adapters: tuple[Adapter, ...]


def coming(old: Snapshot, new: Snapshot) -> Coming | None:
    """What a swap brings that is to be loaded; None if it is nothing.

    At a backend whose loads are declared otherwise (another key, shelf or room) nothing is: it can
    be only one of the two at a time. Nor at one whose models take turns: who sleeps loads nothing.
    """
    backends = dict(old.backends)
    moved = set()
    for name, backend in new.backends.items():
        before = old.backends.get(name)
        if before is None:
            if backend.turns is None:  # else nobody keeps its keeper from those who sleep yet
                backends[name] = backend
        elif before.replicas != backend.replicas and _alike(before, backend):
            urls = dict.fromkeys((*before.replicas, *backend.replicas))
            backends[name] = msgspec.structs.replace(before, replicas=tuple(urls))
            moved.add(name)
    known = {adapter.target for adapter in old.adapters}
    added = [
        each
        for each in new.adapters
        if each.target not in known
        and each.backend in backends
        and _alike(backends[each.backend], new.backends[each.backend])
    ]
    same = {(adapter.backend, adapter.target) for adapter in old.adapters}
    stay = [
        each
        for each in new.adapters
        if each.backend in moved and (each.backend, each.target) in same
    ]
    if not added and not stay:
        return None
    both = msgspec.structs.replace(
        old,
        backends=backends,
        adapters=(*old.adapters, *added),
        targets={**new.targets, **old.targets},
    )
    return Coming(both, (*added, *stay))


MATTERS = (
    *("kind", "api_key", "agent", "turns", "slots", "cpu_slots", "max_rank"),
    *("adapters_here", "shelf_here", "shelf_on_replicas"),
)
"""What a backend's loads depend on, besides its replicas."""


def _alike(one: Backend, other: Backend) -> bool:
    """Whether loads at the one are loads at the other."""
    return other.turns is None and all(getattr(one, n) == getattr(other, n) for n in MATTERS)
