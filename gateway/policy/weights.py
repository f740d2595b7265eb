"""What share of its traffic each target, backend or replica gets, as commands say. Pure.

A share of 0 is drained: no new request goes there, for a fact that the decision tells. One between
0 and 1 is drawn for each request (see `gateway.policy.draws`).
"""

import zlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from gateway.types.backends import Target, declared_as
from gateway.types.snapshot import Snapshot, Weight

Weights = Mapping[str, Weight]
"""By a target's name, a backend's declared name, or a replica's URL."""


class Held(NamedTuple):
    """A subject that gets a part of its traffic; `salt` makes its draws its own."""

    subject: str
    share: float
    salt: int


def drained(target: Target, weights: Weights) -> str:
    """Why no new request goes to the target; "" where some do."""
    for subject in _subjects(target):
        if subject in weights and weights[subject].share == 0.0:
            return told(subject, weights[subject])
    why = [told(url, weights[url]) for url in target.replicas if _is_drained(url, weights)]
    return "; ".join(why) if why and len(why) == len(target.replicas) else ""


def open_replicas(target: Target, weights: Weights) -> tuple[str, ...]:
    """The replicas that are not drained."""
    return tuple(url for url in target.replicas if not _is_drained(url, weights))


def held_back(target: Target, weights: Weights) -> tuple[Held, ...]:
    """What of a target and its backend gets a part."""
    return _parts(_subjects(target), weights)


def held_replicas(target: Target, weights: Weights) -> dict[str, Held]:
    """The replicas that get a part."""
    return {each.subject: each for each in _parts(target.replicas, weights)}


def told(subject: str, weight: Weight) -> str:
    """`openai drained by ops: maintenance`."""
    what = "drained" if weight.share == 0.0 else f"at {100 * weight.share:.4g} %"
    reason = f": {weight.why}" if weight.why else ""
    return f"{subject} {what} by {weight.author}{reason}"


def weighed(snapshot: Snapshot, weights: Weights) -> Snapshot:
    """The snapshot with these weights; a canary that is drained gets no share either."""
    if snapshot.weights == weights:
        return snapshot
    targets = dict(snapshot.targets)
    for name, target in targets.items():
        if target.canary is not None and drained(targets[target.canary.target], weights):
            targets[name] = msgspec.structs.replace(target, canary=None)
    return msgspec.structs.replace(snapshot, weights=weights, targets=targets)


def subjects(snapshot: Snapshot) -> set[str]:
    """The names by which a weight means something in the snapshot."""
    return set(snapshot.targets).union(
        *(
            (backend.name, declared_as(backend.name), *backend.replicas)
            for backend in snapshot.backends.values()
        )
    )


def is_subject(snapshot: Snapshot, name: str) -> bool:
    """Whether a weight of that name means something in the snapshot."""
    return name in subjects(snapshot)


def _subjects(target: Target) -> tuple[str, ...]:
    return tuple(dict.fromkeys((target.name, target.backend, declared_as(target.backend))))


def _is_drained(url: str, weights: Weights) -> bool:
    return url in weights and weights[url].share == 0.0


def _parts(subjects: Iterable[str], weights: Weights) -> tuple[Held, ...]:
    return tuple(
        Held(subject, weights[subject].share, zlib.crc32(subject.encode()))
        for subject in subjects
        if subject in weights and 0.0 < weights[subject].share < 1.0
    )
