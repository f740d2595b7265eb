"""What was last known of the store, in a file: a start while the store is away serves by it.

It holds what a running gateway goes on with when its store goes away: the revision that it serves,
keys, weights, states of adapters and of experiments. Texts have their variables as they are
written, and keys are digests, as in the store. It is for its owner's eyes only.
"""

import logging
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import msgspec

from gateway.adapters.state import AdapterState
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
        self.path = directory / "known" / f"{sha256(store.encode()).hexdigest()[:8]}.json"
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
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = self.path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(beside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(known))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)
        self._kept = known
