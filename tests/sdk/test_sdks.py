"""Real SDKs against the API: each reports what it made of it, and the report must be right."""

from typing import Any

import pytest

from gateway.standin import StandIn
from tests.sdk.conftest import Names
from tests.sdk.run import check


def right(report: dict[str, Any], expected: dict[str, Any], *parts: str) -> None:
    """The report has these parts, and each is as expected."""
    assert {part: report.get(part) for part in parts} == {part: expected[part] for part in parts}


ALL = (
    *("chat", "stream", "tools", "errors"),
    *("embeddings", "responses", "model"),
)


@pytest.mark.parametrize(("env", "major"), [("main", "3."), ("openai2", "2.")])
async def test_openai_python(
    env: str,
    major: str,
    given: dict[str, Any],
    expected: dict[str, Any],
    names: Names,
    provider: StandIn,
) -> None:
    report = await check(env, "openai_python.py", given)
    assert report["version"].startswith(major)
    right(report, expected, *ALL, "stream_async")
    assert set(names.listed()) <= set(report["models"])
    embedding = await provider.arrived(path="/v1/embeddings")
    assert embedding.json()["encoding_format"] == "base64"


async def test_openai_node(
    given: dict[str, Any], expected: dict[str, Any], names: Names, provider: StandIn
) -> None:
    report = await check("node", "openai_node.mjs", given)
    right(report, expected, *ALL)
    assert set(names.listed()) <= set(report["models"])
    embedding = await provider.arrived(path="/v1/embeddings")
    assert embedding.json()["encoding_format"] == "base64"


async def test_langchain_openai(given: dict[str, Any], expected: dict[str, Any]) -> None:
    report = await check("langchain", "langchain_chat.py", given)
    right(report, expected, "chat", "stream", "tools", "errors", "embeddings")
    assert report["stream_default"]["pieces"] == expected["stream"]["pieces"]


@pytest.mark.parametrize("package", ["openai", "compatible"])
@pytest.mark.parametrize("major", ["6", "7"])
async def test_ai_sdk(
    major: str, package: str, given: dict[str, Any], expected: dict[str, Any]
) -> None:
    report = await check("node", "ai_sdk.mjs", given, major, package)
    expected["tools"]["finish"] = "tool-calls"
    expected["errors"] = {status: f"APICallError {status}" for status in ("401", "404", "429")}
    right(report, expected, "chat", "stream", "tools", "errors", "embeddings")
    if package == "openai":
        right(report, expected, "responses")
