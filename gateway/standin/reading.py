"""What a request's body asks for. Pure; a body that is wrong is refused in OpenAI's words."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from gateway.standin.answer import refuse
from gateway.standin.behaviour import (
    Asked,
    Behaviour,
    Reply,
    ToolCall,
    example_of,
    to_length,
    tokens_of,
)

Body = Mapping[str, Any]

MAX_CHOICES = 128

COMPLETION_TOKENS = 16
"""The length of a completion (not a chat) that names none."""


def json_object(raw: bytes) -> dict[str, Any]:
    """The body, or a 400."""
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise refuse(
            400,
            "We could not parse the JSON body of your request. (HINT: This likely means you "
            "aren't using your HTTP library correctly. The OpenAI API expects a JSON payload.)",
        )
    return body


def check(body: Body, needed: str | None, behaviour: Behaviour, *, lenient: bool) -> None:
    """Refuses what the API refuses: parameters missing, of another kind, or not for this model."""
    if needed is not None and body.get(needed) is None:
        raise refuse(
            400,
            f"Missing required parameter: '{needed}'.",
            param=needed,
            code="missing_required_parameter",
        )
    if needed == "messages":
        _check_messages(body["messages"])
    for name in sorted(behaviour.refuses & body.keys()):
        raise refuse(400, _unsupported(name), param=name, code="unsupported_parameter")
    if lenient:
        return
    if body.get("stream_options") is not None and not body.get("stream"):
        raise refuse(
            400,
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
            param="stream_options",
        )
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        limit = body.get(name)
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise refuse(
                400,
                f"Invalid '{name}': integer below minimum value. Expected a value >= 1.",
                param=name,
                code="integer_below_min_value",
            )


def choices(body: Body) -> int:
    """How many answers to one question."""
    wanted = body.get("n")
    if wanted is None:
        return 1
    if not isinstance(wanted, int) or not 1 <= wanted <= MAX_CHOICES:
        raise refuse(
            400,
            f"Invalid 'n': expected an integer from 1 to {MAX_CHOICES}.",
            param="n",
            code="invalid_value",
        )
    return wanted


def _unsupported(name: str) -> str:
    hint = " Use 'max_completion_tokens' instead." if name == "max_tokens" else ""
    return f"Unsupported parameter: '{name}' is not supported with this model.{hint}"


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        kind = "an array of objects" if not isinstance(messages, list) else "a longer array"
        raise refuse(
            400,
            f"Invalid type for 'messages': expected {kind}.",
            param="messages",
            code="invalid_type",
        )
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise refuse(
                400,
                f"Missing required parameter: 'messages[{index}].role'.",
                param=f"messages[{index}].role",
                code="missing_required_parameter",
            )


def within_context(behaviour: Behaviour, prompt: int) -> None:
    """Refuses a prompt that is longer than the model's context."""
    if behaviour.context is not None and prompt > behaviour.context:
        raise refuse(
            400,
            f"This model's maximum context length is {behaviour.context} tokens. However, your "
            f"messages resulted in {prompt} tokens. Please reduce the length of the messages.",
            param="messages",
            code="context_length_exceeded",
        )


def text_of(content: Any) -> str:
    """The text in a message's content, whichever form it has."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return "\n".join(text for text in texts if isinstance(text, str))


def turns(body: Body, endpoint: str) -> list[Mapping[str, Any]]:
    """The messages of a chat or the input of a response, as a list of items."""
    if endpoint == "chat/completions":
        return list(body["messages"])
    given = body.get("input")
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [item for item in given or [] if isinstance(item, dict)]


def last_text(items: Sequence[Body]) -> str:
    """What the user said last."""
    for item in reversed(items):
        if item.get("role") == "user":
            return text_of(item.get("content"))
    return text_of(items[-1].get("content")) if items else ""


def broken_off(items: Sequence[Body]) -> tuple[Sequence[Body], str]:
    """What was asked, and what was said to it so far: the assistant's message, if one is the last,
    or the last but for the word to go on."""
    for tail in (1, 2):
        if len(items) > tail and items[-tail].get("role") == "assistant":
            return items[:-tail], text_of(items[-tail].get("content"))
    return items, ""


def prompt_tokens(items: Sequence[Body], body: Body) -> int:
    """Three tokens for each message besides its words; tools count four characters a token."""
    words = sum(len(tokens_of(text_of(item.get("content")))) for item in items)
    words += len(tokens_of(body.get("instructions") or ""))
    tools = len(msgspec.json.encode(body["tools"])) // 4 if body.get("tools") else 0
    return words + 3 * len(items) + tools


def prompts(value: Any) -> list[str]:
    """The texts of a completion's `prompt` or an embedding's `input`; token ids become words."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(entry, int) for entry in value):
            return [" ".join(map(str, value))]
        return [text for entry in value for text in prompts(entry)]
    raise refuse(400, "'$.input' is invalid. Please check the API reference.", param="input")


def stops(body: Body) -> list[str]:
    """The stop sequences."""
    stop = body.get("stop") or []
    return [stop] if isinstance(stop, str) else list(stop)


def limit(body: Body, endpoint: str) -> int | None:
    """The most tokens that the answer may have."""
    if endpoint == "completions":
        return body.get("max_tokens", COMPLETION_TOKENS) or None
    names = ("max_completion_tokens", "max_tokens", "max_output_tokens")
    return next((body[name] for name in names if body.get(name)), None)


def replied(asked: Asked, behaviour: Behaviour, items: Sequence[Body]) -> Reply:
    """The model's reply before it is held to the request's limits."""
    said = behaviour.answer(asked)
    reply = Reply(said) if isinstance(said, str) else said
    if reply.tool_calls:
        return reply
    if behaviour.calls_tools and items and items[-1].get("role") == "user":
        call = _call(asked.body, asked.text)
        if call is not None:
            return Reply(tool_calls=(call,))
    schema = _schema(asked.body)
    if schema is not None and not _is_object(reply.text):
        return msgspec.structs.replace(
            reply, text=msgspec.json.encode(example_of(schema, reply.text)).decode()
        )
    if behaviour.output_tokens is not None:
        return msgspec.structs.replace(reply, text=to_length(reply.text, behaviour.output_tokens))
    return reply


def _call(body: Body, text: str) -> ToolCall | None:
    """A call of the tool that was named, else of the first one offered."""
    choice = body.get("tool_choice", "auto")
    functions = [
        tool.get("function", tool)
        for tool in body.get("tools") or []
        if isinstance(tool, dict) and tool.get("type") == "function"
    ]
    if choice == "none" or not functions:
        return None
    if isinstance(choice, dict):
        wanted = choice.get("function", choice).get("name")
        functions = [found for found in functions if found.get("name") == wanted] or functions
    function = functions[0]
    arguments = example_of(function.get("parameters") or {}, text)
    return ToolCall(str(function.get("name")), msgspec.json.encode(arguments).decode())


def _schema(body: Body) -> Any:
    """The JSON schema that the answer must follow, if one was asked for."""
    text = body.get("text")
    form = body.get("response_format") or (text.get("format") if isinstance(text, dict) else None)
    if not isinstance(form, dict):
        return None
    if form.get("type") == "json_schema":
        return form.get("json_schema", form).get("schema")
    if form.get("type") == "json_object":
        return {"type": "object", "properties": {"answer": {"type": "string"}}}
    return None


def _is_object(text: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(text), dict)
    except msgspec.DecodeError:
        return False
