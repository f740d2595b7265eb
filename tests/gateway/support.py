"""A whole gateway on a real socket, in front of stand-in providers on real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import msgspec

from gateway.app import Gateway
from gateway.revisions.opening import Home, open_home
from gateway.revisions.running import NOTICE_EVERY_S
from gateway.serving import listening
from gateway.store.keys import Keys
from gateway.store.store import Store
from gateway.types.backends import (
    Adapter,
    Backend,
    Capabilities,
    Price,
    Shaping,
    Target,
    Timeouts,
    Version,
)
from gateway.types.policies import Policy
from gateway.types.routes import Candidate, Match, Route
from gateway.types.snapshot import Server, Snapshot
from tests.adapters import lora

EVERYTHING = Capabilities(
    vision=True,
    audio=True,
    endpoints=frozenset({"chat/completions", "completions", "embeddings", "responses"}),
)
QUICK = Timeouts(connect=5, first_byte=5, between=5, total=20)


def target(name: str, url: str, **changes: Any) -> Target:
    """A target of an external backend at `url`; its model is called by the name's last part."""
    backend, _, model = name.partition("/")
    plain = Target(
        name=name,
        backend=backend,
        model=model,
        adapter=None,
        served=model,
        internal=False,
        price=Price(input=1e-6, cached_input=1e-7, output=4e-6),
        capabilities=EVERYTHING,
        shaping=Shaping(),
        replicas=(url,),
    )
    return msgspec.structs.replace(plain, **changes)


def route(name: str, *candidates: str, **changes: Any) -> Route:
    """A route whose candidates are better the earlier they stand."""
    plain = Route(
        name=name,
        description="",
        value=0.1,
        internal=False,
        match=Match(),
        candidates=tuple(Candidate(c, 0.99 - 0.1 * n) for n, c in enumerate(candidates)),
        policy="quality",
    )
    return msgspec.structs.replace(plain, **changes)


def snapshot(
    targets: list[Target],
    routes: list[Route] | None = None,
    *,
    keys: Mapping[str, str] | None = None,
    **changes: Any,
) -> Snapshot:
    """One snapshot; the first route is the default, `keys` are the backends'."""
    routes = routes or [route("general", *(t.name for t in targets))]
    backends = {
        t.backend: Backend(
            name=t.backend,
            kind="vllm" if t.internal else "openai",
            replicas=t.replicas,
            api_key=(keys or {}).get(t.backend),
            timeouts=QUICK,
        )
        for t in targets
    }
    plain = Snapshot(
        hash="snapshot-of-this-test",
        server=Server(),
        default_route=routes[0].name,
        aliases={},
        routes={r.name: r for r in routes},
        policies={"quality": Policy("quality")},
        targets={t.name: t for t in targets},
        backends=backends,
    )
    return msgspec.structs.replace(plain, **changes)


def with_adapters(
    plain: Snapshot, folder: Path, *, base: str = "local/qwen", **versions: list[str]
) -> Snapshot:
    """The snapshot with adapters of one model, of real files: by name, their versions' names."""
    on = plain.targets[base]
    made = []
    targets = dict(plain.targets)
    for seed, (name, names) in enumerate(versions.items()):
        written = []
        for n, version in enumerate(names):
            source = f"{name}-{version}" if version else name
            lora.write(folder / "sources" / source, lora.tensors(seed=100 * seed + n))
            written.append(Version(version, source=source))
            of_version = f"{base}+{name}@{version}" if version else f"{base}+{name}"
            for each, which in ((f"{base}+{name}", None), (of_version, version or None)):
                targets[each] = msgspec.structs.replace(
                    on, name=each, adapter=name, served=name, version=which
                )
        made.append(Adapter(on.backend, on.model, name, tuple(written), base_id="base"))
    backend = msgspec.structs.replace(
        plain.backends[on.backend],
        adapters_here=str(folder / "sources"),
        shelf_here=str(folder / "shelf"),
        shelf_on_replicas=str(folder / "shelf"),
    )
    return msgspec.structs.replace(
        plain,
        targets=targets,
        backends={**plain.backends, on.backend: backend},
        adapters=(*plain.adapters, *made),
    )


