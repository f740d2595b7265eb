"""What was last known of the store, in a file: a start while the store is away serves by it.

It holds what a running gateway goes on with when its store goes away: the revision that it serves,
keys, weights, states of adapters and of experiments. Texts have their variables as they are
written, and keys are digests, as in the store. Versions of learned quality are big and change
seldom: they are in a file beside it. Both are for their owner's eyes only.
"""

import logging
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from gateway.adapters.state import AdapterState
from gateway.learn.scorer import Scorer, scorer
from gateway.learn.versions import VersionError, as_written, written
from gateway.store.keys import Opens
from gateway.store.revisions import Revision
from gateway.types.experiments import Standing
from gateway.types.snapshot import Weight

log = logging.getLogger("switchboard")


class Known(msgspec.Struct, frozen=True):
    """Of the store of that name. `keys` None says that there never was one: everybody on this
    machine may ask."""

    store: str
    revision: Revision
    keys: tuple[Opens, ...] | None = None
    weights: Mapping[str, Weight] = {}
    adapters: Mapping[str, AdapterState] = {}
    experiments: Mapping[str, Standing] = {}


class KnownFile:
    """Where that is kept, beside the spool."""

    def __init__(self, directory: Path, store: str) -> None:
        self.path = _beside_spool(directory, store, "json")
        self._store = store
        self._kept: Known | None = None

    def read(self) -> Known | None:
        """What is there; None where that is nothing, or nothing that can be read."""
        try:
            known = msgspec.json.decode(self.path.read_bytes(), type=Known)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("%s cannot be read: %s", self.path, error)
            return None
        return known if known.store == self._store else None

    def keep(self, known: Known) -> None:
        """Writes it where it is news, whole or not at all; raises OSError."""
        if known == self._kept:
            return
        _write(self.path, msgspec.json.encode(known))
        self._kept = known


class _Version(msgspec.Struct, frozen=True):
    """A version of a route's learned quality: of what `kind` of features, and its model."""

    version: str
    kind: str
    targets: tuple[str, ...]
    model: bytes


class LearnedFile:
    """Where the versions are kept that routes go by."""

    def __init__(self, directory: Path, store: str) -> None:
        self.path = _beside_spool(directory, store, "learned")
        self._kept: dict[str, str] | None = None

    def read(self) -> dict[str, Scorer]:
        """What is there, by route; nothing where that cannot be read. Its candidates are those that
        were learned of."""
        try:
            known = msgspec.msgpack.decode(self.path.read_bytes(), type=dict[str, _Version])
            return {
                route: scorer(
                    each.version, each.kind, as_written(each.model, route, each.version),
                    each.targets, each.targets,
                )
                for route, each in known.items()
            }  # fmt: skip
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError, VersionError) as error:
            log.warning("%s cannot be read: %s", self.path, error)
            return {}

    def keep(self, known: Mapping[str, Scorer]) -> None:
        """Writes them where one is news, whole or not at all; raises OSError."""
        named = {route: each.version for route, each in known.items()}
        if named == self._kept or (not named and not self.path.exists()):
            return
        versions = {
            route: _Version(each.version, each.kind, each.targets, written(each.model))
            for route, each in known.items()
        }
        _write(self.path, msgspec.msgpack.encode(versions))
        self._kept = named


def _beside_spool(directory: Path, store: str, kind: str) -> Path:
    return directory / "known" / f"{sha256(store.encode()).hexdigest()[:8]}.{kind}"


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    beside = path.with_suffix(f"{path.suffix}.{os.getpid()}")
    descriptor = os.open(beside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
