"""Records on disk while the database cannot take them: appended to files, and read again later.

Each process appends to files of its own, which it holds locked; a file that nobody holds was left
by a process that ended, and whoever can write to the database again takes it. A record may lie in
a file and in the database: it is inserted by its id, so it counts once.

A frame is the length of a record and its CRC-32, both little-endian in 4 bytes, and the record in
MessagePack. A frame that a power cut left unfinished ends its file.
"""

import contextlib
import fcntl
import logging
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from gateway.store.rows import whole_text
from gateway.types.records import Record

log = logging.getLogger("switchboard.store")

BOUND = 1 << 30
"""Bytes that all files of a directory may take: some 500,000 records with their decisions."""

SEGMENT = 16 << 20
"""Bytes after which another file is begun: it is the unit that is taken off when written."""

SUFFIX = ".rows"

_HEAD = struct.Struct("<II")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


class Spool:
    """The files of one directory. `append` and `left` may be called from several threads."""

    def __init__(self, directory: Path, *, bound: int = BOUND, segment: int = SEGMENT) -> None:
        self.directory = directory
        self._bound = bound
        self._segment = segment
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._number = 0

    def size(self) -> int:
        """Bytes of all files, other processes' too."""
        return sum(_size(path) for path in self._paths())

    def append(self, records: Sequence[Record]) -> int:
        """Writes as many as there is room for and syncs them to the disk; how many they are.

        Raises OSError where the disk takes none.
        """
        with self._lock:
            room = self._bound - self.size()
            frames: list[bytes] = []
            for record in records:
                frame = _frame(record)
                room -= len(frame)
                if room < 0:
                    break
                frames.append(frame)
            if frames:
                self._write(b"".join(frames))
            return len(frames)

    def left(self) -> "Iterator[Segment]":
        """Files to be written to the database, the oldest first, each locked for the caller."""
        self.close()
        for path in sorted(self._paths()):
            segment = _taken(path)
            if segment is not None:
                yield segment

    def close(self) -> None:
        """Lets go of the file that was appended to last."""
        with self._lock:
            file, self._file = self._file, None
            if file is not None:
                file.close()

    def _write(self, data: bytes) -> None:
        file = self._file or self._begun()
        try:
            file.write(data)
            file.flush()
            os.fdatasync(file.fileno())
        except OSError:
            # What stands in the file now may end in half a frame: nothing may follow it.
            self._file = None
            with contextlib.suppress(OSError):
                file.close()
            raise
        if file.tell() >= self._segment:
            self._file = None
            file.close()

    def _begun(self) -> BinaryIO:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._number += 1
        name = f"{time.time_ns():020}-{os.getpid()}-{self._number}{SUFFIX}"
        # Prompts and answers may stand in it: for its owner's eyes only.
        flags = os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_RDWR
        descriptor = os.open(self.directory / name, flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._file = os.fdopen(descriptor, "ab")
        return self._file

    def _paths(self) -> list[Path]:
        return list(self.directory.glob(f"*{SUFFIX}*"))


class Segment:
    """A locked file of records."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self._file = file

    def records(self) -> Iterator[Record]:
        """Its records, up to where it ends or cannot be read."""
        place = 0
        while head := self._file.read(_HEAD.size):
            length, crc = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)
            data = self._file.read(length)
            if len(head) < _HEAD.size or len(data) < length:
                log.warning("%s: the last record was not written to its end", self.path)
                return
            try:
                record = _decode(data) if zlib.crc32(data) == crc else None
            except msgspec.MsgspecError:
                record = None
            if record is None:
                self._keep_damaged(place)
                return
            place = self._file.tell()
            yield record

    def done(self) -> None:
        """All of it is in the database: the file goes."""
        self.path.unlink(missing_ok=True)
        self._file.close()

    def release(self) -> None:
        """It is read again another time."""
        self._file.close()

    def _keep_damaged(self, place: int) -> None:
        """What cannot be read is kept beside, for people: `done` takes the rest off."""
        self._file.seek(place)
        beside = self.path.with_name(f"{self.path.name}.damaged")
        descriptor = os.open(beside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as copy:
            copy.write(self._file.read())
        log.error("%s is damaged at byte %d; what follows is kept in %s", self.path, place, beside)


def _taken(path: Path) -> Segment | None:
    """The file, unless another process holds it or has just written it to the database."""
    if path.suffix != SUFFIX:
        return None
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_nlink:
            return Segment(path, file)
    except BlockingIOError:
        pass
    file.close()
    return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _frame(record: Record) -> bytes:
    try:
        data = _encode(record)
    except UnicodeEncodeError:
        data = _encode(_mended(msgspec.to_builtins(record, builtin_types=(bytes,))))
    return _HEAD.pack(len(data), zlib.crc32(data)) + data


def _mended(value: Any) -> Any:
    """With every text in it whole."""
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, dict):
        return {name: _mended(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_mended(each) for each in value]
    return value