class Served(msgspec.Struct):
    """A gateway that listens, and a client of it."""

    gateway: Gateway
    port: int
    client: httpx.AsyncClient
    key: str | None

    @property
    def url(self) -> str:
        """The base URL that SDKs want."""
        return f"http://127.0.0.1:{self.port}/v1"

    async def chat(self, text: str = "hello", model: str = "auto", **more: Any) -> httpx.Response:
        """One chat completion."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        return await self.client.post("/v1/chat/completions", json=body)

    async def events(self, text: str = "hello", model: str = "auto", **more: Any) -> list[Any]:
        """A streamed chat completion's events, `[DONE]` as a string."""
        answer = await self.chat(text, model, stream=True, **more)
        assert answer.status_code == 200, answer.text
        return events_of(answer.content)

    async def decision(self, answer: httpx.Response) -> dict[str, Any]:
        """What the gateway kept of an answer; a busy machine's log may be late to tell."""
        id = answer.headers["x-switchboard-decision"]
        for _ in range(5):
            found = await self.client.get(f"/v1/decisions/{id}")
            if found.status_code != 503:
                break
        assert found.status_code == 200, found.text
        row: dict[str, Any] = found.json()
        return row


def events_of(body: bytes) -> list[Any]:
    """The data of each server-sent event."""
    data = [
        line.removeprefix(b"data: ") for line in body.split(b"\n") if line.startswith(b"data: ")
    ]
    return ["[DONE]" if item == b"[DONE]" else json.loads(item) for item in data]


def text_of(events: list[Any]) -> str:
    """The text that a chat's events bring."""
    return "".join(
        choice["delta"].get("content") or ""
        for event in events
        if isinstance(event, dict)
        for choice in event.get("choices", [])
    )


@asynccontextmanager
async def serving(
    configuration: Snapshot,
    folder: Path,
    *,
    key: bool = False,
    store: Store | None = None,
    **key_options: Any,
) -> AsyncIterator[Served]:
    """The gateway of a snapshot with a store in `folder`; with `key` it wants one."""
    store = store or Store.open(f"sqlite:///{folder}/switchboard.db")
    token: str | None = None
    gateway = Gateway(configuration, store)
    if key:
        token = Keys(store).create("test", **key_options).secret
    await gateway.start()
    async with listening(gateway, "127.0.0.1", 0, configuration.server) as port:
        async with serving_client(gateway, port, token) as served:
            yield served
    await gateway.stop()


@asynccontextmanager
async def serving_home(
    home: Path,
    key: str | None = None,
    env: Mapping[str, str] | None = None,
    *,
    look_every_s: float = NOTICE_EVERY_S,
) -> AsyncIterator[Served]:
    """The gateway of the files in `home`, with revisions; the store is there too, and asked for a
    new one that often."""
    where = Home(home, env or {})
    store, opening = open_home(where, f"sqlite:///{home}/switchboard.db")
    gateway = Gateway(opening.snapshot, store, home=where, opening=opening)
    gateway.running.look_every_s = look_every_s
    await gateway.start()
    async with listening(gateway, "127.0.0.1", 0, opening.snapshot.server) as port:
        async with serving_client(gateway, port, key) as served:
            yield served
    await gateway.stop()


@asynccontextmanager
async def answering(head: Sequence[bytes], body: bytes) -> AsyncIterator[str]:
    """The URL of a provider that answers every request with these lines and bytes."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(asked.lower().split(b"content-length:")[1].split(b"\r\n")[0]))
        lines = [b"HTTP/1.1 200 OK", *head, b"content-length: %d" % len(body), b"", b""]
        writer.write(b"\r\n".join(lines) + body)
        with suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


@asynccontextmanager
async def serving_client(gateway: Gateway, port: int, key: str | None) -> AsyncIterator[Served]:
    """A client of a gateway that listens."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    base = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=base, headers=headers, timeout=60) as client:
        yield Served(gateway, port, client, key)
