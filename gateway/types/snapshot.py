"""One whole configuration, compiled."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from gateway.types.backends import Adapter, Backend, Target
from gateway.types.compositions import Composition
from gateway.types.limits import Quotas
from gateway.types.policies import Policy
from gateway.types.routes import Route


class Server(msgspec.Struct, frozen=True):
    """The gateway's own side. Sizes in bytes, times in seconds.

    An embedding classifier's encoder is a local directory (`encoder`) or a target that serves
    embeddings (`encoder_target`). `coordinator` is a Redis' URL; `coordinator_name` begins the keys
    that are ours there.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    max_head: int = 65_536
    max_body: int = 33_554_432
    max_bodies: int = 536_870_912
    head_timeout: float = 10.0
    body_timeout: float = 30.0
    max_open: int = 4096
    max_connections: int = 8192
    open_metrics: bool = False
    store: str = "sqlite:///switchboard.db"
    classifier: Literal["lexical", "embedding"] = "lexical"
    encoder: str | None = None
    encoder_target: str | None = None
    spool: int = 1 << 30
    workers: int = 1
    coordinator: str | None = None
    coordinator_name: str = "switchboard"


LEAST_TEXT_S = 3600.0
"""Texts are kept for so long at least: answers are spoken of after they were given."""
LEAST_REQUESTS_S = 32 * 86_400.0
"""And requests for so long: a month's budgets are known by them."""


class Retention(msgspec.Struct, frozen=True):
    """How long the store keeps texts, and whole requests, in seconds; None for ever."""

    text_s: float | None = None
    requests_s: float | None = None


class Weight(msgspec.Struct, frozen=True):
    """What share of its traffic a target, backend or replica gets, by command of `author` at the
    instant `since`: 0 is drained, 1 as if nothing was said. `why` may be empty."""

    share: float
    why: str = ""
    author: str = ""
    since: float = 0.0


class Quality(msgspec.Struct, frozen=True):
    """What is known of P(right) of a target on a route: its mean, what that is worth in
    observations (`seen` of them other than declared), and the interval that has 95 % of it."""

    mean: float
    n: float
    seen: float
    low: float
    high: float


class Snapshot(msgspec.Struct, frozen=True):
    """One immutable compiled configuration; `hash` is of its content, `weights` by subject and
    `qualities` by route and target are not part of it. `compositions` are by their target."""

    hash: str
    server: Server
    default_route: str
    aliases: Mapping[str, str]
    routes: Mapping[str, Route]
    policies: Mapping[str, Policy]
    targets: Mapping[str, Target]
    backends: Mapping[str, Backend]
    adapters: tuple[Adapter, ...] = ()
    compositions: Mapping[str, Composition] = {}
    quotas: Quotas = Quotas()
    retention: Retention = Retention()
    weights: Mapping[str, Weight] = {}
    qualities: Mapping[tuple[str, str], Quality] = {}
