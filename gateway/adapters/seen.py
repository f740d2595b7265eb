"""What has been hashed before, so that a thousand adapters are not read anew at each start."""

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

log = logging.getLogger("switchboard.adapters")

ANY = "*"
"""Stands for whatever mark a name bears."""

_Known = dict[str, tuple[str, str]]


class Seen:
    """A file of names, each with a mark and a digest. The mark changes whenever the thing does.

    It only saves work: without the file everything is hashed again. Who adds or prunes holds the
    shelf's lock; who reads need not, because the file is replaced as a whole.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._read_at: tuple[int, int, int] | None = None
        self._known: _Known = {}

    def get(self, name: str, mark: str) -> str | None:
        """The digest of `name` if it still bears this mark, or whatever it is for ANY."""
        self._refresh()
        known, digest = self._known.get(name, ("", None))
        return digest if mark in (known, ANY) else None

    def knows(self, name: str) -> bool:
        """Whether there is a digest of `name`, whatever its mark."""
        self._refresh()
        return name in self._known

    def add(self, found: Mapping[str, tuple[str, str]]) -> None:
        """Remembers marks and digests by name."""
        if found:
            self._refresh()
            self._replace({**self._known, **found})

    def prune(self, keep: Callable[[str, str], bool]) -> None:
        """Forgets each name and digest that `keep` does not want."""
        self._refresh()
        kept = {name: each for name, each in self._known.items() if keep(name, each[1])}
        if len(kept) < len(self._known):
            self._replace(kept)

    def _refresh(self) -> None:
        """Reads the file again if another process has replaced it."""
        try:
            status = self._file.stat()
        except FileNotFoundError:
            self._known, self._read_at = {}, None
            return
        stamp = _stamp(status)
        if stamp == self._read_at:
            return
        try:
            self._known = msgspec.json.decode(self._file.read_bytes(), type=_Known)
        except (FileNotFoundError, msgspec.DecodeError) as error:
            log.warning("%s: cannot be read, files are hashed again: %s", self._file, error)
            self._known = {}
        self._read_at = stamp

    def _replace(self, known: _Known) -> None:
        new = self._file.with_name(f"{self._file.name}.new")
        new.write_bytes(msgspec.json.encode(known))
        new.replace(self._file)
        self._known, self._read_at = known, _stamp(self._file.stat())


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_ino, status.st_size
