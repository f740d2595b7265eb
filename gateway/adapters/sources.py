"""Where adapters come from: a directory here, a bucket, the Hub, or an archive on the web.

    contracts-v3                          a directory below the adapter store
    s3://bucket/prefix                    every file right below the prefix
    hf://organisation/name@revision/path  a repository on the Hub, or a directory of it
    https://host/adapter.tar.gz           also .tgz, .tar and .zip; the adapter may lie one deeper

What is fetched is hashed before it is kept, and kept: the same source is not fetched again. To have
other content, write another source or version.
"""

import contextlib
import posixpath
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

import httpx
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from gateway.adapters.manifest import SUFFIXES, Entry, ShelfError, WrongContent
from gateway.adapters.shelf import Shelf

Progress = Callable[[int, int | None], None]
"""Bytes that have come, of so many in all if that is known."""

PIECE = 8 * 1024 * 1024
FETCHED = "fetched"
"""The mark under which the shelf remembers what a source held."""

MOST_FILES = 1000
MOST_BYTES = 32 * 2**30
"""What an archive may unpack to, or a directory hold."""

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")
CONFIG = "adapter_config.json"


class SourceError(Exception):
    """A source that cannot be had; the text names it, what was found, and the mend."""


def fetch(
    source: str,
    *,
    base: Path,
    into: Shelf,
    progress: Progress | None = None,
    sha256: str | None = None,
    again: bool = False,
) -> Entry:
    """The source's files, on the shelf. Relative paths begin at `base`.

    `sha256` is the digest that the content must have. What was fetched before is taken from the
    shelf unless `again`. Raises SourceError, OSError. Takes long: call it in a thread.
    """
    tell = progress or _silent
    try:
        if "://" not in source:
            return into.put(base / source, expected=sha256)
        known = None if again else _fetched(source, into, sha256)
        return known or _remote(source, into, tell, sha256)
    except WrongContent as error:
        raise SourceError(
            f"{source}: its content hashes to {error.found}, not to {error.expected} as declared; "
            "if it was meant to change, write the new hash"
        ) from error
    except ShelfError as error:
        raise SourceError(f"{source}: {error}") from error


def _silent(done: int, total: int | None) -> None:
    """Nobody looks."""


def _fetched(source: str, into: Shelf, sha256: str | None) -> Entry | None:
    """What the source held when it was fetched, if that is still here and what is expected."""
    digest = into.seen.get(source, FETCHED)
    if digest is None or sha256 not in (None, digest):
        return None
    try:
        return into.touch(digest)
    except ShelfError:
        return None


def _remote(source: str, into: Shelf, progress: Progress, sha256: str | None) -> Entry:
    with into.staging() as folder:
        files = folder / "files"
        files.mkdir()
        scheme = urlsplit(source).scheme
        if scheme in ("http", "https"):
            _archive(source, folder, files, progress)
        elif scheme in ("s3", "hf"):
            _directory(source, files, progress)
        else:
            raise SourceError(f"{source}: `{scheme}://` cannot be fetched")
        entry = into.put(files, move=True, expected=sha256)
    into.remember(source, FETCHED, entry.digest)
    return entry


# ---------------------------------------------------------------- buckets and the Hub


def _directory(source: str, files: Path, progress: Progress) -> None:
    """Every file of a kind that is taken, right below the source."""
    filesystem, root = _opened(source)
    try:
        found = {
            path: detail
            for path, detail in filesystem.find(root, maxdepth=1, detail=True).items()
            if path.endswith(SUFFIXES)
        }
    except Exception as error:  # each of these libraries has errors of its own
        raise SourceError(f"{source}: {_said(error)}") from error
    if not found:
        raise SourceError(f"{source}: there is no {' or '.join(SUFFIXES)} file; is the path right?")
    total = sum(detail["size"] or 0 for detail in found.values())
    if len(found) > MOST_FILES or total > MOST_BYTES:
        raise SourceError(f"{source}: {len(found)} files of {total:,} bytes are too much")
    done = 0
    for path in sorted(found):
        try:
            with filesystem.open(path, "rb") as read:
                for size in _copy(read, files / posixpath.basename(path)):
                    done += size
                    progress(done, total)
        except Exception as error:
            raise SourceError(f"{source}: {posixpath.basename(path)}: {_said(error)}") from error


