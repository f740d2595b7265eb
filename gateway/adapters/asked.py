"""What every way of fetching an adapter is given, and how each says what went wrong."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Protocol
from urllib.parse import urlsplit, urlunsplit

import msgspec

from gateway.errors import SwitchboardError

GIB = 2**30


class SourceError(SwitchboardError):
    """An adapter cannot be fetched: from where, what was found there, and the mend."""

    def __init__(self, source: str, found: str, mend: str) -> None:
        self.source = shown(source)
        self.found = found
        self.mend = mend
        super().__init__(f"{self.source}: {found}; {mend}")


Tell = Callable[[int, int | None], None]
"""Told how far a fetch has come: bytes, of so many in all if that is known."""


class Credentials(msgspec.Struct, frozen=True):
    """Who we are elsewhere, and where elsewhere is.

    What is None is taken from the environment as botocore (`AWS_…`) and huggingface_hub (`HF_…`)
    read it. `ca_file` has the certificates to trust instead of the usual ones.
    """

    s3_key: str | None = None
    s3_secret: str | None = None
    s3_session: str | None = None
    s3_endpoint: str | None = None
    s3_anonymous: bool = False
    hf_token: str | None = None
    hf_endpoint: str | None = None
    ca_file: Path | None = None

    def __repr__(self) -> str:
        return f"Credentials(s3_endpoint={self.s3_endpoint!r}, hf_endpoint={self.hf_endpoint!r})"

    def hidden_in(self, text: str) -> str:
        """The text without our secrets, and without the queries and passwords of URLs in it."""
        for secret in (self.s3_secret, self.s3_session, self.hf_token, self.s3_key):
            if secret:
                text = text.replace(secret, "…")
        return _QUERY.sub(r"\1?…", _USER.sub("//…@", text))


_QUERY = re.compile(r"(\w+://[^\s?\"'<>]+)\?[^\s\"'<>]*")
_USER = re.compile(r"//[^\s/@\"'<>]+@")


class Limits(msgspec.Struct, frozen=True):
    """What one fetch may take: bytes, members of an archive, seconds, tries.

    `fetched` is before unpacking. `read_s` runs between two reads.
    """

    fetched: int = 20 * GIB
    unpacked: int = 20 * GIB
    members: int = 10_000
    connect_s: float = 10.0
    read_s: float = 60.0
    total_s: float = 3600.0
    attempts: int = 4


class Asked(msgspec.Struct, frozen=True):
    """One fetch. `pinned` is true where the content is known by a hash beforehand."""

    source: str
    pinned: bool
    progress: Tell
    credentials: Credentials
    limits: Limits
    sleep: Callable[[float], None]
    clock: Callable[[], float]

    def wrong(self, found: str, mend: str) -> SourceError:
        """The error that says so, without secrets."""
        return SourceError(self.source, self.credentials.hidden_in(found), mend)

    def too_large(self, size: int) -> SourceError:
        """The error for more bytes than may be fetched."""
        found = f"has {size} bytes or more, and the limit is {self.limits.fetched}"
        return self.wrong(found, "is this an adapter? If so, raise the limit")


class Fetched(msgspec.Struct, frozen=True):
    """An adapter's directory in the staging directory.

    `mark` is of what was fetched, as `Origin.mark` tells it; `archive` the SHA-256 of the archive
    that it came in.
    """

    directory: Path
    mark: str | None
    archive: str | None = None


class Origin(Protocol):
    """Somewhere else that has an adapter. Both methods block, and raise SourceError."""

    @property
    def name(self) -> str:
        """What it is remembered by; no secret in it."""
        ...

    def mark(self) -> str | None:
        """What changes whenever the adapter there does; None where that cannot be told."""
        ...

    def fetch(self, into: Path) -> Fetched:
        """Everything that is needed, written below `into`."""
        ...


def shown(source: str) -> str:
    """A source as it may be shown: a URL's query and user can be secrets."""
    if "://" not in source:
        return source
    try:
        parts = urlsplit(source)
    except ValueError:
        return source.partition("://")[0] + "://…"
    host = parts.netloc.rpartition("@")[2] if parts.scheme in ("http", "https") else parts.netloc
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


def library(asked: Asked, name: str) -> ModuleType:
    """A library of the extra `sources`, imported when it is first needed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        mend = 'install it with: pip install "switchboard[sources]"'
        raise asked.wrong(f"needs {name}, which is not installed ({error})", mend) from error
