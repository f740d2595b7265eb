"""Where adapters lie on this machine: each under the SHA-256 of its content, and never changed.

A vLLM server that evicted an adapter reads its files again when the adapter is next asked for: it
answers otherwise if they have changed, and ends if they are gone. So what has been put on the shelf
stays as it is under its digest, and goes only when no replica can need it.

    <root>/sha256-<digest>/adapter_config.json, adapter_model.safetensors, …    read-only
    <root>/sha256-<digest>/.manifest     names, sizes and hashes; its own SHA-256 is the digest
    <root>/.index.json                   what has been hashed before
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from gateway.adapters.intake import (
    Tell,
    copy_of,
    hash_of,
    mark_of,
    moved,
    regular,
    sealed,
    sync,
    taken_in,
)
from gateway.adapters.manifest import (
    Damaged,
    Entry,
    File,
    NotOnShelf,
    WrongContent,
    checked_digest,
    directory_name,
    entry_of,
    is_digest,
    manifest_of,
)
from gateway.adapters.seen import Seen

MANIFEST = ".manifest"
LEFTOVER_S = 86_400.0
"""An unfinished directory that nothing was written to for this long has lost its process."""

RACY_S = 2.0
"""A file changed this lately may change again without its times showing it."""

_INCOMING, _OUTGOING = ".incoming-", ".outgoing-"


class Shelf:
    """A directory of immutable adapters. Several processes may use one shelf at once.

    Every method blocks on the disk; call them off the event loop. `clock` gives Unix seconds.
    """

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.root = root
        self.seen = Seen(root / ".index.json")
        self._clock = clock

    def put(
        self,
        directory: Path,
        *,
        move: bool = False,
        expected: str | None = None,
        tell: Tell = lambda count: None,
    ) -> Entry:
        """Takes in a directory's adapter files; the same content is kept once.

        `move` takes the files themselves, for a directory made by `staging`. With `expected`,
        nothing else is kept. Raises NotAnAdapter, WrongContent and OSError.
        """
        names = taken_in(directory)
        if not move and (known := self._known(directory, names, expected)) is not None:
            return known
        with self.staging() as fresh:
            if move:
                files = [moved(directory / name, fresh / name) for name in names]
            else:
                files = self._copied(directory, names, fresh, tell)
            raw = manifest_of(files)
            entry = entry_of(raw, hashlib.sha256(raw).hexdigest())
            if expected is not None and entry.digest != checked_digest(expected):
                raise WrongContent(directory, expected, entry.digest)
            _write(fresh / MANIFEST, raw)
            self._keep(fresh, entry)
        return entry

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """A new directory beside the adapters, to prepare one in; it is gone afterwards."""
        self.root.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=_INCOMING, dir=self.root))
        try:
            yield fresh
        finally:
            _discard(fresh)

    def path(self, digest: str) -> Path:
        """Where an adapter lies. Raises NotOnShelf."""
        found = self.root / directory_name(digest)
        if not found.is_dir():
            raise NotOnShelf(f"{self.root}: has no adapter sha256:{digest}; fetch it first")
        return found

    def entry(self, digest: str) -> Entry:
        """What lies under a digest, by its manifest and the files' sizes; they are not hashed.

        Raises NotOnShelf and Damaged.
        """
        directory = self.path(digest)
        try:
            entry = entry_of((directory / MANIFEST).read_bytes(), digest)
            sizes = {file.name: (directory / file.name).stat().st_size for file in entry.files}
        except FileNotFoundError as error:
            raise Damaged(f"{error.filename}: is gone; remove the adapter, fetch it anew") from None
        for file in entry.files:
            if sizes[file.name] != file.size:
                raise Damaged(
                    f"{directory / file.name}: has {sizes[file.name]} bytes instead of "
                    f"{file.size}; remove the adapter, fetch it anew"
                )
        return entry

    def verify(self, digest: str) -> Entry:
        """Reads and hashes all that lies under a digest. Raises NotOnShelf and Damaged."""
        entry = self.entry(digest)
        directory = self.path(digest)
        unknown = {path.name for path in directory.iterdir()} - {MANIFEST}
        unknown -= {file.name for file in entry.files}
        if unknown:
            raise Damaged(f"{directory}: {', '.join(sorted(unknown))} were put in by another hand")
        for file in entry.files:
            if hash_of(directory / file.name) != file.sha256:
                raise Damaged(
                    f"{directory / file.name}: its content has changed; remove the adapter, fetch "
                    f"it anew"
                )
        return entry

    def entries(self) -> tuple[Entry, ...]:
        """Every adapter, by digest. Raises Damaged for the first that is not whole."""
        return tuple(self.entry(digest) for digest in self.digests())

    def digests(self) -> tuple[str, ...]:
        """The digests of all that lies here, damaged or whole, in order."""
        if not self.root.is_dir():
            return ()
        names = (path.name.removeprefix("sha256-") for path in self.root.glob("sha256-*"))
        return tuple(sorted(name for name in names if is_digest(name)))

    def touch(self, digest: str) -> Entry:
        """The adapter, as if it had been put in now: its time of grace begins anew.

        Raises NotOnShelf and Damaged.
        """
        with self._locked():
            entry = self.entry(digest)
            self._touched(self.path(digest))
        return entry

    def remove(self, digest: str) -> None:
        """Takes an adapter off the shelf at once. Raises NotOnShelf.

        A vLLM server that may still read it ends when it does: see `clean`.
        """
        with self._locked():
            gone = self._put_out(self.path(digest))
        _discard(gone)

    def clean(self, needed: Collection[str], older_than_s: float, now: float) -> tuple[str, ...]:
        """Removes the adapters that are not needed and were last put in before `older_than_s`.

        `needed` are the digests that any replica may still read, evicted ones among them. Raises
        ShelfError, with nothing removed, if one of them is no digest. Returns what was removed.
        """
        kept = {checked_digest(digest) for digest in needed}
        removed = []
        for digest in self.digests():
            if digest not in kept and self._out_if_older(digest, now - older_than_s):
                removed.append(digest)
        if self.root.is_dir():
            self._tidy(now)
            gone = set(removed)
            with self._locked():
                self.seen.prune(lambda name, value: _is_there(name) and value not in gone)
        return tuple(removed)

    def remember(self, name: str, mark: str, digest: str) -> None:
        """That `name`, as long as it bears this mark, has this digest."""
        with self._locked():
            self.seen.add({name: (mark, digest)})

    # ------------------------------------------------------------ steps

    def _known(self, directory: Path, names: Sequence[str], expected: str | None) -> Entry | None:
        """The entry of a directory that has not changed since it was hashed, if it is still here.

        None too where it is not what is expected: it is then looked at in full.
        """
        files = []
        for name in names:
            path, status = regular(directory, name)
            sha256 = self.seen.get(str(path), mark_of(status))
            if sha256 is None:
                return None
            files.append(File(name, status.st_size, sha256))
        digest = hashlib.sha256(manifest_of(files)).hexdigest()
        if expected not in (None, digest):
            return None
        try:
            return self.touch(digest)
        except (NotOnShelf, Damaged):
            return None

    def _copied(self, directory: Path, names: Sequence[str], into: Path, tell: Tell) -> list[File]:
        """Copies of the files, and their hashes remembered for the next time."""
        files, settled = [], {}
        for name in names:
            path, status = regular(directory, name)
            copy_of(path, status, into / name, tell)
            file = File(name, status.st_size, sealed(into / name))
            files.append(file)
            if self._clock() - max(status.st_mtime, status.st_ctime) > RACY_S:
                settled[str(path)] = (mark_of(status), file.sha256)
        with self._locked():
            self.seen.add(settled)
        return files

    def _keep(self, fresh: Path, entry: Entry) -> None:
        """Gives a whole directory its name, unless another process has put the same in."""
        final = self.root / directory_name(entry.digest)
        fresh.chmod(0o555)
        sync(fresh)
        damaged = None
        with self._locked():
            try:
                self.entry(entry.digest)
            except NotOnShelf:
                fresh.rename(final)
            except Damaged:
                damaged = self._put_out(final)
                fresh.rename(final)
            self._touched(final)
            sync(self.root)
        if damaged is not None:
            _discard(damaged)

    def _touched(self, directory: Path) -> None:
        """The directory's time is when it was last put in; what is in it has its own."""
        now = self._clock()
        os.utime(directory, (now, now))

    def _out_if_older(self, digest: str, before: float) -> bool:
        with self._locked():
            directory = self.root / directory_name(digest)
            if not directory.is_dir() or directory.stat().st_mtime >= before:
                return False
            gone = self._put_out(directory)
        _discard(gone)
        return True

    def _put_out(self, directory: Path) -> Path:
        """Out of sight in one step, so that nobody finds half of it."""
        gone = Path(tempfile.mkdtemp(prefix=_OUTGOING, dir=self.root))
        directory.rename(gone)
        return gone

    def _tidy(self, now: float) -> None:
        """What processes that ended have left behind."""
        for path in [*self.root.glob(f"{_INCOMING}*"), *self.root.glob(f"{_OUTGOING}*")]:
            with contextlib.suppress(FileNotFoundError):
                newest = max(each.lstat().st_mtime for each in [path, *path.rglob("*")])
                if newest < now - LEFTOVER_S:
                    _discard(path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all users of this shelf; held for renames, never for copies."""
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o444)
    sync(path)


def _is_there(name: str) -> bool:
    """Whether a remembered local file is still there; what is elsewhere may be."""
    return not name.startswith("/") or Path(name).exists()


def _discard(directory: Path) -> None:
    """Deletes a directory, read-only ones in it too; nothing happens if it is gone."""
    with contextlib.suppress(FileNotFoundError):  # another process may be deleting it as well
        for path, _, _ in os.walk(directory):
            os.chmod(path, 0o700)
        shutil.rmtree(directory)
