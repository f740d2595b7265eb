"""An adapter below a prefix of an S3 bucket, by s3fs."""

import errno
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from gateway.adapters.asked import Asked, Fetched, library
from gateway.adapters.manifest import is_taken


class _Object(NamedTuple):
    key: str
    size: int
    tag: str

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]


class Bucket:
    """`s3://bucket/prefix`: the adapter files right below the prefix."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._path = asked.source.removeprefix("s3://").rstrip("/")
        self.name = f"{asked.source} at {asked.credentials.s3_endpoint or ''}"
        if not self._path.partition("/")[0]:
            raise asked.wrong("names no bucket", "write s3://bucket/prefix")

    def mark(self) -> str | None:
        """Of the objects' names, sizes and entity tags."""
        with self._opened() as files:
            return _mark_of(self._listed(files))

    def fetch(self, into: Path) -> Fetched:
        """Each object, if none of them changes meanwhile."""
        with self._opened() as files:
            objects = self._listed(files)
            total = sum(each.size for each in objects)
            if total > self._asked.limits.fetched:
                raise self._asked.too_large(total)
            counted = self._counted(total)
            for each in objects:
                files.get_file(each.key, str(into / each.name), callback=counted)
            if self._listed(files) != objects:
                raise self._asked.wrong(
                    "was changed while it was fetched",
                    "upload each version under a prefix of its own; fetch it again",
                )
            return Fetched(into, _mark_of(objects))

    def _counted(self, total: int) -> Any:
        """What s3fs tells how far it is; it holds the limit."""
        asked, done = self._asked, 0

        def count(size: int) -> None:
            nonlocal done
            done += size
            if done > asked.limits.fetched:
                raise asked.too_large(done)
            asked.progress(done, total)

        return _callback(library(asked, "fsspec.callbacks").Callback, count)

    def _listed(self, files: Any) -> list[_Object]:
        found = files.ls(self._path, detail=True, refresh=True)
        objects = (
            _Object(each["name"], each["size"], each.get("ETag", ""))
            for each in found
            if each["type"] == "file" and each["name"] != self._path
        )
        return sorted(each for each in objects if is_taken(each.name))

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """s3fs with our credentials, closed afterwards; its errors as ours."""
        s3fs = library(self._asked, "s3fs")
        botocore = library(self._asked, "botocore.exceptions")
        given, limits = self._asked.credentials, self._asked.limits
        files = s3fs.S3FileSystem(
            anon=given.s3_anonymous,
            key=given.s3_key,
            secret=given.s3_secret,
            token=given.s3_session,
            endpoint_url=given.s3_endpoint,
            client_kwargs={"verify": str(given.ca_file)} if given.ca_file is not None else {},
            config_kwargs={
                "connect_timeout": limits.connect_s,
                "read_timeout": limits.read_s,
                "retries": {"max_attempts": limits.attempts, "mode": "standard"},
            },
            max_concurrency=1,  # only then does it go on where a connection broke off
            skip_instance_cache=True,
            use_listings_cache=False,
        )
        try:
            yield files
        except FileNotFoundError as error:
            raise self._asked.wrong(
                "there is nothing there", "are the bucket's name and the prefix right?"
            ) from error
        except PermissionError as error:
            raise self._asked.wrong(
                f"the bucket refuses us: {error}", "may these credentials list and read it?"
            ) from error
        except botocore.NoCredentialsError as error:
            raise self._asked.wrong(
                "there are no credentials", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            ) from error
        except (botocore.BotoCoreError, botocore.ClientError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.ENOSPC:
                raise
            raise self._asked.wrong(
                f"cannot be read: {type(error).__name__}: {error}",
                "are the endpoint and the region right, and can it be reached from here?",
            ) from error
        finally:
            s3fs.S3FileSystem.close_session(files.loop, files._s3)


def _callback(kind: Any, count: Callable[[int], None]) -> Any:
    class Counted(kind):  # type: ignore[misc]
        def relative_update(self, inc: int = 1) -> None:
            count(inc)

    return Counted()


def _mark_of(objects: list[_Object]) -> str:
    listed = "\n".join(f"{each.key} {each.size} {each.tag}" for each in objects)
    return hashlib.sha256(listed.encode()).hexdigest()
