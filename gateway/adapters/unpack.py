"""Unpacking an archive that may be hostile: no way out of the directory, no links, no bombs."""

import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, cast

from gateway.adapters.asked import Limits
from gateway.adapters.intake import CONFIG
from gateway.adapters.manifest import is_taken
from gateway.errors import SwitchboardError

PIECE = 2**20
MAX_HEADER = 2**22
"""A longer name or attribute in a tar is no name; tarfile would hold it in memory."""

_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RecursionError,
    UnicodeError,
    ValueError,
    gzip.BadGzipFile,
)
"""What the readers of both formats raise for what they do not understand."""


class BadArchive(SwitchboardError):
    """An archive that is not unpacked: what was found in it, and the mend."""

    def __init__(self, found: str, mend: str) -> None:
        self.found = found
        self.mend = mend
        super().__init__(f"{found}; {mend}")


def unpack(archive: Path, into: Path, limits: Limits) -> Path:
    """The one adapter's directory among what was unpacked. Only adapter files are written.

    Raises BadArchive; then whatever is in `into` is to be thrown away.
    """
    with archive.open("rb") as file:
        begins = file.read(16)
    try:
        if begins.startswith(b"\x1f\x8b"):
            _tar(archive, _Unpacked(into, limits))
        elif begins.startswith(b"PK\x03\x04"):
            _zip(archive, _Unpacked(into, limits))
        else:
            raise BadArchive(*_neither(begins))
    except _BROKEN as error:
        found = f"is broken: {type(error).__name__}: {error}"
        raise BadArchive(found, "is it whole? Unpack it by hand to see") from error
    return _adapter_in(into)


def _neither(begins: bytes) -> tuple[str, str]:
    if begins.lstrip().lower().startswith((b"<!doc", b"<html")):
        return "is a web page", "name the archive itself; for huggingface.co write hf://org/name"
    return (
        f"is neither a .tar.gz nor a .zip: it begins with {begins!r}",
        "pack the adapter's directory as one of them",
    )


class _Unpacked:
    """What has been written so far, within the limits."""

    def __init__(self, into: Path, limits: Limits) -> None:
        self._into = into
        self._limits = limits
        self._bytes = 0
        self._members = 0

    def member(self, name: str) -> Path | None:
        """Where a member is to be written; None if it is not needed."""
        self._members += 1
        if self._members > self._limits.members:
            raise BadArchive(
                f"has more than {self._limits.members} members", "pack the adapter's directory only"
            )
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
            raise BadArchive(f"{name!r} leads out of it", "pack it with relative names")
        return self._into / path if is_taken(path.name) else None

    def write(self, source: IO[bytes], target: Path, *, count: bool) -> None:
        """A member's content; `count` where nobody has counted it yet."""
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as sink:
                while piece := source.read(PIECE):
                    if count:
                        self.count(len(piece))
                    sink.write(piece)
        except (FileExistsError, NotADirectoryError) as error:
            name = target.relative_to(self._into)
            raise BadArchive(f"has {str(name)!r} twice", "pack it anew") from error

    def count(self, size: int) -> None:
        """Bytes that were unpacked, kept or not."""
        self._bytes += size
        if self._bytes > self._limits.unpacked:
            raise BadArchive(
                f"holds more than {self._limits.unpacked} bytes",
                "is this an adapter? If so, raise the limit",
            )


def _refused(name: str, kind: str) -> BadArchive:
    return BadArchive(f"{name!r} is {kind}", "pack plain files only (tar --dereference)")


# ---------------------------------------------------------------- tar


class _Forward:
    """A decompressed stream, read once from its beginning; what is skipped counts as unpacked."""

    def __init__(self, file: gzip.GzipFile, out: _Unpacked) -> None:
        self._file = file
        self._out = out
        self._at = 0

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        piece = self._file.read(size)
        self._at += len(piece)
        self._out.count(len(piece))
        return piece

    def tell(self) -> int:
        return self._at

    def seek(self, position: int) -> None:
        if position < self._at:
            raise tarfile.ReadError("a member that lies before the one before it")
        while self._at < position:
            if not self.read(min(PIECE, position - self._at)):
                return


def _tar(archive: Path, out: _Unpacked) -> None:
    with gzip.open(archive, "rb") as stream:
        forward = cast(IO[bytes], _Forward(stream, out))
        with tarfile.open(fileobj=forward, mode="r:") as tar:
            for member in tar:
                target = out.member(member.name)
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise _refused(member.name, "a link, a device or sparse")
                source = tar.extractfile(member)
                if target is not None and source is not None:
                    out.write(source, target, count=False)
        while forward.read(PIECE):
            pass  # to the end, where the checksum is


# ---------------------------------------------------------------- zip


def _zip(archive: Path, out: _Unpacked) -> None:
    with zipfile.ZipFile(archive) as zipped:
        for info in zipped.infolist():
            target = out.member(info.filename)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                continue
            if kind not in (0, stat.S_IFREG):
                raise _refused(info.filename, "a link or a device")
            if info.flag_bits & 1:
                raise BadArchive(f"{info.filename!r} is encrypted", "pack it without a password")
            if target is not None:
                with zipped.open(info) as source:
                    out.write(source, target, count=True)


# ---------------------------------------------------------------- what is in it


def _adapter_in(into: Path) -> Path:
    """The directory that has the adapter: the only one, or the one that all others are in."""
    found = sorted(
        (path.parent for path in into.rglob(CONFIG)), key=lambda path: (len(path.parts), path)
    )
    if not found:
        raise BadArchive(f"has no {CONFIG}", "pack an adapter as peft's save_pretrained writes it")
    first = found[0]
    if not all(path.is_relative_to(first) for path in found):
        names = ", ".join(str(path.relative_to(into)) for path in found[:5])
        raise BadArchive(f"has several adapters, in {names}", "pack each by itself")
    return first
