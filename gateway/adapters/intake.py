"""Taking an adapter's files in: which ones, that they are what they seem, and the copy."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from gateway.adapters.manifest import SUFFIXES, File, NotAnAdapter, is_taken

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
MAX_FILES = 100
MADE = "an adapter is a directory as peft's save_pretrained writes it"
COPY_AT_ONCE = 64 * 2**20

Tell = Callable[[int], None]
"""Told the number of bytes each time some have been written."""


def taken_in(directory: Path) -> tuple[str, ...]:
    """The names of a directory's adapter files, in order. Raises NotAnAdapter."""
    try:
        names = sorted(filter(is_taken, os.listdir(directory)))
    except NotADirectoryError:
        raise NotAnAdapter(directory, "is a file", "name the adapter's directory") from None
    except FileNotFoundError:
        raise NotAnAdapter(directory, "there is no such directory", MADE) from None
    missing = [name for name in (CONFIG, WEIGHTS) if name not in names]
    if missing:
        raise NotAnAdapter(directory, f"has no {' and no '.join(missing)}", _mend(directory))
    if len(names) > MAX_FILES:
        kinds = " and ".join(f"*{suffix}" for suffix in SUFFIXES)
        found = f"has {len(names)} files {kinds}, and an adapter at most {MAX_FILES}"
        raise NotAnAdapter(directory, found, "move what is none of the adapter's elsewhere")
    for name in names:
        if not name.isprintable():
            raise NotAnAdapter(directory, f"the name {name!r} cannot be kept", "rename the file")
    return tuple(names)


def _mend(directory: Path) -> str:
    if (directory / "adapter_model.bin").exists():
        return (
            "adapter_model.bin is a pickle, which can run code and is never read: save the adapter "
            "anew with peft's save_pretrained(safe_serialization=True)"
        )
    below = sorted(path.parent.name for path in directory.glob(f"*/{CONFIG}"))
    if below:
        return f"there is one in {', '.join(below[:5])}: name that directory"
    return MADE


def regular(directory: Path, name: str) -> tuple[Path, os.stat_result]:
    """The file itself, behind links that stay in the directory."""
    path = directory / name
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise NotAnAdapter(path, f"leads nowhere: {error}", "copy the file itself there") from error
    if not real.is_relative_to(directory.resolve()):
        found = "is a link that leads out of its directory"
        raise NotAnAdapter(path, found, "copy the file itself there (cp -L)")
    status = real.stat()
    if not stat.S_ISREG(status.st_mode):
        raise NotAnAdapter(path, "is no plain file", MADE)
    return real, status


def copy_of(path: Path, status: os.stat_result, target: Path, tell: Tell) -> None:
    """A copy of the file that has this status, before and after."""
    with path.open("rb") as source, target.open("xb") as sink:
        _copy(source, sink, status.st_size, tell)
        after = os.fstat(source.fileno())
    if mark_of(after) != mark_of(status):
        raise NotAnAdapter(
            path,
            "was changed while it was taken in",
            "write an adapter elsewhere, and rename its directory when it is whole",
        )


def moved(path: Path, target: Path) -> File:
    """The file itself in its new place, sealed. Raises NotAnAdapter for a link or a device."""
    if not stat.S_ISREG(path.lstat().st_mode):
        raise NotAnAdapter(path, "is no plain file", MADE)
    path.rename(target)
    return File(target.name, target.stat().st_size, sealed(target))


def mark_of(status: os.stat_result) -> str:
    """Changes whenever the file does: the change time cannot be set back by hand."""
    times = f"{status.st_mtime_ns} {status.st_ctime_ns}"
    return f"{times} {status.st_size} {status.st_dev} {status.st_ino}"


_NO_FAST_COPY = (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)


def _copy(source: BinaryIO, sink: BinaryIO, size: int, tell: Tell) -> None:
    """A copy of `size` bytes at most; the file system may share the blocks until one changes."""
    done = 0
    while done < size:
        try:
            count = os.copy_file_range(
                source.fileno(), sink.fileno(), min(COPY_AT_ONCE, size - done), done, done
            )
        except OSError as error:
            if error.errno not in _NO_FAST_COPY:
                raise
            count = 0
        if count == 0:
            break
        done += count
        tell(count)
    source.seek(done)
    sink.seek(done)
    while done < size and (piece := source.read(min(2**20, size - done))):
        sink.write(piece)
        done += len(piece)
        tell(len(piece))


def sealed(path: Path) -> str:
    """The file's SHA-256, now that nothing may change it any more and it is on the disk."""
    path.chmod(0o444)
    sync(path)
    return hash_of(path)


def hash_of(path: Path) -> str:
    """The file's SHA-256, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Returns when a file, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