def _opened(source: str) -> tuple[Any, str]:
    """The file system of a URL, and the path in it."""
    try:
        import fsspec

        return fsspec.url_to_fs(source)  # type: ignore[no-any-return]
    except ImportError as error:
        raise SourceError(
            f"{source}: needs a library that is not installed ({error.name}); "
            "pip install 'switchboard[sources]'"
        ) from error
    except ValueError as error:
        raise SourceError(f"{source}: {error}") from error


def _copy(read: IO[bytes], to: Path) -> Iterator[int]:
    with to.open("xb") as written:
        while piece := read.read(PIECE):
            written.write(piece)
            yield len(piece)


def _said(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return f"{type(error).__name__}: {text[:300]}"


# ---------------------------------------------------------------- archives


def _archive(source: str, folder: Path, files: Path, progress: Progress) -> None:
    parts = urlsplit(source)
    if parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise SourceError(f"{source}: weights are not fetched in the clear; use https://")
    if not parts.path.endswith(ARCHIVES):
        raise SourceError(f"{source}: is not an archive; write a URL ending in {ARCHIVES[0]}")
    packed = folder / "archive"
    try:
        _download(source, packed, progress)
    except httpx.HTTPError as error:
        raise SourceError(f"{source}: {_said(error)}") from error
    try:
        _unpack(packed, files, zipped=parts.path.endswith(".zip"))
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise SourceError(f"{source}: cannot be unpacked: {_said(error)}") from error
    except SourceError as error:
        raise SourceError(f"{source}: {error}") from None


@retry(
    retry=retry_if_exception_type(httpx.TransportError),
    stop=stop_after_attempt(3),
    wait=wait_random_exponential(multiplier=0.2, max=5),
    reraise=True,
)
def _download(source: str, to: Path, progress: Progress) -> None:
    """Raises httpx.HTTPError; what breaks off is asked for again, from its beginning."""
    timeout = httpx.Timeout(30.0, read=60.0)
    with httpx.stream("GET", source, timeout=timeout, follow_redirects=True) as answer:
        answer.raise_for_status()
        length = answer.headers.get("content-length")
        total, done = int(length) if length is not None else None, 0
        with to.open("wb") as written:
            for piece in answer.iter_bytes():
                written.write(piece)
                done += len(piece)
                if done > MOST_BYTES:
                    raise SourceError(f"is more than {MOST_BYTES:,} bytes")
                progress(done, total)


def _unpack(packed: Path, files: Path, *, zipped: bool) -> None:
    """Takes out the files beside the one `adapter_config.json`, whatever their directory.

    Names serve to choose by only: no path of the archive is ever written to.
    """
    with _members(packed, zipped) as members:
        homes = {PurePosixPath(name).parent for name, _ in members if name.endswith(CONFIG)}
        homes = {home for home in homes if any(name == str(home / CONFIG) for name, _ in members)}
        if len(homes) != 1:
            raise SourceError(f"has {len(homes)} files called {CONFIG}, not one")
        home, left = homes.pop(), MOST_BYTES
        taken = [
            (PurePosixPath(name).name, open_)
            for name, open_ in members
            if PurePosixPath(name).parent == home and name.endswith(SUFFIXES)
        ]
        if len(taken) > MOST_FILES:
            raise SourceError(f"has {len(taken)} files, which is too many")
        for name, open_ in taken:
            with open_() as read:
                for size in _copy(read, files / name):
                    left -= size
                    if left < 0:
                        raise SourceError(f"unpacks to more than {MOST_BYTES:,} bytes")


Member = tuple[str, Callable[[], IO[bytes]]]


@contextlib.contextmanager
def _members(packed: Path, zipped: bool) -> Iterator[list[Member]]:
    """The plain files of an archive, each with what opens it; links and devices are none."""
    if zipped:
        with zipfile.ZipFile(packed) as archive:
            yield [
                (info.filename, lambda info=info: archive.open(info))  # type: ignore[misc]
                for info in archive.infolist()
                if not info.is_dir()
            ]
    else:
        with tarfile.open(packed) as tar:
            yield [
                (info.name, lambda info=info: _extracted(tar, info))  # type: ignore[misc]
                for info in tar.getmembers()
                if info.isreg()
            ]


def _extracted(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    read = tar.extractfile(info)
    if read is None:
        raise SourceError(f"{info.name} is not a file")
    return read
