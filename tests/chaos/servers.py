"""The backends as processes that can be killed, held and started again on the same port."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import msgspec

from demo import vllm_server
from gateway.standin.ledger import Call, read
from tests.servers import free_port
from tests.vllm.support import ROOM

WORDS, CUTTING, BUSY = "words", "cutting", "busy"
"""The models of each provider: one that echoes, one that breaks off, one that is always busy."""

CUT_AFTER = 3
"""Tokens after which the model that breaks off does so."""

PACE = {"first_token_s": 0.01, "between_tokens_s": 0.008, "goes_on": True}
MODELS = {
    WORDS: PACE,
    CUTTING: PACE | {"fault": {"kind": "cut", "after": CUT_AFTER}},
    BUSY: {"goes_on": True, "fault": {"kind": "status", "status": 429}},
}


class Provider:
    """A stand-in's process. Its ledger lies beside its configuration and outlives it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.port = free_port()
        self.ledger = folder / f"{name}.ledger"
        self._config = folder / f"{name}.yaml"
        self._config.write_bytes(msgspec.yaml.encode({"models": MODELS, "lenient": True}))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The base URL of its API."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def launched(self) -> bool:
        """Whether there is a process."""
        return self._process is not None

    def launch(self) -> None:
        """Starts the process; `answers` tells when it serves."""
        command = [sys.executable, "-m", "gateway.standin", "--port", str(self.port)]
        command += ["--config", str(self._config), "--ledger", str(self.ledger)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def signal(self, number: signal.Signals) -> None:
        """Sends it a signal, as `kill -9` does; a killed one is waited for."""
        assert self._process is not None
        os.kill(self._process.pid, number)
        if number is signal.SIGKILL:
            self._process.wait()

    async def answers(self) -> bool:
        """Whether it serves now."""
        return await _answers(f"{self.url}/models")

    def entries(self) -> list[Call]:
        """What its ledger holds."""
        return read(self.ledger)

    def stop(self) -> None:
        """Ends it, however it is."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Replica:
    """A real vLLM with the tiny base, on one port."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.port = vllm_server.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._starts = 0
        self._server: vllm_server.Server | None = None

    @property
    def launched(self) -> bool:
        """Whether there is a process."""
        return self._server is not None

    def launch(self) -> None:
        """Starts the process; `answers` tells when it serves, half a minute later or more."""
        self._starts += 1
        log = self._folder / f"{self.name}.{self._starts}.log"
        self._server = vllm_server.launch(self.port, log_path=log, room=ROOM)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to all of its processes; after a kill none of them is left."""
        assert self._server is not None
        if number is signal.SIGKILL:
            self._server.kill()
        else:
            os.killpg(self._server.process.pid, number)

    async def answers(self) -> bool:
        """Whether it serves now."""
        return await _answers(f"{self.url}/health")

    def stop(self) -> None:
        """Ends it, however it is."""
        if self._server is not None:
            self._server.kill()


Backend = Provider | Replica


async def until_it_answers(server: Backend) -> None:
    """Asks again and again: it is another process."""
    while not await server.answers():  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def _answers(url: str) -> bool:
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=2) as client:
            return (await client.get(url)).status_code == 200
    except httpx.HTTPError:
        return False
