"""The load of every benchmark: raw HTTP/1.1 over asyncio, on another core than what it measures."""

import argparse
import asyncio
import ctypes
import json
import os
import random
import struct
import sys
import time
from collections import deque
from collections.abc import Iterator

import uvloop

WORDS = """
refund invoice parcel late broken lamp contract clause lessee summarise translate please
order payment customer urgent meeting python function error deploy database review draft
email polite answer question city ship address weather hotel price delivery account login
""".split()


def prompts(seed: int) -> Iterator[str]:
    """Texts of 8 to 40 words, no two alike."""
    rng = random.Random(seed)
    number = 0
    while True:
        number += 1
        words = [rng.choice(WORDS) for _ in range(rng.randint(7, 39))]
        yield f"{' '.join(words)} {number}"


def request(model: str, text: str, headers: str, stream: bool) -> bytes:
    """One chat completion as a client's SDK would send it."""
    body = {
        "model": model,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": text},
        ],
        "temperature": 0.2,
        "max_tokens": 100,
        "stream": stream,
    }
    raw = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n"
        f"content-type: application/json\r\n{headers}content-length: {len(raw)}\r\n\r\n"
    )
    return head.encode() + raw


class Client(asyncio.Protocol):
    """One kept-alive connection; `done` resolves at the end of each answer."""

    def __init__(self) -> None:
        self.tail = b""
        self.need = -1
        self.chunked = False
        self.done: asyncio.Future[int] | None = None
        self.transport: asyncio.Transport | None = None
        self.status = 0
        self.arrivals = 0
        self.first: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(ConnectionError("closed before the answer's end"))

    def data_received(self, data: bytes) -> None:
        if self.need < 0 and not self.chunked:
            data = self.tail + data
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self.tail = data
                return
            self.tail = b""
            self.read_head(data[:end].lower())
            data = data[end + 4 :]
        self.read_body(data)

    def read_head(self, head: bytes) -> None:
        self.status = int(head[9:12])
        at = head.find(b"content-length:")
        if at >= 0:
            self.need = int(head[at + 15 :].split(b"\r\n", 1)[0])
        else:
            self.chunked = True

    def read_body(self, data: bytes) -> None:
        if self.chunked:
            self.arrivals += data.count(b"data: {")
            if data and self.first is not None and not self.first.done():
                self.first.set_result(None)
            self.tail = (self.tail + data)[-7:]
            ended = self.tail.endswith(b"\r\n0\r\n\r\n")
        else:
            self.need -= len(data)
            ended = self.need == 0
        if ended and self.done is not None:
            self.tail, self.need, self.chunked = b"", -1, False
            self.done.set_result(self.status)

    async def ask(self, raw: bytes) -> int:
        """Sends one request and waits for the whole answer; its status."""
        assert self.transport is not None
        self.done = asyncio.get_running_loop().create_future()
        self.transport.write(raw)
        return await self.done


async def connect(port: int) -> Client:
    """A new connection to the system under test."""
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(Client, "127.0.0.1", port)
    return client


async def closed_loop(
    port: int, model: str, headers: str, seconds: float, connections: int, distinct: bool
) -> dict[str, float]:
    """As many requests as the system takes, each connection asking again when answered."""
    clients = [await connect(port) for _ in range(connections)]
    texts = prompts(1)
    same = request(model, next(texts), headers, False)
    until = time.perf_counter() + seconds
    answered = failed = 0

    async def worker(client: Client) -> None:
        nonlocal answered, failed
        while time.perf_counter() < until:
            raw = request(model, next(texts), headers, False) if distinct else same
            if await client.ask(raw) == 200:
                answered += 1
            else:
                failed += 1

    began = time.perf_counter()
    await asyncio.gather(*(worker(client) for client in clients))
    elapsed = time.perf_counter() - began
    return {"requests": answered, "failed": failed, "rate": answered / elapsed}


