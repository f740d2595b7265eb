"""A gateway of several worker processes, before real servers."""

import asyncio
import os
import re
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.gateway.files import SWITCHBOARD


def shared(store: str, coordinator: str) -> str:
    """What several workers need besides, as lines of gateway.yaml."""
    return f"store: {store}\ncoordinator: {coordinator}\n"


def texts(home: Path) -> dict[str, Any]:
    """The body of an application of the files as they are."""
    files = home.rglob("*.yaml")
    return {"files": {str(path.relative_to(home)): path.read_text() for path in files}}


class Running:
    """The supervisor's process, and what it and its workers have printed so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.printed = ""
        self._more = asyncio.Event()
        self.reading = asyncio.create_task(self._read())
        self.url = ""
        self.token: str | None = None

    async def says(self, pattern: str) -> str:
        """The first group of the first line that fits, once it is printed."""
        async with asyncio.timeout(60):
            while (found := re.search(pattern, self.printed)) is None:
                assert not self.reading.done(), f"it ended: {self.printed}"
                self._more.clear()
                await self._more.wait()
        return found.group(1)

    async def _read(self) -> None:
        """Always: who writes to a pipe that nobody reads stands still once it is full."""
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.printed += line.decode()
            self._more.set()
        self._more.set()

    def client(self) -> httpx.AsyncClient:
        """A client of its own connections, so of whichever worker takes them."""
        headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20)

    async def ready(self) -> Any:
        """The detail of `/ready`, of whichever worker is asked."""
        async with self.client() as client:
            return (await client.get("/ready")).json()

    async def pids(self) -> list[int]:
        """The workers' processes."""
        return [worker["pid"] for worker in (await self.ready())["workers"]]

    async def total(self, name: str) -> float:
        """The sum of a metric's samples on the page of all workers."""
        async with self.client() as client:
            page = (await client.get("/metrics")).text
        lines = [line for line in page.splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    async def ended(self) -> int:
        """Its exit code, once it has ended."""
        async with asyncio.timeout(60):
            await self.reading
            return await self.process.wait()


@asynccontextmanager
async def serving(home: Path, *more: str, workers: int = 2) -> AsyncIterator[Running]:
    """`switchboard serve --workers`, once all of them serve where it comes to that."""
    process = await asyncio.create_subprocess_exec(
        *(SWITCHBOARD, "serve", "--config", str(home), "--listen", "127.0.0.1:0"),
        *("--workers", str(workers), *more),
        stderr=PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    running = Running(process)
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        async with asyncio.timeout(60):
            await running.reading  # its workers have the pipe too, and end after it
            await process.wait()


async def chat(client: httpx.AsyncClient, **more: Any) -> httpx.Response:
    """One chat completion."""
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello there"}], **more}
    return await client.post("/v1/chat/completions", json=body)


def alive(pid: int) -> bool:
    """Whether the process is there, and no zombie."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
