"""`switchboard serve` as a process: what it says, what it keeps, what it follows, how it ends."""

import asyncio
import os
import re
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from gateway.serving import safe_host
from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.store.reader import Reader
from gateway.store.revisions import Revisions
from gateway.store.store import Store
from tests.gateway.files import ROUTE, SWITCHBOARD, write


class Running:
    """A gateway's process, and what it has printed so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.printed = ""

    async def says(self, pattern: str) -> str:
        """The first group of the first line that fits, once it is printed."""
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            while (found := re.search(pattern, self.printed)) is None:
                line = await self.process.stderr.readline()
                assert line, f"it ended: {self.printed}"
                self.printed += line.decode()
        return found.group(1)


@asynccontextmanager
async def serving(home: Path, *more: str) -> AsyncIterator[Running]:
    store = f"sqlite:///{home}/switchboard.db"
    process = await asyncio.create_subprocess_exec(
        *(SWITCHBOARD, "serve", "--config", str(home), "--listen", "127.0.0.1:0", *more),
        stderr=PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "SWITCHBOARD_STORE": store},
    )
    try:
        yield Running(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def chat(url: str, model: str = "auto") -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello there"}]}
    async with httpx.AsyncClient(base_url=url, timeout=20) as client:
        return await client.post("/v1/chat/completions", json=body)


async def test_it_serves_keeps_a_revision_and_loses_no_row_at_a_normal_end(tmp_path: Path) -> None:
    async with StandIn() as provider:
        write(tmp_path, provider.url)
        async with serving(tmp_path) as running:
            url = await running.says(r"serves (http://\S+)")
            answers = await asyncio.gather(*(chat(url) for _ in range(20)))
            running.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(running.process.wait(), 20)
    assert {answer.status_code for answer in answers} == {200}
    store = Store.open(f"sqlite:///{tmp_path}/switchboard.db")
    kept = {row["id"] for row in Reader(store).recent(limit=100)}
    revision = Revisions(store).latest()
    store.close()
    assert kept == {answer.headers["x-request-id"] for answer in answers}
    assert revision is not None
    assert "gateway.yaml" in revision.files
    assert "there is no key yet" in running.printed


async def test_it_follows_its_files_and_serves_on_when_they_are_wrong(tmp_path: Path) -> None:
    async with StandIn() as provider:
        write(tmp_path, provider.url)
        async with serving(tmp_path, "--watch") as running:
            url = await running.says(r"serves (http://\S+)")
            assert (await chat(url, "legal")).status_code == 404
            (tmp_path / "routes/legal.yaml").write_text(ROUTE.format(name="legal"))
            await running.says(r"serving snapshot (\w+)")
            assert (await chat(url, "legal")).status_code == 200
            (tmp_path / "routes/legal.yaml").write_text("name: legal\nvalue: lots\n")
            await running.says(r"(the old ones serve on)")
            assert (await chat(url, "legal")).status_code == 200
            async with httpx.AsyncClient() as client:
                detail = (await client.get(f"{url}/ready")).json()
    assert "legal.yaml" in detail["configuration_error"]


async def test_a_wrong_configuration_is_refused_with_its_place(tmp_path: Path) -> None:
    write(tmp_path, "http://127.0.0.1:9/v1")
    (tmp_path / "routes/general.yaml").write_text(
        ROUTE.format(name="general").replace("openai/mini", "openai/mni")
    )
    async with serving(tmp_path) as running:
        await running.says(r"general\.yaml:(\d+)[\s\S]*did you mean `openai/mini`")
        assert await asyncio.wait_for(running.process.wait(), 20) == 1


async def test_a_key_made_while_it_serves_counts(tmp_path: Path) -> None:
    async with StandIn() as provider:
        write(tmp_path, provider.url)
        async with serving(tmp_path) as running:
            url = await running.says(r"serves (http://\S+)")
            assert (await chat(url)).status_code == 200
            store = Store.open(f"sqlite:///{tmp_path}/switchboard.db")
            Keys(store).create("mine")
            store.close()
            async with asyncio.timeout(20):
                while (await chat(url)).status_code != 401:
                    pass


@pytest.mark.parametrize(
    ("host", "no_key_yet", "bound"),
    [
        ("0.0.0.0", True, "127.0.0.1"),
        ("10.0.0.1", True, "127.0.0.1"),
        ("gateway.example", True, "127.0.0.1"),
        ("::1", True, "::1"),
        ("localhost", True, "localhost"),
        ("0.0.0.0", False, "0.0.0.0"),
    ],
)
def test_without_a_key_only_this_machine_is_served(host: str, no_key_yet: bool, bound: str) -> None:
    said: list[str] = []
    assert safe_host(host, no_key_yet, said.append) == bound
    assert bool(said) == no_key_yet