class Metronome:
    """Ticks from the kernel's timer: the event loop's own is a millisecond coarse, which would send
    requests in bunches that wait for each other."""

    def __init__(self, interval_s: float) -> None:
        self._interval = interval_s
        self._ticked = asyncio.Event()
        self._due = 0
        self._timer = -1

    async def __aenter__(self) -> "Metronome":
        libc = ctypes.CDLL(None, use_errno=True)
        self._timer = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK)
        seconds, nanoseconds = divmod(round(self._interval * 1e9), 10**9)
        every = struct.pack("@llll", seconds, nanoseconds, seconds, nanoseconds)
        if self._timer < 0 or libc.timerfd_settime(self._timer, 0, every, None) < 0:
            raise OSError(ctypes.get_errno(), "the kernel gives no timer")
        asyncio.get_running_loop().add_reader(self._timer, self._tick)
        return self

    async def __aexit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._timer)
        os.close(self._timer)

    async def ticks(self) -> int:
        """How many intervals have passed since the last call, at least one."""
        await self._ticked.wait()
        self._ticked.clear()
        due, self._due = self._due, 0
        return due

    def _tick(self) -> None:
        self._due += int.from_bytes(os.read(self._timer, 8), sys.byteorder)
        self._ticked.set()


async def open_loop(
    port: int,
    model: str,
    headers: str,
    rate: float,
    seconds: float,
    distinct: bool,
    spread: int = 0,
) -> dict[str, float]:
    """Requests at a fixed rate, whatever the answers do; latencies in milliseconds.

    They go over the fewest connections that do, or with `spread` over so many in turn, as those of
    many clients do: of workers that share a port each has some of them.
    """
    idle = deque([await connect(port) for _ in range(spread)])
    took: list[float] = []
    texts = prompts(2)
    same = request(model, next(texts), headers, False)
    failed = 0

    async def one(sent: float) -> None:
        nonlocal failed
        client = (idle.popleft() if spread else idle.pop()) if idle else await connect(port)
        raw = request(model, next(texts), headers, False) if distinct else same
        if await client.ask(raw) != 200:
            failed += 1
        took.append(time.perf_counter() - sent)
        idle.append(client)

    tasks: list[asyncio.Task[None]] = []
    async with Metronome(1 / rate) as metronome:
        while len(tasks) < rate * seconds:
            for _ in range(await metronome.ticks()):
                tasks.append(asyncio.create_task(one(time.perf_counter())))
    await asyncio.gather(*tasks)
    took.sort()
    return {
        "requests": len(took),
        "failed": failed,
        "p50_ms": took[len(took) // 2] * 1e3,
        "p99_ms": took[int(len(took) * 0.99)] * 1e3,
    }


async def streams(port: int, model: str, headers: str, count: int, rounds: int) -> dict[str, float]:
    """`count` streams at a time, `rounds` times; the number of events that arrived."""
    clients = [await connect(port) for _ in range(count)]
    texts = prompts(3)
    statuses: list[int] = []
    for _ in range(rounds):
        raw = request(model, next(texts), headers, True)
        statuses += await asyncio.gather(*(client.ask(raw) for client in clients))
    return {
        "requests": sum(status == 200 for status in statuses),
        "failed": sum(status != 200 for status in statuses),
        "chunks": sum(client.arrivals for client in clients),
    }


def main() -> None:
    """The load as a process of its own; prints one line of JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["closed", "open", "streams"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--header", action="append", default=[], help="sent with each request")
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spread", type=int, default=0, help="connections used in turn")
    parser.add_argument("--distinct", action="store_true")
    o = parser.parse_args()
    headers = "".join(f"{line}\r\n" for line in o.header)
    if o.kind == "closed":
        job = closed_loop(o.port, o.model, headers, o.seconds, o.connections, o.distinct)
    elif o.kind == "open":
        job = open_loop(o.port, o.model, headers, o.rate, o.seconds, o.distinct, o.spread)
    else:
        job = streams(o.port, o.model, headers, o.connections, o.rounds)
    print(json.dumps(uvloop.run(job)))


if __name__ == "__main__":
    main()
