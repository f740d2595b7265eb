"""Swaps under load, watched from all sides: is any request lost, cut, or served by two snapshots?

Snapshot `k` has marks that show wherever it has a hand: the price of its targets, a parameter that
it sets in each body, the model's name upstream, and the key that its backends are asked with. What
else changes from one to the next: policies, the order of candidates, examples to learn from, a
backend and an adapter that come and go.
"""

import asyncio
import contextlib
import gc
import json
import os
import sqlite3
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import cycle
from pathlib import Path
from typing import TextIO

import msgspec

from gateway.errors import UpstreamError
from gateway.journey import Plane
from gateway.standin.behaviour import Asked, Behaviour
from gateway.standin.engine import Vllm
from gateway.standin.standin import INFERENCE, StandIn
from gateway.standin.wire import Seen
from gateway.transport.base import Origin, Reply
from gateway.transport.lean import LeanTransport
from gateway.types.backends import Adapter, Backend, Price, Shaping, Timeouts
from gateway.types.policies import Policy
from gateway.types.routes import Match
from gateway.types.snapshot import Snapshot
from tests.gateway.support import Served, route, serving, snapshot, target, with_adapters

PATIENT = Timeouts(connect=30, first_byte=60, between=60, total=600)
STREAMS = 30
"""Long streams that are open from the beginning."""
HASH = "swap-"
"""What the hashes of these snapshots begin with, and no others."""
CONTINUING = 4
"""Clients that continue responses."""
PAUSE_S = 0.01
"""Between two requests of one client, so that swaps get their turn too on a machine of one core."""
LATER = 10
"""Swaps after each of which one more begins: so many old planes are there to the end."""

CODE = ("fix this python function", "why does this crash", "write a unit test")
LAW = ("summarise this clause", "is the lessee liable", "review the contract")
ASKED = (
    {"model": "general", "messages": [{"role": "user", "content": "hello"}]},
    {"model": "auto", "messages": [{"role": "user", "content": "please fix the python function"}]},
    {"model": "general", "stream": True, "messages": [{"role": "user", "content": "hello"}]},
    {"model": "adapted", "messages": [{"role": "user", "content": "hello"}]},
    {"model": "adapted", "stream": True, "messages": [{"role": "user", "content": "hello"}]},
    {"model": "local/qwen+support@v1", "messages": [{"role": "user", "content": "hello"}]},
)
LONG = {"model": "long", "stream": True, "messages": [{"role": "user", "content": "go on"}]}


def price(k: int) -> Price:
    """Dollars per token of snapshot `k`'s targets."""
    return Price(input=(1000 + k) * 1e-9, cached_input=(1000 + k) * 1e-9, output=(7000 + k) * 1e-9)


def key(k: int) -> str:
    """The key of snapshot `k`'s backends: several in a row share it, and with it the backend."""
    return f"sk-{k // 3}"


def answer(asked: Asked) -> str:
    """The marks that the body carries, then a few words."""
    return f"{asked.body.get('seed')} {asked.body.get('model')} and nothing more to say"


class Providers(msgspec.Struct):
    """What is behind the gateway: a provider that stays, one that comes and goes, and a vLLM, with
    how that is declared, and its adapters."""

    stays: StandIn
    comes: StandIn
    vllm: StandIn
    declared: Backend = Backend("local", "vllm", ())
    adapters: tuple[Adapter, ...] = ()


