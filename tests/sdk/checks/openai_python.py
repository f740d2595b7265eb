"""What openai-python makes of the API, as JSON on stdout. Runs in the SDK's own environment."""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import openai


def chat(client: openai.OpenAI, given: dict[str, Any]) -> dict[str, Any]:
    """A plain chat."""
    answer = client.chat.completions.create(model=given["chat"], messages=given["messages"])
    assert answer.usage is not None
    return {
        "text": answer.choices[0].message.content,
        "finish": answer.choices[0].finish_reason,
        "usage": [answer.usage.prompt_tokens, answer.usage.completion_tokens],
    }


def stream(client: openai.OpenAI, given: dict[str, Any]) -> dict[str, Any]:
    """A streamed chat: its pieces in order, and the usage at its end."""
    pieces, finish, usage = [], None, None
    for chunk in client.chat.completions.create(
        model=given["chat"],
        messages=given["messages"],
        stream=True,
        stream_options={"include_usage": True},
    ):
        for choice in chunk.choices:
            pieces += [choice.delta.content] if choice.delta.content else []
            finish = choice.finish_reason or finish
        if chunk.usage is not None:
            usage = [chunk.usage.prompt_tokens, chunk.usage.completion_tokens]
    return {"pieces": pieces, "finish": finish, "usage": usage}


async def stream_async(given: dict[str, Any]) -> dict[str, Any]:
    """The same by the asynchronous client."""
    pieces = []
    async with (
        openai.AsyncOpenAI(base_url=given["url"], api_key=given["key"], max_retries=0) as client,
        client.chat.completions.stream(model=given["chat"], messages=given["messages"]) as events,
    ):
        async for event in events:
            if event.type == "content.delta" and event.delta:
                pieces.append(event.delta)
    return {"pieces": pieces}


def tools(client: openai.OpenAI, given: dict[str, Any]) -> dict[str, Any]:
    """A tool call put together from its deltas, by the SDK itself."""
    with client.chat.completions.stream(
        model=given["chat"], messages=given["messages"], tools=given["tools"]
    ) as events:
        choice = events.get_final_completion().choices[0]
    assert choice.message.tool_calls is not None
    calls = [
        {"name": call.function.name, "arguments": json.loads(call.function.arguments)}
        for call in choice.message.tool_calls
    ]
    return {"calls": calls, "finish": choice.finish_reason}


def errors(client: openai.OpenAI, given: dict[str, Any]) -> dict[str, str]:
    """The exception that each error status becomes."""
    asks: dict[str, Callable[[], object]] = {
        "401": lambda: client.with_options(api_key="sk-wrong").models.list(),
        "404": lambda: client.chat.completions.create(
            model=given["unknown"], messages=given["messages"]
        ),
        "429": lambda: client.chat.completions.create(
            model=given["limited"], messages=given["messages"]
        ),
    }
    found = {}
    for status, ask in asks.items():
        try:
            ask()
        except openai.APIStatusError as error:
            # The SDK takes the object under "error"; anything else would come as it was sent.
            shaped = isinstance(error.body, dict) and bool(error.body.get("message"))
            found[status] = f"{type(error).__name__} {error.status_code}" if shaped else "no body"
    return found


def embeddings(client: openai.OpenAI, given: dict[str, Any]) -> list[list[float]]:
    """Vectors, by the SDK's default encoding."""
    answer = client.embeddings.create(model=given["embed"], input=given["texts"])
    return [entry.embedding for entry in answer.data]


def responses(client: openai.OpenAI, given: dict[str, Any]) -> dict[str, Any]:
    """A response, and one streamed."""
    whole = client.responses.create(model=given["chat"], input=given["question"])
    pieces = [
        event.delta
        for event in client.responses.create(
            model=given["chat"], input=given["question"], stream=True
        )
        if event.type == "response.output_text.delta"
    ]
    return {"text": whole.output_text, "pieces": pieces}


def main() -> None:
    """Runs every check against the API that the first argument describes."""
    given = json.loads(sys.argv[1])
    with openai.OpenAI(base_url=given["url"], api_key=given["key"], max_retries=0) as client:
        report = {
            "version": openai.__version__,
            "chat": chat(client, given),
            "stream": stream(client, given),
            "stream_async": asyncio.run(stream_async(given)),
            "tools": tools(client, given),
            "errors": errors(client, given),
            "embeddings": embeddings(client, given),
            "responses": responses(client, given),
            "models": [model.id for model in client.models.list()],
            "model": client.models.retrieve(given["chat"]).id,
        }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
