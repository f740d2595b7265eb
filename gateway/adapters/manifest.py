"""What an adapter on the shelf is: its files, its canonical manifest, its digest. Pure.

ShelfError
├── NotAnAdapter    the directory cannot be taken in
├── NotOnShelf      no such digest
├── WrongContent    the content is not what was expected
└── Damaged         what lies under a digest is not what was put there
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from gateway.errors import SwitchboardError

SUFFIXES = (".json", ".safetensors")
"""What is taken in. Pickles (`.bin`, `.pt`) run code when they are read, and never are."""

_DIGEST = re.compile(r"[0-9a-f]{64}")


class ShelfError(SwitchboardError):
    """The shelf cannot do what was asked."""


class NotAnAdapter(ShelfError):
    """The directory cannot be taken in: what is wrong at `where`, and its mend."""

    def __init__(self, where: Path, found: str, mend: str) -> None:
        self.where = where
        self.found = found
        self.mend = mend
        super().__init__(f"{where}: {found}; {mend}")


class NotOnShelf(ShelfError):
    """Nothing lies under this digest."""


class WrongContent(ShelfError):
    """The content is not what was expected; nothing was kept."""

    def __init__(self, where: Path, expected: str, found: str) -> None:
        self.expected = expected
        self.found = found
        super().__init__(f"{where}: the content is sha256:{found}, not sha256:{expected}")


class Damaged(ShelfError):
    """What lies under a digest is not what was put there."""


class File(msgspec.Struct, frozen=True):
    """One file of an adapter; `size` in bytes."""

    name: str
    size: int
    sha256: str


class Entry(msgspec.Struct, frozen=True):
    """One adapter on the shelf; `size` is the sum of its files, in bytes."""

    digest: str
    size: int
    files: tuple[File, ...]


def is_digest(text: str) -> bool:
    """Whether this is how a digest is written: 64 hexadecimal digits in lower case."""
    return _DIGEST.fullmatch(text) is not None


def checked_digest(text: str) -> str:
    """The text itself. Raises ShelfError unless it is 64 hexadecimal digits in lower case."""
    if not is_digest(text):
        raise ShelfError(f"{text[:80]!r} is no digest: it is 64 hexadecimal digits in lower case")
    return text


def directory_name(digest: str) -> str:
    """What an adapter's directory is called, here and on every mount of the shelf."""
    return f"sha256-{checked_digest(digest)}"


def is_taken(name: str) -> bool:
    """Whether a file of this name is part of an adapter."""
    return name.endswith(SUFFIXES) and not name.startswith(".")


def manifest_of(files: Sequence[File]) -> bytes:
    """The canonical manifest: JSON of the files by name. Its SHA-256 is the adapter's digest."""
    return msgspec.json.encode(sorted(files, key=lambda file: file.name))


def entry_of(raw: bytes, digest: str) -> Entry:
    """What a manifest lists. Raises Damaged where it is not the one that has this digest."""
    if hashlib.sha256(raw).hexdigest() != checked_digest(digest):
        raise Damaged(f"the manifest of sha256:{digest} is not the one that has this digest")
    try:
        files = tuple(msgspec.json.decode(raw, type=list[File]))
    except msgspec.DecodeError as error:
        raise Damaged(f"sha256:{digest} is of something else than an adapter: {error}") from error
    names = [file.name for file in files]
    if not all(map(_is_plain, names)) or manifest_of(files) != raw or len(set(names)) < len(names):
        raise Damaged(f"sha256:{digest} is of something else than an adapter's manifest")
    return Entry(digest, sum(file.size for file in files), files)


def _is_plain(name: str) -> bool:
    return is_taken(name) and "/" not in name and "\0" not in name
