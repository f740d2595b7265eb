"""The agent: where no directory is shared, it puts a gateway's adapters onto vLLM's own machine.

    PUT    /v1/adapters/{digest}    the files are here afterwards: {"path": "/adapters/sha256-…"}
    GET    /v1/adapters             what is here
    DELETE /v1/adapters/{digest}    for an adapter that no vLLM server here can need any more
    GET    /health                  without a key

It asks one gateway, named when it starts, and keeps nothing whose hash is not the one asked for.
"""

import asyncio
import contextlib
import hashlib
import logging
import posixpath
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from tenacity import (
    AsyncRetrying,
    retry_if_exception_type,
    stop_after_attempt,
    wait_exponential,
    wait_random,
)

from gateway.adapters.lending import checked_key, has_key
from gateway.adapters.manifest import (
    Entry,
    File,
    NotOnShelf,
    ShelfError,
    directory_name,
    entry_of,
    is_digest,
)
from gateway.adapters.shelf import Shelf
from gateway.errors import ApiError, BadRequest, NotFound, SwitchboardError, Unauthorized

log = logging.getLogger("switchboard.agent")

T = TypeVar("T")

KEY = "SWITCHBOARD_AGENT_KEY"
ATTEMPTS = 3
MAX_MANIFEST = 2**20
MAX_ADAPTER = 20 * 2**30
"""Bytes; a manifest that lists more is no adapter's."""

TIMEOUT = httpx.Timeout(60.0, connect=10.0)
ENSURE_S = 900.0
"""How long the gateway waits for an agent; what is under way then goes on, and is joined later."""


class PullFailed(ApiError):
    """The gateway did not give what it was asked for."""

    status = 502
    type = "upstream_error"


class NoRoom(ApiError):
    """The adapter cannot be kept on this machine's disk."""

    status = 507
    type = "server_error"


class AgentError(SwitchboardError):
    """An agent does not do what it is asked; the text names it."""