def configured(k: int, providers: Providers) -> Snapshot:
    """Snapshot `k`."""
    marked = {"price": price(k), "shaping": Shaping(set={"seed": b"%d" % k})}
    there = k % 4 < 2
    urls = {"stays": providers.stays.url} | ({"comes": providers.comes.url} if there else {})
    targets = [
        target(f"{name}/{model}", url, served=served, **marked)
        for name, url in urls.items()
        for model, served in (("mini", f"mini-{k}"), ("slow", "slow"))
    ]
    base = target("local/qwen", providers.vllm.origin, internal=True, served="base", **marked)
    minis, slows = ([f"{name}/{model}" for name in urls] for model in ("mini", "slow"))
    minis, slows = (names[:: -1 if k % 8 < 4 else 1] for names in (minis, slows))
    routes = [
        route("general", *minis),
        route("code", *minis, match=Match(examples=CODE if k % 50 < 25 else CODE[:2])),
        route("law", *minis, match=Match(examples=LAW)),
        route("long", *slows),
        route("adapted", "local/qwen+support", "local/qwen"),
    ]
    explore = 0.1 if k % 2 else 0.0
    plain = snapshot(
        [*targets, base],
        routes,
        keys={name: key(k) for name in urls},
        hash=f"{HASH}{k}",
        policies={"quality": Policy("quality", explore=explore, tries=3 + k % 2)},
    )
    backends = {
        name: msgspec.structs.replace(backend, timeouts=PATIENT, replica_hour=1.0 + k // 5)
        for name, backend in {**plain.backends, "local": providers.declared}.items()
    }
    plain = msgspec.structs.replace(plain, backends=backends)
    adapters = tuple(
        msgspec.structs.replace(each, versions=each.versions[: 1 + k // 15 % 2])
        for each in (providers.adapters if k // 10 % 2 else providers.adapters[:1])
    )
    for each in adapters:
        meant: dict[str, str | None] = {each.target: None}
        meant |= {f"{each.target}@{version.name}": version.name for version in each.versions}
        targets += [
            msgspec.structs.replace(base, name=name, adapter=each.name, version=version)
            for name, version in meant.items()
        ]
    return msgspec.structs.replace(
        plain, adapters=adapters, targets={each.name: each for each in (*targets, base)}
    )


def _with_adapters(providers: Providers, folder: Path) -> Providers:
    """With two adapters of the vLLM's, their files written once."""
    base = target("local/qwen", providers.vllm.origin, internal=True, served="base")
    made = with_adapters(snapshot([base]), folder, support=["v1", "v2"], extra=["v1"])
    return msgspec.structs.replace(
        providers, adapters=made.adapters, declared=made.backends["local"]
    )


class Watch(deque[Seen]):
    """What a stand-in has seen, looked at once and forgotten: do body and key belong together?"""

    def __init__(self, wrong: list[str]) -> None:
        super().__init__(maxlen=1)
        self._wrong = wrong
        self.took = 0

    def append(self, seen: Seen) -> None:
        """Takes one request."""
        if seen.path not in INFERENCE:
            return
        self.took += 1
        body = json.loads(seen.body)
        k, asked = body["seed"], seen.headers.get("authorization")
        if asked is not None and asked != f"Bearer {key(k)}":
            self._wrong.append(f"the body of snapshot {k} came with {asked}")
        if body["model"].startswith("mini-") and body["model"] != f"mini-{k}":
            self._wrong.append(f"the body of snapshot {k} is for {body['model']}")


class Size(msgspec.Struct):
    """After `swaps` of them: bytes resident, and objects that the collector knows once it has been
    round, under load and with so many long streams open."""

    swaps: int
    streams: int
    rss: int
    objects: int


class Report(msgspec.Struct):
    """What came of it. `wrong` should be empty; `sizes` are after each quarter of the swaps."""

    swaps: int
    requests: int
    long_streams: int
    snapshots_seen: int
    wrong: list[str]
    swap_ms: float
    sizes: list[Size]
    planes_alive: int

    def grown(self) -> tuple[float, float]:
        """Bytes and objects by which it grew with each swap, between the first and the last size
        with equally many long streams open; infinite where no two are alike."""
        often, times = Counter(size.streams for size in self.sizes).most_common(1)[0]
        if times < 2:
            return float("inf"), float("inf")
        alike = [size for size in self.sizes if size.streams == often]
        swaps = alike[-1].swaps - alike[0].swaps
        first, last = alike[0], alike[-1]
        return (last.rss - first.rss) / swaps, (last.objects - first.objects) / swaps


class Client:
    """Asks the gateway and checks each answer; what it saw is written to a file, not kept."""

    def __init__(self, served: Served, told: TextIO, wrong: list[str]) -> None:
        self._forget = served.gateway._answers._made.clear
        self._origin = Origin.parse(f"http://127.0.0.1:{served.port}")
        self._transport = LeanTransport()
        self._told = told
        self._wrong = wrong
        self.count = 0
        self.long = 0

    async def ask(self, body: bytes, path: bytes = b"/v1/chat/completions") -> str | None:
        """One request, to its whole answer; the answer's own id."""
        try:
            reply, whole = await self._answered(body, path)
        except (UpstreamError, OSError) as error:
            self._wrong.append(f"{type(error).__name__}: {error}")
            return None
        self.count += 1
        said = _said(whole)
        if reply.status != 200 or said is None:
            self._wrong.append(f"{reply.status}: {whole[-300:].decode(errors='replace')}")
            return None
        k, model, *_ = said.split()
        if model.startswith("mini-") and model != f"mini-{k}":
            self._wrong.append(f"the answer of snapshot {k} is of {model}")
        id = next(value for name, value in reply.headers if name == b"x-request-id")
        self._told.write(f"{id.decode()} {k}\n")
        return str(json.loads(whole)["id"]) if whole.startswith(b"{") else None

    async def _answered(self, body: bytes, path: bytes) -> tuple[Reply, bytes]:
        head = ((b"content-type", b"application/json"),)
        reply = await self._transport.send(self._origin, b"POST", path, head, body, PATIENT)
        pieces = []
        while piece := await reply.read():
            pieces.append(piece)
        return reply, b"".join(pieces)

    async def go_on(self, stop: asyncio.Event, first: int) -> None:
        """One request after the other, of every kind."""
        bodies = cycle([json.dumps(each).encode() for each in (*ASKED[first:], *ASKED[:first])])
        while not stop.is_set():
            await self.ask(next(bodies))
            await asyncio.sleep(PAUSE_S)

    async def carry_on(self, stop: asyncio.Event) -> None:
        """Responses that continue one: between a request's beginning and its decision the store is
        asked where that was made, and many a swap falls in between."""
        path = b"/v1/responses"
        first = await self.ask(json.dumps({"model": "stays/mini", "input": "hello"}).encode(), path)
        # What is stored is the stand-in's, in this process: nothing goes on with these.
        more = {"model": "auto", "input": "hello", "previous_response_id": first, "store": False}
        while not stop.is_set():
            self._forget()  # as of another worker's: it stands in the log alone
            await self.ask(json.dumps(more).encode(), path)
            await asyncio.sleep(PAUSE_S)

    async def stream(self) -> None:
        """A long one."""
        self.long += 1
        await self.ask(json.dumps(LONG).encode())

    async def close(self) -> None:
        """Closes its connections."""
        await self._transport.close()


def _said(body: bytes) -> str | None:
    """The text of a whole answer; None where it is none, or a stream without its proper end."""
    if body.startswith(b"{"):
        answer = json.loads(body)
        if "output" in answer:
            return str(answer["output"][0]["content"][0]["text"])
        choices = answer.get("choices")
        return str(choices[0]["message"]["content"]) if choices else None
    events = [line[6:] for line in body.split(b"\n") if line.startswith(b"data: ")]
    if not events or events[-1] != b"[DONE]":
        return None
    chunks = [json.loads(event) for event in events[:-1]]
    choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
    if not any(choice["finish_reason"] for choice in choices):
        return None
    return "".join(choice["delta"].get("content") or "" for choice in choices)


async def swapped(folder: Path, *, swaps: int, seconds: float, long_s: float = 30.0) -> Report:
    """So many swaps in about so many seconds, with load and streams of `long_s` seconds open."""
    wrong: list[str] = []
    async with _providers(wrong, long_s, folder) as providers:
        async with serving(configured(0, providers), folder) as served:
            await served.gateway.adapters_present()
            with (folder / "told.txt").open("w") as told:
                client = Client(served, told, wrong)
                report = await _under_load(served, client, providers, swaps, seconds)
                await client.close()
        report.wrong = wrong + list(_wrong_rows(folder, client.count))
        report.snapshots_seen = len({line.split()[1] for line in _lines(folder)})
    return report


async def _under_load(
    served: Served,
    client: Client,
    providers: Providers,
    swaps: int,
    seconds: float,
) -> Report:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    began, spent = loop.time(), 0.0
    sizes = []
    streams = [asyncio.create_task(client.stream()) for _ in range(STREAMS)]
    load = [asyncio.create_task(client.go_on(stop, n)) for n in range(len(ASKED))]
    load += [asyncio.create_task(client.carry_on(stop)) for _ in range(CONTINUING)]
    for k in range(1, swaps + 1):
        new = configured(k, providers)
        at = loop.time()
        await served.gateway.swap(new)
        spent += loop.time() - at
        if k <= LATER:
            streams.append(asyncio.create_task(client.stream()))
        if k % (swaps // 4) == 0:
            sizes.append(size(k, sum(not each.done() for each in streams)))
        await asyncio.sleep(max(0.0, began + seconds * k / swaps - loop.time()))
    stop.set()
    await asyncio.gather(*load, *streams)
    streams.clear()
    load.clear()
    await asyncio.to_thread(served.gateway.writer.flush)
    gc.collect()
    planes = (each for each in gc.get_objects() if isinstance(each, Plane))
    alive = sum(each.snapshot.hash.startswith(HASH) for each in planes)
    return Report(
        swaps=swaps,
        requests=client.count,
        long_streams=client.long,
        snapshots_seen=0,
        wrong=[],
        swap_ms=1e3 * spent / swaps,
        sizes=sizes,
        planes_alive=alive,
    )


@asynccontextmanager
async def _providers(wrong: list[str], long_s: float, folder: Path) -> AsyncIterator[Providers]:
    """The stand-ins; a long answer has so many words that it takes `long_s` seconds."""
    words = 10
    quick = Behaviour(answer=answer)
    slow = Behaviour(
        answer=answer, output_tokens=words, between_tokens_s=long_s / (words - 1), head_first=True
    )
    models = {"slow": slow, "*": quick}
    async with (
        StandIn(models) as stays,
        StandIn(models) as comes,
        StandIn(quick, vllm=Vllm()) as vllm,
    ):
        for each in (stays, comes, vllm):
            each.seen = Watch(wrong)
        yield _with_adapters(Providers(stays, comes, vllm), folder)


def _lines(folder: Path) -> list[str]:
    return (folder / "told.txt").read_text().splitlines()


def _wrong_rows(folder: Path, requests: int) -> Iterator[str]:
    """Of the store's rows those that do not fit the snapshot that the answer was of."""
    told = dict(line.split() for line in _lines(folder))
    with contextlib.closing(sqlite3.connect(folder / "switchboard.db")) as store:
        rows = store.execute(
            "SELECT id, snapshot, target, outcome, input_tokens, output_tokens, cost_usd,"
            " (SELECT count(*) FROM attempts WHERE request_id = id) FROM requests"
        ).fetchall()
    if len(rows) != requests:
        yield f"{requests} requests left {len(rows)} rows"
    for id, snapshot_hash, named, outcome, read, written, cost, attempts in rows:
        k = int(told.get(id, -1))
        due = read * price(k).input + written * price(k).output
        found = f"{snapshot_hash} {outcome}, attempts: {attempts}"
        if found != f"{HASH}{k} ok, attempts: 1" or abs(cost - due) > 1e-12:
            yield f"{id} of {named}, answered by {HASH}{k}: {found}, {cost - due} dollars off"


def size(swaps: int, streams: int) -> Size:
    """What it is now."""
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return Size(swaps, streams, pages * os.sysconf("SC_PAGE_SIZE"), len(gc.get_objects()))
