"""Versions of a route's learned quality, as files.

    .switchboard/learned/ROUTE/VERSION.npz      the model's arrays
    .switchboard/learned/ROUTE/history.jsonl    a line each, the newest last

A version is named by the hash of what is in it, and is never changed.
"""

import hashlib
import io
import os
from pathlib import Path

import msgspec
import numpy as np

from gateway.errors import SwitchboardError
from gateway.learn.features import KIND
from gateway.learn.model import Model
from gateway.learn.training import Report, Versus

HOME = Path(".switchboard/learned")
"""Where versions are kept, from the configuration's directory."""


class VersionError(SwitchboardError):
    """A version cannot be read; the text says which."""


class Version(msgspec.Struct, frozen=True):
    """One line of the history: `at` in Unix seconds; `runs` are those it was learned from,
    and `versus` compares it with the version before. Not kept, it has no name."""

    version: str
    at: float
    route: str
    kind: str
    runs: tuple[str, ...]
    report: Report
    versus: Versus | None = None


def write(home: Path, model: Model, version: Version) -> Version:
    """Keeps a version, and puts it last in the history."""
    held = io.BytesIO()
    np.savez(held, **msgspec.structs.asdict(model))
    content = held.getvalue()
    arrays = b"".join(each.tobytes() for each in msgspec.structs.asdict(model).values())
    named = hashlib.sha256(
        "\0".join([KIND, *version.report.targets]).encode() + arrays
    ).hexdigest()[:12]
    folder = home / version.route
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{named}.npz.new"
    beside.write_bytes(content)
    os.replace(beside, folder / f"{named}.npz")
    version = msgspec.structs.replace(version, version=named)
    with (folder / "history.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(version) + b"\n")
    return version


def history(home: Path, route: str) -> list[Version]:
    """All of a route, the newest last. Raises VersionError."""
    path = home / route / "history.jsonl"
    if not path.exists():
        return []
    try:
        lines = path.read_bytes().splitlines()
        return [msgspec.json.decode(line, type=Version) for line in lines]
    except (OSError, msgspec.DecodeError) as error:
        raise VersionError(f"{path} cannot be read: {error}") from error


def use(home: Path, route: str, version: str) -> None:
    """Makes one that was there the newest again. Raises VersionError."""
    kept = {each.version: each for each in history(home, route)}
    if version not in kept:
        known = ", ".join(kept) or "none"
        raise VersionError(f"the route '{route}' has no version '{version}'; there are: {known}")
    read(home, kept[version])
    with (home / route / "history.jsonl").open("ab") as file:
        file.write(msgspec.json.encode(kept[version]) + b"\n")


def read(home: Path, version: Version) -> Model:
    """Its model. Raises VersionError."""
    path = home / version.route / f"{version.version}.npz"
    try:
        with np.load(path, allow_pickle=False) as held:
            return Model(**{name: held[name] for name in Model.__struct_fields__})
    except (OSError, ValueError, KeyError) as error:
        raise VersionError(f"{path} cannot be read: {error}") from error
