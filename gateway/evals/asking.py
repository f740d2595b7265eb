"""One question to one model, at a server that speaks OpenAI's API: a gateway, or a vLLM.

A gateway is asked for a stream, so that the first token's time is known, and then for its own
record of the request: what it cost is what its log says.
"""

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import msgspec

from gateway.errors import SwitchboardError
from gateway.evals.scoring import of_text
from gateway.evals.suites import Case, Suite

AT_ONCE = 8
TIMEOUT_S = 120.0
LOOKS, LOOK_S = 5, 0.5
"""How often a gateway is asked for a record that is not written yet, and how far apart."""

Message = Mapping[str, str]


class AskFailed(SwitchboardError):
    """A case got no answer; the text says of what model, and why."""


class Reply(msgspec.Struct, frozen=True):
    """An answer with its figures, or why there is none. Seconds, dollars; `model` is who answered
    by its own word, with the version or digest that it names."""

    text: str
    model: str = ""
    error: str | None = None
    cost_usd: float = 0.0
    first_token_s: float | None = None
    total_s: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0


class Asker:
    """Asks targets through a gateway at `url`, without `/v1`. `headers` hold the key."""

    def __init__(self, client: httpx.AsyncClient, url: str, headers: Mapping[str, str]) -> None:
        self._client = client
        self._url = url
        self._headers = dict(headers)

    async def ask(self, body: Mapping[str, Any]) -> Reply:
        """The answer to a chat completion's body; a failure is a reply with its reason."""
        text, model, id, error = [], "", None, None
        try:
            async with self._client.stream(
                "POST",
                f"{self._url}/v1/chat/completions",
                json={**body, "stream": True},
                headers=self._headers,
                timeout=TIMEOUT_S,
            ) as answer:
                id = answer.headers.get("x-switchboard-decision")
                if not answer.is_success:
                    await answer.aread()
                    return Reply("", error=_refused(answer))
                if (other := _other(answer, body["model"])) is not None:
                    return Reply("", error=f"the gateway does not know it: {other} answered")
                async for line in answer.aiter_lines():
                    piece, model, error = _event(line, model)
                    text.append(piece)
                    if error is not None:
                        break
        except httpx.HTTPError as failure:
            error = f"{type(failure).__name__}: {failure}"
        record = await self._record(id)
        return Reply(
            "".join(text),
            model,
            error,
            record.get("cost_usd", 0.0),
            record.get("first_token_s"),
            record.get("total_s"),
            record.get("input_tokens", 0),
            record.get("output_tokens", 0),
        )

    async def _record(self, id: str | None) -> dict[str, Any]:
        """The gateway's own row of the request; nothing where it keeps none for this key."""
        for _ in range(LOOKS if id is not None else 0):
            try:
                answer = await self._client.get(
                    f"{self._url}/v1/decisions/{id}", headers=self._headers, timeout=TIMEOUT_S
                )
            except httpx.HTTPError:
                return {}
            if answer.is_success:
                found: dict[str, Any] = answer.json()
                return found
            await asyncio.sleep(LOOK_S)
        return {}


def _event(line: str, model: str) -> tuple[str, str, str | None]:
    """What one line of a stream says: text, who speaks, and an error."""
    if not line.startswith("data:") or line[5:].strip() == "[DONE]":
        return "", model, None
    try:
        event = json.loads(line[5:])
    except ValueError as error:
        return "", model, f"an event that is no JSON: {error}"
    if "error" in event:
        return "", model, str(event["error"].get("message", event["error"]))
    choices = event.get("choices") or [{}]
    piece = (choices[0].get("delta") or {}).get("content") or ""
    return piece, event.get("model") or model, None


def _other(answer: httpx.Response, model: str) -> str | None:
    """Who answered in the place of the target that was asked, by the gateway's own word. One that
    does not know a target, as its files are older, goes by the route that is named beside it."""
    target: str = answer.headers.get("x-switchboard-target", model)
    return None if target.partition("@")[0] == model.partition("@")[0] else target


def _refused(answer: httpx.Response) -> str:
    said = f"{answer.status_code} {_message(answer.text)}"
    if answer.status_code in (401, 403):
        return f"{said} Give a key that may name targets by --key or SWITCHBOARD_KEY."
    return said


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:300]


def messages_of(system: str | None, prompt: str) -> Sequence[Message]:
    """A system prompt, if there is one, and the question."""
    asked = [{"role": "user", "content": prompt}]
    return asked if system is None else [{"role": "system", "content": system}, *asked]


# ---------------------------------------------------------------- a vLLM, by itself


class _Said(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Said


class _Answer(msgspec.Struct):
    choices: list[_Choice]


_answers = msgspec.json.Decoder(_Answer)


async def share_right(
    client: httpx.AsyncClient,
    url: str,
    model: str,
    suite: Suite,
    *,
    headers: Mapping[str, str],
    done: Callable[[], None] = lambda: None,
) -> float:
    """The share of a suite's cases that a model answers rightly, without any chance in it.

    `url` is the API's base, with `/v1`; `done` is called after each case. Raises AskFailed.
    """
    scorer = suite.scorer
    score = of_text(scorer.part, suite.folder)
    if score is None:
        raise AskFailed(f"suite {suite.name}: a scorer by {scorer.part.kind} is for `eval run`")
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> bool:
        async with limit:
            said = await _asked(client, url, model, suite, case, headers)
        done()
        return scorer.is_right(score(said, case.expected))

    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(one(case)) for case in suite.cases]
    return sum(task.result() for task in asking) / len(asking)


async def _asked(
    client: httpx.AsyncClient,
    url: str,
    model: str,
    suite: Suite,
    case: Case,
    headers: Mapping[str, str],
) -> str:
    body = {
        "model": model,
        "messages": messages_of(suite.system, case.prompt),
        "max_tokens": suite.max_tokens,
        "temperature": 0,
    }
    try:
        answer = await client.post(
            f"{url}/chat/completions", json=body, headers=dict(headers), timeout=TIMEOUT_S
        )
        if not answer.is_success:
            raise AskFailed(f"{model} at {url}: {answer.status_code} {answer.text[:300]}")
        return _answers.decode(answer.content).choices[0].message.content or ""
    except (httpx.HTTPError, msgspec.DecodeError, IndexError) as error:
        raise AskFailed(f"{model} at {url}: {type(error).__name__}: {error}") from error
