"""A suite asked of one model at one server that speaks OpenAI's API."""

import asyncio
from collections.abc import Callable, Mapping

import httpx
import msgspec

from gateway.errors import SwitchboardError
from gateway.evals.suites import Case, Suite

AT_ONCE = 8
TIMEOUT_S = 120.0


class AskFailed(SwitchboardError):
    """A case got no answer; the text says of what model, and why."""


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


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
    limit = asyncio.Semaphore(AT_ONCE)

    async def one(case: Case) -> bool:
        async with limit:
            said = await _asked(client, url, model, suite, case, headers)
        done()
        return suite.is_right(case, said)

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
    messages = [{"role": "user", "content": case.prompt}]
    if suite.system is not None:
        messages.insert(0, {"role": "system", "content": suite.system})
    body = {
        "model": model,
        "messages": messages,
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
