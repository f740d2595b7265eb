"""Snapshots share what they have in common: many of them take little more than one. Pure."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from gateway.types.snapshot import Snapshot

T = TypeVar("T")


def shared(snapshot: Snapshot, before: Snapshot) -> Snapshot:
    """`snapshot`, with the parts of `before` in the place of those that are equal to them."""
    return msgspec.structs.replace(
        snapshot,
        server=before.server if before.server == snapshot.server else snapshot.server,
        aliases=_shared(snapshot.aliases, before.aliases),
        routes=_shared(snapshot.routes, before.routes),
        policies=_shared(snapshot.policies, before.policies),
        targets=_shared(snapshot.targets, before.targets),
        backends=_shared(snapshot.backends, before.backends),
        quotas=before.quotas if before.quotas == snapshot.quotas else snapshot.quotas,
        compositions=_shared(snapshot.compositions, before.compositions),
        adapters=before.adapters if before.adapters == snapshot.adapters else snapshot.adapters,
    )


def _shared(parts: Mapping[str, T], before: Mapping[str, T]) -> Mapping[str, T]:
    """Order counts: routes that are equally good are taken as they are declared."""
    if list(parts.items()) == list(before.items()):
        return before
    return {
        name: before[name] if name in before and before[name] == part else part
        for name, part in parts.items()
    }
