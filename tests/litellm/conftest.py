"""litellm's real process, once for each module: to import it takes seconds."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from gateway.backends.litellm_process import LitellmProcess
from gateway.types.backends import Backend
from tests.litellm.provider import Provider, provider

PYTHON = Path(__file__).parents[2] / ".litellm" / "bin" / "python"
KEYS = {
    "claude": "sk-ant-secret-of-claude",
    "gemini": "secret-of-gemini-0001",
    "groq": "gsk-secret-of-groq-0001",
    "cohere": "secret-of-cohere-0001",
    "sonar": "pplx-secret-of-sonar-01",
    "azure": "secret-of-azure-000001",
    "unheard": "secret-of-unheard-0001",
}


def backends(url: str) -> list[Backend]:
    """One backend of each provider, all of them served at `url`."""

    def spec(backend: str, provider: str, model: str, path: str, **arguments: str) -> Backend:
        return Backend(
            name=backend,
            kind="litellm",
            replicas=(),
            provider=provider,
            api_key=KEYS[backend],
            api_base=url + path,
            models={"small": model},
            arguments=arguments,
            headers={"x-team": "legal"} if backend == "claude" else {},
        )

    return [
        spec("claude", "anthropic", "claude-haiku-4-5", ""),
        spec("gemini", "gemini", "gemini-2.5-flash", "/gemini"),
        spec("groq", "groq", "llama-3.1-8b-instant", "/groq"),
        spec("cohere", "cohere", "embed-english-v3.0", "/cohere/embed"),
        spec("sonar", "perplexity", "sonar", "/sonar"),
        spec("azure", "azure", "o3-mini", "/azure", api_version="2024-12-01-preview"),
        spec("unheard", "groq", "never-heard-of", "/groq"),
    ]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def upstream() -> AsyncIterator[Provider]:
    async with provider() as one:
        yield one


@pytest.fixture(scope="module")
def logged() -> list[str]:
    """What the process wrote."""
    return []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def process(upstream: Provider, logged: list[str]) -> AsyncIterator[LitellmProcess]:
    one = LitellmProcess(
        backends(upstream.url), python=str(PYTHON), log=logged.append, clock=time.monotonic
    )
    await one.start()
    try:
        await asyncio.wait_for(one.ready.wait(), 120)
        yield one
    finally:
        await one.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(process: LitellmProcess) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(uds=process.socket_path)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://litellm/v1", timeout=60
    ) as one:
        yield one
