"""What files would change of what runs: by key, and for the last day's requests."""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.classify.encoder import EncoderError
from gateway.config.load import Loaded, load_texts
from gateway.errors import ConfigError, Problem
from gateway.learn.features import READ, FeatureKind
from gateway.learn.kinds import kind_for
from gateway.learn.scorer import Scorer
from gateway.learn.versions import current
from gateway.policy.live import Live
from gateway.revisions.diff import Change, Written, differences
from gateway.revisions.logged import kept_features
from gateway.revisions.replay import Replay, replay
from gateway.revisions.traffic import Asked, Traffic, retold
from gateway.revisions.tried import reachable
from gateway.store.learned import LearnedBook
from gateway.store.reader import Reader
from gateway.store.replay import ReplayLog
from gateway.store.revisions import Revision
from gateway.types.requests import Needs
from gateway.types.snapshot import Snapshot

DAY_S = 86_400.0
REPLAYED = 5000
"""Requests that are replayed at most: so many take a tenth of a second."""
SAMPLE = 2000
"""Requests that are decided again at most: so many, twice, took 21 ms in memory."""


class Report(msgspec.Struct, frozen=True):
    """What would change. `running` is the number of the revision that it was compared with, 0 where
    there is none; `hash` is that of the files. `traffic` is None where it cannot be told: then
    `untold` says why. `replay` is what the log itself says of the same change, by what was explored
    (see `gateway.revisions.replay`)."""

    running: int
    running_hash: str
    hash: str
    changes: tuple[Change, ...]
    warnings: tuple[Problem, ...] = ()
    traffic: Traffic | None = None
    untold: str = ""
    replay: Replay | None = None

    @property
    def differs(self) -> bool:
        """Whether anything would change."""
        return bool(self.changes)


def reported(
    running: Revision | None,
    loaded: Loaded,
    environment: str | None,
    env: Mapping[str, str],
    reader: Reader | None,
    now: float,
    live: Live | None = None,
) -> Report:
    """What `loaded` would change of `running`.

    Both are compiled here, with the same variables; `reader` has the log, if there is one, and
    `live` the estimates of the gateway that runs.
    """
    if running is None:
        nothing = Written({})
        changes = differences(nothing, Written(loaded.texts, environment))
        return Report(0, "", loaded.snapshot.hash, tuple(changes), loaded.warnings, None, "")
    old, why = _compiled(running, loaded.directory, env)
    same = running.same_as(loaded.snapshot.hash, loaded.texts) or (
        old is not None and old.hash == loaded.snapshot.hash
    )
    changes = (
        []
        if same
        else differences(
            Written(running.files, running.environment), Written(loaded.texts, environment)
        )
    )
    traffic, by_the_log = None, None
    if changes and old is not None and reader is not None:
        new = loaded.snapshot
        learned, kind = _learned(reader, old, new)
        traffic = _traffic(reader, old, new, live, learned, kind, now)
        by_the_log = _replay(reader, traffic.requests, running.hash, old, new, learned, kind, now)
    return Report(
        running.seq,
        running.hash,
        loaded.snapshot.hash,
        tuple(changes),
        loaded.warnings,
        traffic,
        why,
        by_the_log,
    )


def _compiled(
    running: Revision, directory: Path, env: Mapping[str, str]
) -> tuple[Snapshot | None, str]:
    try:
        return load_texts(running.files, directory, env, running.environment).snapshot, ""
    except ConfigError as error:
        return None, f"the running revision cannot be compiled here: {error}"


def _replay(
    reader: Reader,
    requests: int,
    hash: str,
    old: Snapshot,
    new: Snapshot,
    learned: Mapping[str, Scorer],
    kind: FeatureKind | None,
    now: float,
) -> Replay | None:
    """What the log says, as far as the running revision served it; None where there is nothing."""
    running = reachable(old)
    known = {hash: running, old.hash: running}
    found = replay(
        ReplayLog(reader.store),
        reachable(new),
        running,
        known.get,
        now - DAY_S,
        now,
        every=max(1, -(-requests // REPLAYED)),
        learned=learned,
        kind=kind,
        encodes=False,
    )
    return found if found.requests else None


def _learned(
    reader: Reader, old: Snapshot, new: Snapshot
) -> tuple[Mapping[str, Scorer], FeatureKind | None]:
    """The versions that routes go by, where a policy does, before or after, and the kind of their
    features, as prompts are read then."""
    policies = [*old.policies.values(), *new.policies.values()]
    if not any(policy.learned for policy in policies):
        return {}, None
    kind: FeatureKind | None = None
    with contextlib.suppress(EncoderError):
        kind = kind_for(new)
    routes = msgspec.structs.replace(new, routes={**old.routes, **new.routes})
    return current(LearnedBook(reader.store), routes, {}, kind).scorers, kind


def _traffic(
    reader: Reader,
    old: Snapshot,
    new: Snapshot,
    live: Live | None,
    learned: Mapping[str, Scorer],
    kind: FeatureKind | None,
    now: float,
) -> Traffic:
    count, rows = reader.sample(now - DAY_S, SAMPLE, read=READ if learned else 0)
    asked = [
        Asked(
            route=row["route"],
            policy=row["policy"],
            by=row["recognised_by"] or "",
            detail=row["recognised_detail"] or "",
            model=row["model"],
            needs=msgspec.convert(row["needs"], Needs),
            tenant=row["tenant"],
            draw=row["draw"],
            cost=float(row["cost_usd"]),
            read=kept_features(kind, row["features"], row["text"], encodes=False)
            if learned and kind is not None
            else None,
        )
        for row in rows
        if row["draw"] is not None
    ]
    undecided = len(rows) - len(asked)
    return retold(
        asked,
        reachable(old),
        reachable(new),
        live,
        requests=count,
        undecided=undecided,
        learned=learned,
    )
