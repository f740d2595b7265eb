"""The shelf: adapters' files by the hash of their content, never changed once they are there.

A vLLM server that is asked for an adapter whose files are gone ends, base and all; one whose files
changed answers otherwise without a word. So what replicas read is a copy of ours, in a directory
named by its content, and it stays for as long as any replica may still need it.

    <root>/sha256-<digest>/adapter_config.json, adapter_model.safetensors
    <root>/index.json        what is known of files outside, so that they are not hashed again

The digest is the SHA-256 of a manifest: each file's name, size and SHA-256, sorted by name.
"""

import contextlib
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

TAKEN = (".json", ".safetensors")
"""The kinds of file that are taken in. Nothing that runs code when it is read is among them."""

LARGEST_JSON = 64 * 1024 * 1024
PIECE = 8 * 1024 * 1024
PREFIX = "sha256-"


class ShelfError(Exception):
    """Files that cannot be put on the shelf; the text says why."""


class File(msgspec.Struct, frozen=True):
    """One file; `size` in bytes."""

    name: str
    size: int
    sha256: str


class Entry(msgspec.Struct, frozen=True):
    """What lies under one digest; `size` in bytes, `folder` below the shelf's root."""

    digest: str
    files: tuple[File, ...]

    @property
    def folder(self) -> str:
        """The directory's name."""
        return PREFIX + self.digest

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


class _Seen(msgspec.Struct, frozen=True):
    """A file outside as it was when it was hashed."""

    modified_ns: int
    inode: int
    file: File


class _Index(msgspec.Struct):
    """`files` by their path outside; `fetched` by source, or by what it was made of."""

    files: dict[str, _Seen] = {}
    fetched: dict[str, Entry] = {}


class Shelf:
    """The shelf in one directory. Several processes may use it at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, source: Path) -> Entry:
        """Takes in a directory's files. Raises ShelfError, OSError.

        Files that were seen before and have the same time, size and inode are not read again.
        """
        names = _taken(source)
        known = self._index().files
        files = [_hashed(source / name, known) for name in names]
        entry = Entry(digest_of(files), tuple(files))
        if not self.path(entry.digest).is_dir():
            with self.staging() as folder:
                copied = [_copied(source / file.name, folder / file.name) for file in files]
                # What lies here is what was hashed, also where the source changed meanwhile.
                entry = Entry(digest_of(copied), tuple(copied))
                self.keep(folder, entry)
        self._remember(source, entry, known)
        return entry

    def staged(self, folder: Path) -> Entry:
        """What a directory's files would be on the shelf. Raises ShelfError, OSError."""
        files = [_hashed(folder / name, {}) for name in _taken(folder)]
        return Entry(digest_of(files), tuple(files))

    def keep(self, folder: Path, entry: Entry) -> None:
        """Moves a staged directory, whose files are those of `entry`, into its place."""
        for file in entry.files:
            (folder / file.name).chmod(0o444)
        folder.chmod(0o755)
        try:
            folder.rename(self.path(entry.digest))
        except OSError:
            if not self.path(entry.digest).is_dir():
                raise  # else another process put the same content there a moment ago

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A directory on the shelf's disk to work in, gone afterwards unless it was kept."""
        self.root.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".staging-", dir=self.root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def path(self, digest: str) -> Path:
        """Where a digest's files lie, if they are there."""
        return self.root / (PREFIX + digest)

    def has(self, digest: str) -> bool:
        """Whether it is there."""
        return self.path(digest).is_dir()

    def entry(self, digest: str) -> Entry:
        """What lies there, hashed anew: for who wants to be sure. Raises ShelfError, OSError."""
        found = self.staged(self.path(digest))
        if found.digest != digest:
            raise ShelfError(
                f"{self.path(digest)} is not what its name says: it was changed or is damaged"
            )
        return found

    def digests(self) -> list[str]:
        """Everything on the shelf."""
        if not self.root.is_dir():
            return []
        return sorted(
            each.name.removeprefix(PREFIX)
            for each in self.root.iterdir()
            if each.name.startswith(PREFIX)
        )

    def clean(self, needed: Collection[str], *, now: float, older_than_s: float) -> list[str]:
        """Removes what is not needed and was put there longer ago than that; what it was.

        Left-over staging directories of that age go too.
        """
        gone = []
        for digest in self.digests():
            folder = self.path(digest)
            if digest not in needed and now - folder.stat().st_mtime > older_than_s:
                trash = self.root / f".staging-gone-{digest}"
                folder.rename(trash)
                shutil.rmtree(trash, ignore_errors=True)
                gone.append(digest)
        for left in self.root.glob(".staging-*"):
            if now - left.stat().st_mtime > older_than_s:
                shutil.rmtree(left, ignore_errors=True)
        return gone

    # ------------------------------------------------------------ what was seen before

    def fetched(self, source: str, digest: str | None = None) -> Entry | None:
        """What a source held when it was fetched, if it is still here, and is that digest."""
        entry = self._index().fetched.get(source)
        if entry is None or not self.has(entry.digest) or digest not in (None, entry.digest):
            return None
        return entry

    def remember(self, source: str, entry: Entry) -> None:
        """For `fetched`."""
        index = self._index()
        self._write(_Index(index.files, index.fetched | {source: entry}))

    def _index(self) -> _Index:
        try:
            return msgspec.json.decode((self.root / "index.json").read_bytes(), type=_Index)
        except (FileNotFoundError, msgspec.DecodeError):
            return _Index()

    def _write(self, index: _Index) -> None:
        """Two writers at once lose one's news: what is lost is only hashed or fetched again."""
        with self.staging() as folder:
            (folder / "index.json").write_bytes(msgspec.json.encode(index))
            (folder / "index.json").rename(self.root / "index.json")

    def _remember(self, source: Path, entry: Entry, known: dict[str, _Seen]) -> None:
        seen = {
            str((source / file.name).resolve()): _seen(source / file.name, file)
            for file in entry.files
        }
        if all(known.get(path) == each for path, each in seen.items()):
            return
        index = self._index()
        self._write(_Index(index.files | seen, index.fetched))