class Agent:
    """Pulls adapters from one gateway onto one shelf, each at most once at a time."""

    def __init__(
        self,
        shelf: Shelf,
        gateway: str,
        key: str,
        http: httpx.AsyncClient,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`gateway` is its base URL. Raises ValueError for a key that can be guessed."""
        self._shelf = shelf
        self._url = f"{gateway.rstrip('/')}/internal/adapters"
        self._key = checked_key(key, KEY)
        self._headers = {"authorization": f"Bearer {key}", "accept-encoding": "identity"}
        self._http = http
        self._sleep = sleep
        self._pulling: dict[str, asyncio.Task[Entry]] = {}

    # ------------------------------------------------------------ what it is asked

    def app(self) -> Starlette:
        """The agent's server."""
        return Starlette(
            routes=[
                Route("/health", _health),
                Route("/v1/adapters", self._keyed(self._list)),
                Route("/v1/adapters/{digest}", self._keyed(self._put), methods=["PUT"]),
                Route("/v1/adapters/{digest}", self._keyed(self._delete), methods=["DELETE"]),
            ],
            exception_handlers={ApiError: _api_error, HTTPException: _http_error},
        )

    async def stop(self) -> None:
        """Gives up what is under way."""
        tasks = list(self._pulling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _keyed(
        self, handler: Callable[[Request], Awaitable[Response]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def checked(request: Request) -> Response:
            if not has_key(request.headers.get("authorization"), self._key):
                raise Unauthorized("The agent needs its key.", code="wrong_agent_key")
            return await handler(request)

        return checked

    async def _put(self, request: Request) -> Response:
        try:
            entry = await self.ensure(_digest_in(request))
        except OSError as error:
            raise NoRoom(f"{self._shelf.root} cannot be written: {error}.") from error
        return JSONResponse({"digest": entry.digest, "path": self.path(entry.digest)})

    async def _list(self, request: Request) -> Response:
        return JSONResponse(await asyncio.to_thread(self._listed))

    async def _delete(self, request: Request) -> Response:
        digest = _digest_in(request)
        try:
            await asyncio.to_thread(self._shelf.remove, digest)
        except NotOnShelf as error:
            raise NotFound(str(error), code="adapter_not_found") from error
        log.info("removed sha256:%s", digest)
        return JSONResponse({"digest": digest, "removed": True})

    def path(self, digest: str) -> str:
        """Where an adapter lies, as vLLM is to be told."""
        return str(self._shelf.root / directory_name(digest))

    def _listed(self) -> dict[str, Any]:
        adapters = []
        for digest in self._shelf.digests():
            found: dict[str, Any] = {"digest": digest, "path": self.path(digest)}
            try:
                found["size"] = self._shelf.entry(digest).size
            except ShelfError as error:
                found["problem"] = str(error)
            adapters.append(found)
        return {"adapters": adapters, "free": self._free()}

    def _free(self) -> int:
        """Bytes left on the disk."""
        self._shelf.root.mkdir(parents=True, exist_ok=True)
        return shutil.disk_usage(self._shelf.root).free

    # ------------------------------------------------------------ pulling

    async def ensure(self, digest: str) -> Entry:
        """The adapter, on the shelf; several who ask at once wait for one pull.

        Who goes away ends nothing. Raises PullFailed, NotFound, NoRoom and OSError.
        """
        task = self._pulling.get(digest)
        if task is None:
            task = self._pulling[digest] = asyncio.create_task(self._there(digest))
            task.add_done_callback(lambda done: self._pulled(digest, done))
        return await asyncio.shield(task)

    def _pulled(self, digest: str, task: asyncio.Task[Entry]) -> None:
        del self._pulling[digest]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("sha256:%s: %s", digest, error)

    async def _there(self, digest: str) -> Entry:
        try:
            return await asyncio.to_thread(self._shelf.touch, digest)
        except NotOnShelf:
            log.info("pulling sha256:%s", digest)
        except ShelfError as error:
            log.warning("%s: pulling it again", error)
        with self._shelf.staging() as staged:
            entry = await self._manifest(digest)
            free = await asyncio.to_thread(self._free)
            if entry.size > min(free, MAX_ADAPTER):
                raise NoRoom(
                    f"sha256:{digest} has {entry.size} bytes, and {self._shelf.root} has room for "
                    f"{min(free, MAX_ADAPTER)}."
                )
            for file in entry.files:
                await self._tried(self._file, digest, file, staged / file.name)
            kept = await asyncio.to_thread(self._shelf.put, staged, move=True, expected=digest)
        log.info("pulled sha256:%s, %d bytes", digest, kept.size)
        return kept

    async def _manifest(self, digest: str) -> Entry:
        raw = await self._tried(self._raw_manifest, digest)
        try:
            return entry_of(raw, digest)
        except ShelfError as error:
            raise PullFailed(f"{self._url}: {error}", code="tampered") from error

    async def _raw_manifest(self, digest: str) -> bytes:
        async with self._asked(f"{digest}/manifest") as answer:
            raw = b""
            async for piece in answer.aiter_raw():
                raw += piece
                if len(raw) > MAX_MANIFEST:
                    raise PullFailed(f"{self._url}: a manifest of over {MAX_MANIFEST} bytes")
            return raw

    async def _file(self, digest: str, file: File, target: Path) -> None:
        """One file, or nothing if it is not what the manifest says."""
        found, size = hashlib.sha256(), 0
        async with self._asked(f"{digest}/files/{file.name}") as answer:
            with target.open("wb") as sink:
                async for piece in answer.aiter_raw():
                    size += len(piece)
                    if size > file.size:
                        break
                    found.update(piece)
                    sink.write(piece)
        if size != file.size or found.hexdigest() != file.sha256:
            raise PullFailed(
                f"{self._url}/{digest}/files/{file.name}: what came is not what has this digest; "
                f"nothing was kept.",
                code="tampered",
            )

    @contextlib.asynccontextmanager
    async def _asked(self, path: str) -> AsyncIterator[httpx.Response]:
        url = f"{self._url}/{path}"
        request = self._http.stream("GET", url, headers=self._headers, timeout=TIMEOUT)
        async with request as answer:
            if answer.status_code >= 500:
                raise _Again(f"{url} answers {answer.status_code}")
            if answer.status_code == 404:
                raise NotFound(
                    f"The gateway at {self._url} does not have it. Is SWITCHBOARD_AGENT_KEY set "
                    f"there too?",
                    code="adapter_not_found",
                )
            if answer.status_code in (401, 403):
                raise PullFailed(
                    f"The gateway at {self._url} refuses this agent's key: {KEY} must be the same "
                    f"here and there.",
                    code="wrong_agent_key",
                )
            if answer.status_code != 200:
                raise PullFailed(f"{url} answers {answer.status_code}.")
            yield answer

    async def _tried(self, ask: Callable[..., Awaitable[Any]], *arguments: Any) -> Any:
        """Asks until it is answered, a few times. Raises PullFailed."""
        tries = AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_exponential(multiplier=0.2, max=5) + wait_random(0, 0.2),
            retry=retry_if_exception_type((httpx.TransportError, _Again)),
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return await tries(ask, *arguments)
        except (httpx.TransportError, _Again) as error:
            said = str(error) or type(error).__name__
            raise PullFailed(
                f"The gateway at {self._url} gives no answer: {said}.", code="gateway_away"
            ) from error


class _Again(Exception):
    """The gateway is not able to answer just now."""


def _digest_in(request: Request) -> str:
    digest = str(request.path_params["digest"])
    if not is_digest(digest):
        raise BadRequest(
            f"{digest[:80]!r} is no digest: it is 64 hexadecimal digits in lower case.",
            param="digest",
            code="bad_digest",
        )
    return digest


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    made = ApiError(error.detail, status=error.status_code, type="invalid_request_error")
    return JSONResponse(made.body(), error.status_code, headers=error.headers)


# ---------------------------------------------------------------- the gateway's end


class _Path(msgspec.Struct):
    path: str


class _Here(msgspec.Struct):
    digest: str
    problem: str | None = None


class _List(msgspec.Struct):
    adapters: list[_Here]


class AgentClient:
    """One agent, as the gateway speaks to it. Every method raises AgentError."""

    def __init__(self, url: str, key: str, http: httpx.AsyncClient) -> None:
        self.url = url.rstrip("/")
        self._headers = {"authorization": f"Bearer {key}"}
        self._http = http

    async def ensure(self, digest: str, *, timeout_s: float = ENSURE_S) -> str:
        """The adapter's path on the agent's machine, once its files are there."""
        answer = await self._ask("PUT", f"/{digest}", timeout_s)
        path = self._read(answer, _Path).path
        if posixpath.basename(path) != directory_name(digest) or not path.startswith("/"):
            raise AgentError(f"{self.url}: says that sha256:{digest} lies at {path!r}")
        return path

    async def present(self, *, timeout_s: float = 30.0) -> frozenset[str]:
        """The digests of all that is whole on the agent's machine."""
        found = self._read(await self._ask("GET", "", timeout_s), _List)
        return frozenset(each.digest for each in found.adapters if each.problem is None)

    async def remove(self, digest: str, *, timeout_s: float = 30.0) -> bool:
        """Removes an adapter that no vLLM server there can need; false if it was not there."""
        answer = await self._ask("DELETE", f"/{digest}", timeout_s, also=404)
        return answer.status_code != 404

    async def _ask(
        self, method: str, path: str, timeout_s: float, *, also: int = 200
    ) -> httpx.Response:
        url = f"{self.url}/v1/adapters{path}"
        timeout = httpx.Timeout(timeout_s, connect=10.0)
        try:
            answer = await self._http.request(method, url, headers=self._headers, timeout=timeout)
        except httpx.HTTPError as error:
            said = f"{type(error).__name__}: {error}"
            raise AgentError(
                f"{self.url}: cannot be reached: {said}; is the agent running there?"
            ) from error
        if answer.is_success or answer.status_code == also:
            return answer
        raise AgentError(f"{self.url}: {answer.status_code}: {_message(answer)}")

    def _read(self, answer: httpx.Response, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except msgspec.DecodeError as error:
            raise AgentError(
                f"{self.url}: answers what no agent does: {error}; is this its address?"
            ) from error


class _Message(msgspec.Struct):
    message: str


class _Error(msgspec.Struct):
    error: _Message


def _message(answer: httpx.Response) -> str:
    try:
        return msgspec.json.decode(answer.content, type=_Error).error.message
    except msgspec.DecodeError:
        return answer.text[:300]
