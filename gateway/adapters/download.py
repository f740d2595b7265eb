"""A file by HTTP(S): taken up again where it broke off, within limits of size and time."""

import hashlib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import httpx
from tenacity import (
    Retrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from gateway.adapters.asked import Asked, Fetched, SourceError
from gateway.adapters.unpack import BadArchive, unpack

MAX_REDIRECTS = 5
AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""


class Archive:
    """An adapter packed as .tar.gz or .zip behind a URL; `https`, or `http` if it is pinned."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._url = asked.source
        self.name = f"archive {hashlib.sha256(asked.source.encode()).hexdigest()}"
        self._check_scheme(self._url)

    def mark(self) -> str | None:
        """The archive's entity tag, if the server gives one."""
        with self._client() as client:
            try:
                return _tag(client.head(self._url).raise_for_status())
            except httpx.HTTPError:
                return None  # many servers know no HEAD; the archive itself tells what is wrong

    def fetch(self, into: Path) -> Fetched:
        """The archive, then what is in it."""
        packed = into / "archive"
        with packed.open("w+b") as file:
            tag = self._download(file)
        with packed.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        unpacked = into / "unpacked"
        unpacked.mkdir()
        try:
            return Fetched(unpack(packed, unpacked, self._asked.limits), tag, sha256)
        except BadArchive as error:
            raise self._asked.wrong(error.found, error.mend) from error
        finally:
            packed.unlink()

    def _download(self, file: BinaryIO) -> str | None:
        """Tries until the file is whole. Its entity tag, if the server gives one."""
        limits = self._asked.limits
        wanted = _Wanted(self._asked, file)
        tries = Retrying(
            stop=stop_after_attempt(limits.attempts),
            wait=wait_exponential(multiplier=0.5, max=10) + wait_random(0, 0.5),
            retry=retry_if_exception_type((httpx.TransportError, _Again)),
            sleep=self._asked.sleep,
            reraise=True,
        )
        with self._client() as client:
            try:
                tries(wanted.fetch, client, self._url)
            except (httpx.HTTPError, _Again) as error:
                said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
                raise self._asked.wrong(
                    f"broke off {limits.attempts} times, the last after {wanted.have} bytes: "
                    f"{said.removeprefix('_Again: ')}",
                    "can the server be reached from here?",
                ) from error
        return wanted.tag

    @contextmanager
    def _client(self) -> Iterator[httpx.Client]:
        limits, ca_file = self._asked.limits, self._asked.credentials.ca_file
        with httpx.Client(
            timeout=httpx.Timeout(limits.read_s, connect=limits.connect_s),
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
            headers={"accept-encoding": "identity"},
            event_hooks={"request": [lambda request: self._check_scheme(str(request.url))]},
            verify=ssl.create_default_context(cafile=ca_file) if ca_file is not None else True,
        ) as client:
            yield client

    def _check_scheme(self, url: str) -> None:
        """Content that anybody on the way can replace is taken by its hash only."""
        if not url.startswith("https://") and not self._asked.pinned:
            led = "" if url == self._url else f" leads to {url}, which"
            found = f"{led} is not https, so anybody on the way could put in something else"
            raise self._asked.wrong(found.strip(), "use https, or pin the content's sha256")


class _Again(Exception):
    """The server is not able to answer just now."""


class _Wanted:
    """A file on its way: what there is of it, over as many requests as it takes."""

    def __init__(self, asked: Asked, file: BinaryIO) -> None:
        self._asked = asked
        self._file = file
        self._began = asked.clock()
        self.have = 0
        self.tag: str | None = None

    def fetch(self, client: httpx.Client, url: str) -> None:
        """One request, for what is still missing where the server can tell it is the same file."""
        headers = {}
        if self.have and self.tag is not None:
            headers = {"range": f"bytes={self.have}-", "if-range": self.tag}
        with client.stream("GET", url, headers=headers) as answer:
            self._check(answer)
            if answer.status_code != 206:
                self._anew()
            self.tag = _tag(answer)
            self._read(answer)

    def _check(self, answer: httpx.Response) -> None:
        status = answer.status_code
        if status in AGAIN:
            raise _Again(f"the server answers {status}")
        if status == 206 and not answer.headers.get("content-range", "").startswith(
            f"bytes {self.have}-"
        ):
            self._anew()
            raise _Again("the server sent another part than was asked for")
        if status not in (200, 206):
            raise self._asked.wrong(f"the server answers {status}", _mend(status))

    def _anew(self) -> None:
        self.have = 0
        self.tag = None
        self._file.seek(0)
        self._file.truncate()

    def _read(self, answer: httpx.Response) -> None:
        length = answer.headers.get("content-length", "")
        total = self.have + int(length) if length.isdecimal() else None
        self._check_size(total or 0)
        for piece in answer.iter_raw():
            self._check_size(self.have + len(piece))
            self._file.write(piece)
            self.have += len(piece)
            self._asked.progress(self.have, total)
            if self._asked.clock() - self._began > self._asked.limits.total_s:
                raise self._too_slow(total)

    def _check_size(self, size: int) -> None:
        if size > self._asked.limits.fetched:
            raise self._asked.too_large(size)

    def _too_slow(self, total: int | None) -> SourceError:
        return self._asked.wrong(
            f"only {self.have} of {total or 'an unknown number of'} bytes have come in "
            f"{self._asked.limits.total_s:g} s",
            "fetch it by hand, and name the directory",
        )


def _tag(answer: httpx.Response) -> str | None:
    """The strong entity tag; a weak one may stand for other bytes."""
    tag = answer.headers.get("etag")
    return tag if isinstance(tag, str) and tag.startswith('"') else None


def _mend(status: int) -> str:
    if status in (401, 403):
        return "does it need a user and password in the URL, or has a signed URL run out?"
    return "is the URL right?"
