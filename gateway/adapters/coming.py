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

    At a backend that is declared otherwise, but for its replicas, nothing is: it can be only one
    of the two at a time.
    """
    backends = dict(old.backends)
    moved = set()
    for name, backend in new.backends.items():
        before = old.backends.get(name)
        if before is None:
            backends[name] = backend
        elif before.replicas != backend.replicas and _alike(before, backend):
            urls = dict.fromkeys((*before.replicas, *backend.replicas))
            backends[name] = msgspec.structs.replace(before, replicas=tuple(urls))
            moved.add(name)
    known = {adapter.target for adapter in old.adapters}
    added = [each for each in new.adapters if each.target not in known]
    added = [each for each in added if _alike(backends[each.backend], new.backends[each.backend])]
    stay = [each for each in new.adapters if each.target in known and each.backend in moved]
    if not added and not stay:
        return None
    both = msgspec.structs.replace(
        old,
        backends=backends,
        adapters=(*old.adapters, *added),
        targets={**new.targets, **old.targets},
    )
    return Coming(both, (*added, *stay))


def _alike(one: Backend, other: Backend) -> bool:
    """Whether they are the same but for their replicas."""
    return msgspec.structs.replace(one, replicas=other.replicas) == other
