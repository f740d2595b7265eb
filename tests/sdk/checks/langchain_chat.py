"""What LangChain's OpenAI classes make of the API, as JSON on stdout. Runs in its environment."""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import langchain_openai  # type: ignore[import-not-found]
import openai


def model(given: dict[str, Any], name: str, **more: Any) -> Any:
    """A chat model of the API."""
    options = {"base_url": given["url"], "api_key": given["key"], "max_retries": 0, **more}
    return langchain_openai.ChatOpenAI(model=given[name], **options)


def stream(given: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A streamed chat: its pieces in order, and the usage at its end."""
    pieces, finish, usage = [], None, None
    for chunk in model(given, "chat", **more).stream(given["question"]):
        pieces += [chunk.content] if chunk.content else []
        finish = chunk.response_metadata.get("finish_reason", finish)
        if chunk.usage_metadata:
            usage = [chunk.usage_metadata["input_tokens"], chunk.usage_metadata["output_tokens"]]
    return {"pieces": pieces, "finish": finish, "usage": usage}


def tools(given: dict[str, Any]) -> dict[str, Any]:
    """A tool call put together from its deltas."""
    whole: Any = None
    for chunk in model(given, "chat").bind_tools(given["tools"]).stream(given["question"]):
        whole = chunk if whole is None else whole + chunk
    calls = [{"name": call["name"], "arguments": call["args"]} for call in whole.tool_calls]
    return {"calls": calls, "finish": whole.response_metadata["finish_reason"]}


def errors(given: dict[str, Any]) -> dict[str, str]:
    """The exception that each error status becomes: a class of openai's, or one below it."""
    asks: dict[str, Callable[[], object]] = {
        "401": lambda: model({**given, "key": "sk-wrong"}, "chat").invoke(given["question"]),
        "404": lambda: model(given, "unknown").invoke(given["question"]),
        "429": lambda: model(given, "limited").invoke(given["question"]),
    }
    kinds = (openai.AuthenticationError, openai.NotFoundError, openai.RateLimitError)
    found = {}
    for status, ask in asks.items():
        try:
            ask()
        except openai.APIStatusError as error:
            kind = next(kind for kind in kinds if isinstance(error, kind))
            found[status] = f"{kind.__name__} {error.status_code}"
    return found


def main() -> None:
    """Runs every check against the API that the first argument describes."""
    given = json.loads(sys.argv[1])
    chat = model(given, "chat").invoke(given["question"])
    embeddings = langchain_openai.OpenAIEmbeddings(
        model=given["embed"],
        base_url=given["url"],
        api_key=given["key"],
        check_embedding_ctx_length=False,
    )
    used = chat.usage_metadata
    report = {
        "version": version("langchain-openai"),
        "chat": {
            "text": chat.content,
            "finish": chat.response_metadata["finish_reason"],
            "usage": [used["input_tokens"], used["output_tokens"]],
        },
        "stream": stream(given, stream_usage=True),
        "stream_default": stream(given),
        "tools": tools(given),
        "errors": errors(given),
        "embeddings": embeddings.embed_documents(given["texts"]),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
