"""The configurations that are swapped: the same targets in other orders, at other prices."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from gateway.types import Admission, Policy, Price, Route, Snapshot, Target, Timeouts, Version
from tests.chaos.servers import BUSY, CUTTING, WORDS, Provider, Replica
from tests.gateway.support import route, snapshot, target
from tests.vllm import support

VERSIONS = {"v1": Version("v1", source="support"), "v2": Version("v2", source="brand")}
"""Of the adapter `desk`, which is promoted to and fro."""

DESK, TINY = "local/tiny+desk", "local/tiny"

PROVIDERS = Timeouts(connect=4, first_byte=4, between=4, total=120)
"""Shorter than the longest time that a provider is held for, and no shorter than a busy machine
may make a healthy one wait."""

OURS = Timeouts(connect=10, first_byte=40, between=40, total=120)

ROOM = Admission(concurrent=64)
"""More than there are clients: the model that is always busy would else make the others wait."""

CANDIDATES: Mapping[str, tuple[str, ...]] = {
    "general": (f"p0/{WORDS}", f"p1/{WORDS}", f"p2/{WORDS}"),
    "second": (f"p1/{WORDS}", f"p2/{WORDS}", f"p0/{WORDS}"),
    "rough": (f"p2/{CUTTING}", f"p0/{WORDS}", f"p1/{WORDS}"),
    "crowded": (f"p1/{BUSY}", f"p2/{WORDS}", f"p0/{WORDS}"),
}
HOUSE: Mapping[str, tuple[str, ...]] = {
    "house": (DESK, TINY, f"p0/{WORDS}", f"p1/{WORDS}"),
    "private": (DESK, TINY),
}
"""Routes whose best candidates are our own servers; of the second the only ones."""

PRICES = (1e-6, 2e-6, 3e-6)
"""Dollars for a token of input, by variant; a token of output is four times as much."""


def variants(
    providers: Sequence[Provider], replicas: Sequence[Replica], folder: Path
) -> list[Snapshot]:
    """Configurations to swap to and fro; every route keeps its candidates, in turned order."""
    found = []
    for n, price in enumerate(PRICES):
        targets = [
            target(
                f"{provider.name}/{model}",
                provider.url,
                price=Price(input=price, cached_input=price, output=4 * price),
            )
            for provider in providers
            for model in (WORDS, CUTTING, BUSY)
        ]
        routes = [_turned(name, CANDIDATES[name], n) for name in CANDIDATES]
        plain = snapshot(targets, routes, policies={"quality": policy()}, hash=f"variant-{n}")
        if replicas:
            plain = _with_replicas(plain, replicas, folder, n)
        backends = {
            name: msgspec.structs.replace(each, timeouts=OURS)
            if name == "local"
            else msgspec.structs.replace(each, timeouts=PROVIDERS, admission=ROOM)
            for name, each in plain.backends.items()
        }
        found.append(msgspec.structs.replace(plain, backends=backends))
    return found


def policy() -> Policy:
    """Every candidate may be asked."""
    return Policy("quality", tries=6)


def _turned(name: str, candidates: Sequence[str], n: int) -> Route:
    """The faulty one stays the first, where it matters; the rest take turns."""
    head = 0 if WORDS in candidates[0] else 1
    rest = candidates[head:]
    turn = n % len(rest)
    return route(name, *candidates[:head], *rest[turn:], *rest[:turn])


def _with_replicas(plain: Snapshot, replicas: Sequence[Replica], folder: Path, n: int) -> Snapshot:
    ours = support.configuration([each.url for each in replicas], folder, {"desk": VERSIONS})
    targets: dict[str, Target] = {**plain.targets, **ours.targets}
    routes = {
        "house": route("house", *HOUSE["house"]),
        "private": route("private", *HOUSE["private"], internal=True),
    }
    return msgspec.structs.replace(
        plain,
        targets=targets,
        routes={**plain.routes, **routes},
        backends={**plain.backends, **ours.backends},
        adapters=ours.adapters,
    )


def keeping_text(found: Snapshot) -> Snapshot:
    """Every route keeps the text: it holds the word by which a row is known again."""
    routes = {
        name: msgspec.structs.replace(each, keep="text") for name, each in found.routes.items()
    }
    return msgspec.structs.replace(found, routes=routes)