def digest_of(files: Collection[File]) -> str:
    """The digest of a directory with those files."""
    manifest = sorted((file.name, file.size, file.sha256) for file in files)
    return hashlib.sha256(json.dumps(manifest, separators=(",", ":")).encode()).hexdigest()


def _taken(folder: Path) -> list[str]:
    """The names of the files that are taken in. Raises ShelfError for what must not be."""
    if not folder.is_dir():
        raise ShelfError(f"there is no directory {folder}")
    names = []
    for path in sorted(folder.iterdir()):
        if path.suffix not in TAKEN:
            continue
        if not path.resolve().is_relative_to(folder.resolve()) and not _own_link(path, folder):
            raise ShelfError(f"{path} leads out of its directory to {path.resolve()}")
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ShelfError(f"{path} is not a file")
        if path.suffix == ".json" and path.stat().st_size > LARGEST_JSON:
            raise ShelfError(f"{path} is larger than {LARGEST_JSON:,} bytes")
        names.append(path.name)
    return names


def _own_link(path: Path, folder: Path) -> bool:
    """Whether it is a link of the Hub's cache: snapshots/<revision>/file -> ../../blobs/<hash>."""
    snapshots = folder.resolve().parent
    blobs = snapshots.parent / "blobs"
    return snapshots.name == "snapshots" and path.resolve().is_relative_to(blobs)


def _seen(path: Path, file: File) -> _Seen:
    status = path.stat()
    return _Seen(status.st_mtime_ns, status.st_ino, file)


def _hashed(path: Path, known: dict[str, _Seen]) -> File:
    before = known.get(str(path.resolve()))
    unchanged = before is not None and before == _seen(path, before.file)
    if before is not None and unchanged and before.file.size == path.stat().st_size:
        return before.file
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
            size += len(piece)
    return File(path.name, size, digest.hexdigest())


def _copied(source: Path, to: Path) -> File:
    """Copies a file, hashing what is written."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as read, to.open("xb") as written:
        while piece := read.read(PIECE):
            digest.update(piece)
            written.write(piece)
            size += len(piece)
        written.flush()
        os.fsync(written.fileno())
    return File(source.name, size, digest.hexdigest())
