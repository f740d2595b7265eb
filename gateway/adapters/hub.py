"""An adapter in a repository of the Hugging Face Hub, by huggingface_hub."""

import errno
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from gateway.adapters.asked import Asked, Fetched, library
from gateway.adapters.intake import hash_of
from gateway.adapters.manifest import is_taken

_REPOSITORY = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^/@]+))?(?:/(.+?))?/?")


class _Remote(NamedTuple):
    path: str
    size: int
    sha256: str | None


class Repository:
    """`hf://org/name[@revision][/subfolder]`; a `/` in the revision is written `%2F`."""

    def __init__(self, asked: Asked) -> None:
        written = _REPOSITORY.fullmatch(asked.source)
        if written is None or ".." in asked.source.split("/"):
            raise asked.wrong("names no repository", "write hf://org/name[@revision][/subfolder]")
        self._asked = asked
        self._repository = written[1]
        self._revision = unquote(written[2]) if written[2] else "main"
        self._folder = written[3] or ""
        self.name = f"{asked.source} at {asked.credentials.hf_endpoint or ''}"

    def mark(self) -> str | None:
        """The commit that the revision is at."""
        with self._opened() as api:
            return self._commit(api)

    def fetch(self, into: Path) -> Fetched:
        """The files of one commit, those in large file storage checked by their hashes."""
        with self._opened() as api:
            commit = self._commit(api)
            listed = api.list_repo_tree(self._repository, self._folder or None, revision=commit)
            files = sorted(_files(listed))
            total = sum(file.size for file in files)
            if total > self._asked.limits.fetched:
                raise self._asked.too_large(total)
            counted = self._counted(total)
            for file in files:
                self._download(file, commit, into, counted)
        return Fetched(into / self._folder, commit)

    def _commit(self, api: Any) -> str:
        return str(api.repo_info(self._repository, revision=self._revision).sha)

    def _download(self, file: _Remote, commit: str, into: Path, counted: type) -> None:
        hub = library(self._asked, "huggingface_hub")
        given = self._asked.credentials
        path = hub.hf_hub_download(
            self._repository,
            file.path,
            revision=commit,
            local_dir=into,
            endpoint=given.hf_endpoint,
            token=given.hf_token,
            tqdm_class=counted,
        )
        if file.sha256 is not None and hash_of(Path(path)) != file.sha256:
            raise self._asked.wrong(
                f"{file.path} is not what the repository says it is", "fetch it again"
            )

    def _counted(self, total: int) -> type:
        """A progress bar's class that shows nothing, tells how far it is, and holds the limit."""
        asked, done = self._asked, 0

        def update(count: float | None) -> None:
            nonlocal done
            done += int(count or 0)
            if done > asked.limits.fetched:
                raise asked.too_large(done)
            asked.progress(done, total)

        return _silent(library(asked, "tqdm").tqdm, update)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The Hub's API with our token; its errors as ours."""
        hub = library(self._asked, "huggingface_hub")
        errors = library(self._asked, "huggingface_hub.errors")
        given = self._asked.credentials
        try:
            yield hub.HfApi(endpoint=given.hf_endpoint, token=given.hf_token)
        except errors.GatedRepoError as error:
            raise self._asked.wrong(
                "the repository is gated", "ask for access to it, and set HF_TOKEN"
            ) from error
        except errors.RepositoryNotFoundError as error:
            raise self._asked.wrong(
                "there is no such repository, or it is private",
                "is its name right? For a private one set HF_TOKEN",
            ) from error
        except (errors.RevisionNotFoundError, errors.EntryNotFoundError) as error:
            raise self._asked.wrong(
                f"there is no such revision or folder: {_first_line(error)}",
                "write hf://org/name[@revision][/subfolder]",
            ) from error
        except errors.OfflineModeIsEnabled as error:
            raise self._asked.wrong("HF_HUB_OFFLINE is set", "unset it, or fetch it by hand") from (
                error
            )
        except Exception as error:
            if not _is_the_hubs(error):
                raise
            raise self._asked.wrong(
                f"cannot be read: {type(error).__name__}: {_first_line(error)}",
                "can the Hub be reached from here?",
            ) from error


def _is_the_hubs(error: Exception) -> bool:
    """Whether huggingface_hub or its HTTP client failed, and not we or the disk."""
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return False
    module = type(error).__module__.partition(".")[0]
    return isinstance(error, OSError) or module in ("httpx", "httpx2", "huggingface_hub")


def _files(listed: Any) -> Iterator[_Remote]:
    for each in listed:
        size = getattr(each, "size", None)
        if size is not None and is_taken(each.path.rpartition("/")[2]):
            yield _Remote(each.path, size, each.lfs.sha256 if each.lfs is not None else None)


def _silent(bar: Any, update: Callable[[float | None], None]) -> type:
    class Counted(bar):  # type: ignore[misc]
        def __init__(self, *args: Any, **named: Any) -> None:
            super().__init__(*args, **{**named, "disable": True})

        def update(self, n: float | None = 1) -> None:
            update(n)

    return Counted


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
