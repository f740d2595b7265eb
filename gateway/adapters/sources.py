"""Where adapters come from: a directory, an S3 bucket, an archive behind a URL, the HF Hub.

    adapters/support-v7                 a directory, relative to the base
    s3://bucket/prefix
    https://host/support.tar.gz         .tar.gz or .zip; http:// only if it is pinned
    hf://org/name[@revision][/folder]

Whatever it is, what comes back is an entry of the shelf. A pin is the content's digest (as the
shelf names it, so one pin serves for every kind of source) or, for an archive, the archive's own
SHA-256; nothing else is kept, and nothing is fetched if it is on the shelf already.
"""

import time
from collections.abc import Callable
from pathlib import Path

from gateway.adapters.asked import Asked, Credentials, Limits, Origin, SourceError, Tell
from gateway.adapters.buckets import Bucket
from gateway.adapters.download import Archive
from gateway.adapters.hub import Repository
from gateway.adapters.intake import MADE, regular, taken_in
from gateway.adapters.manifest import (
    Damaged,
    Entry,
    NotAnAdapter,
    NotOnShelf,
    WrongContent,
    is_digest,
    is_taken,
)
from gateway.adapters.seen import ANY
from gateway.adapters.shelf import Shelf

__all__ = ["Credentials", "Limits", "SourceError", "fetch"]

REMOTE: dict[str, Callable[[Asked], Origin]] = {
    "s3": Bucket,
    "https": Archive,
    "http": Archive,
    "hf": Repository,
}

UNMARKED = ""
"""The mark of what bears none: it is never current."""

NOT_PINNED = "pin it to what there is now, or find out who changed it"


def fetch(
    source: str,
    *,
    base: Path,
    into: Shelf,
    progress: Tell = lambda done, total: None,
    sha256: str | None = None,
    again: bool = False,
    outside: bool = False,
    credentials: Credentials | None = None,
    limits: Limits | None = None,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Entry:
    """Brings an adapter onto the shelf, and blocks while it does.

    `sha256` is a pin. A directory must lie below `base` unless `outside`. What a URL held when it
    was last fetched is taken from the shelf; with `again` it is asked there whether it has changed.
    `progress` may be called in another thread. Raises SourceError; OSError if this machine's disk
    fails.
    """
    asked = Asked(
        source=source,
        pinned=sha256 is not None,
        progress=progress,
        credentials=credentials or Credentials(),
        limits=limits or Limits(),
        sleep=sleep,
        clock=clock,
    )
    pin = _pin(asked, sha256) if sha256 is not None else None
    if pin is not None and (there := _pinned(into, pin)) is not None:
        return there
    try:
        if "://" not in source:
            return _local(asked, _directory(asked, base, outside), into, pin)
        scheme = source.partition("://")[0]
        if scheme not in REMOTE:
            raise asked.wrong(f"{scheme}:// is not known", f"known are {', '.join(REMOTE)}")
        return _remote(asked, REMOTE[scheme](asked), into, pin, again)
    except NotAnAdapter as error:
        where = f"{error.where.name}: " if is_taken(error.where.name) else ""
        raise asked.wrong(f"{where}{error.found}", error.mend) from error
    except WrongContent as error:
        found = f"the content is sha256:{error.found}, and not the sha256:{pin} that is pinned"
        raise asked.wrong(found, NOT_PINNED) from error


def _pin(asked: Asked, written: str) -> str:
    digest = written.removeprefix("sha256:")
    if not is_digest(digest):
        raise asked.wrong(f"the pin {written[:80]!r} is none", "write 64 hexadecimal digits")
    return digest


def _pinned(shelf: Shelf, pin: str) -> Entry | None:
    """What a pin stands for, if it is on the shelf: content, or the content of an archive."""
    for digest in (pin, shelf.seen.get(_archive(pin), "")):
        if digest is not None and (entry := _there(shelf, digest)) is not None:
            return entry
    return None


def _there(shelf: Shelf, digest: str) -> Entry | None:
    try:
        return shelf.touch(digest)
    except (NotOnShelf, Damaged):
        return None


def _archive(sha256: str) -> str:
    return f"archive sha256:{sha256}"


# ---------------------------------------------------------------- here


def _directory(asked: Asked, base: Path, outside: bool) -> Path:
    """The directory that is meant, links followed."""
    directory = (base / asked.source).resolve()
    if not outside and not directory.is_relative_to(base.resolve()):
        raise asked.wrong(f"lies outside {base}", "move it there, or allow directories elsewhere")
    if not directory.exists():
        raise asked.wrong(f"there is no such directory below {base}", MADE)
    return directory


def _local(asked: Asked, directory: Path, shelf: Shelf, pin: str | None) -> Entry:
    total = sum(regular(directory, name)[1].st_size for name in taken_in(directory))
    if total > asked.limits.fetched:
        raise asked.too_large(total)
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        asked.progress(done, total)

    entry = shelf.put(directory, expected=pin, tell=tell)
    asked.progress(total, total)
    return entry


# ---------------------------------------------------------------- elsewhere


def _remote(asked: Asked, origin: Origin, shelf: Shelf, pin: str | None, again: bool) -> Entry:
    if pin is None and (known := _before(origin, shelf, again)) is not None:
        return known
    with shelf.staging() as staged:
        fetched = origin.fetch(staged)
        is_archive = fetched.archive is not None and fetched.archive == pin
        try:
            entry = shelf.put(fetched.directory, move=True, expected=None if is_archive else pin)
        except WrongContent as error:
            if fetched.archive is None:
                raise
            found = (
                f"the archive is sha256:{fetched.archive} and its content sha256:{error.found}; "
                f"neither is the sha256:{pin} that is pinned"
            )
            raise asked.wrong(found, NOT_PINNED) from error
    shelf.remember(origin.name, fetched.mark or UNMARKED, entry.digest)
    if fetched.archive is not None:
        shelf.remember(_archive(fetched.archive), "", entry.digest)
    return entry


def _before(origin: Origin, shelf: Shelf, again: bool) -> Entry | None:
    """What was fetched from there before, if it is on the shelf; with `again`, if it is current.

    Without, nothing is asked: an adapter must be served though its source is away.
    """
    if not shelf.seen.knows(origin.name):
        return None
    mark = origin.mark() if again else ANY
    digest = shelf.seen.get(origin.name, mark) if mark is not None else None
    return _there(shelf, digest) if digest is not None else None
