"""What providers say when something goes wrong, in their own shapes, and what it is taken for."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backends.verdict import LONGEST_WAIT_S, judge, told, wait_in


def openai(
    message: str, *, type: str | None = "invalid_request_error", code: Any = None, param: Any = None
) -> dict[str, Any]:
    return {"error": {"message": message, "type": type, "param": param, "code": code}}


def anthropic(type: str, message: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": type, "message": message}, "request_id": "req_1"}


def google(status: str, code: int, message: str, *details: dict[str, Any]) -> dict[str, Any]:
    error = {"code": code, "message": message, "status": status, "details": list(details)}
    return {"error": error}


def azure(code: str, message: str, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, **more}}


TOO_LONG = (
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens"
    " (4500 in the messages, 500 in the completion). Please reduce the length of the messages."
)
QUOTA = "You exceeded your current quota, please check your plan and billing details."
FILTERED = (
    "The response was filtered due to the prompt triggering Azure OpenAI's content management"
    " policy. Please modify your prompt and retry."
)

CASES: list[tuple[str, int, Any, str]] = [
    # OpenAI
    ("client", 400, openai("Invalid value: 'x'.", param="messages[0].role"), "openai"),
    ("context", 400, openai(TOO_LONG, code="context_length_exceeded"), "openai"),
    ("parameter", 400, openai("Unsupported parameter: 'max_tokens' is not supported with this"
     " model.", code="unsupported_parameter"), "openai"),
    ("parameter", 400, openai("Unsupported value: 'temperature' does not support 0.2 with this"
     " model.", code="unsupported_value"), "openai"),
    ("refused", 400, openai("Invalid prompt: your prompt was flagged as potentially violating our"
     " usage policy.", code="invalid_prompt"), "openai"),
    ("setup", 401, openai("Incorrect API key provided.", code="invalid_api_key"), "openai"),
    ("setup", 404, openai("The model `gpt-9` does not exist or you do not have access to it.",
     code="model_not_found"), "openai"),
    ("setup", 429, openai(QUOTA, type="insufficient_quota", code="insufficient_quota"), "openai"),
    ("busy", 429, openai("Rate limit reached for gpt-4o in organization org-x on tokens per min"
     " (TPM): Limit 30000, Used 29000. Please try again in 12.5s.", type="tokens",
     code="rate_limit_exceeded"), "openai"),
    ("busy", 503, openai("The engine is currently overloaded, please try again later",
     type="server_error"), "openai"),
    ("broken", 500, openai("The server had an error while processing your request.",
     type="server_error"), "openai"),
    # vLLM
    ("context", 400, openai(TOO_LONG, type="BadRequestError", code=400, param="input_tokens"),
     "vllm"),
    ("context", 400, openai("'max_tokens' or 'max_completion_tokens' is too large: 9000. This"
     " model's maximum context length is 256 tokens.", type="BadRequestError", code=400), "vllm"),
    ("setup", 404, openai("The model `x` does not exist.", type="NotFoundError", code=404), "vllm"),
    ("parameter", 400, openai('"auto" tool choice requires --enable-auto-tool-choice and'
     " --tool-call-parser to be set", type="BadRequestError", code=400), "vllm"),
    ("parameter", 400, openai("At most 0 image(s) may be provided in one prompt.",
     type="BadRequestError", code=400), "vllm"),
    ("client", 400, openai("[{'type': 'missing', 'loc': ('body', 'messages')}]",
     type="BadRequestError", code=400), "vllm"),
    ("broken", 500, openai("EngineCore encountered an issue.", type="InternalServerError",
     code=500), "vllm"),
    ("setup", 404, {"detail": "Not Found"}, "vllm"),
    # Azure
    ("refused", 400, azure("content_filter", FILTERED, status=400,
     innererror={"code": "ResponsibleAIPolicyViolation"}), "azure"),
    ("setup", 404, azure("DeploymentNotFound", "The API deployment for this resource does not"
     " exist."), "azure"),
    ("busy", 429, azure("429", "Requests to the ChatCompletions_Create Operation have exceeded"
     " call rate limit of your current pricing tier. Please retry after 6 seconds."), "azure"),
    ("busy", 424, azure("NoCapacity", "The system is at its capacity."), "azure"),
    ("setup", 401, {"statusCode": 401, "message": "Access denied due to invalid subscription key"},
     "azure"),
    ("client", 404, openai("Response with id 'resp_1' not found.", code=404, param="response_id"),
     "vllm"),
    ("client", 404, openai("Item with id 'rs_1' not found. Items are not persisted when `store` is"
     " set to false.", param="input"), "openai"),
    ("client", 400, openai("Previous response with id 'resp_1' not found.",
     code="previous_response_not_found", param="previous_response_id"), "openai"),
    # Anthropic
    ("client", 400, anthropic("invalid_request_error", "messages: at least one message is"
     " required"), "anthropic"),
    ("context", 400, anthropic("invalid_request_error", "prompt is too long: 209752 tokens > 200000"
     " maximum"), "anthropic"),
    ("context", 400, anthropic("invalid_request_error", "input length and `max_tokens` exceed"
     " context limit: 188240 + 21333 > 200000"), "anthropic"),
    ("refused", 400, anthropic("invalid_request_error", "Output blocked by content filtering"
     " policy"), "anthropic"),
    ("parameter", 400, anthropic("invalid_request_error", "top_k: Extra inputs are not permitted"),
     "anthropic"),
    ("setup", 400, anthropic("invalid_request_error", "Your credit balance is too low to access the"
     " Anthropic API."), "anthropic"),
    ("setup", 401, anthropic("authentication_error", "invalid x-api-key"), "anthropic"),
    ("client", 413, anthropic("request_too_large", "Request exceeds the maximum size"),
     "anthropic"),
    ("busy", 429, anthropic("rate_limit_error", "This request would exceed your rate limit"),
     "anthropic"),
    ("busy", 529, anthropic("overloaded_error", "Overloaded"), "anthropic"),
    ("busy", 500, anthropic("overloaded_error", "Overloaded"), "anthropic"),
    ("broken", 500, anthropic("api_error", "Internal server error"), "anthropic"),
    # Google
    ("context", 400, google("INVALID_ARGUMENT", 400, "The input token count (1200000) exceeds the"
     " maximum number of tokens allowed (1048576)."), "google"),
    ("setup", 400, google("INVALID_ARGUMENT", 400, "API key not valid. Please pass a valid API"
     " key.", {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}),
     "google"),
    ("setup", 403, google("PERMISSION_DENIED", 403, "Permission denied on resource project x."),
     "google"),
    ("busy", 429, [google("RESOURCE_EXHAUSTED", 429, "You exceeded your current quota",
     {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"})], "google"),
    ("busy", 503, google("UNAVAILABLE", 503, "The model is overloaded. Please try again later."),
     "google"),
    ("timeout", 504, google("DEADLINE_EXCEEDED", 504, "The request timed out."), "google"),
    ("client", 400, google("INVALID_ARGUMENT", 400, "Invalid JSON payload received."), "google"),
    # Bedrock
    ("busy", 429, {"__type": "ThrottlingException", "message": "Too many tokens, please wait"
     " before trying again."}, "bedrock"),
    ("busy", 400, {"__type": "com.amazon.coral.service#ThrottlingException", "message": "Rate"
     " exceeded"}, "bedrock"),
    ("context", 400, {"message": "Input is too long for requested model."}, "bedrock"),
    ("setup", 400, {"message": "The provided model identifier is invalid."}, "bedrock"),
    ("setup", 403, {"message": "User: arn:aws:iam::1 is not authorized to perform:"
     " bedrock:InvokeModel"}, "bedrock"),
    ("timeout", 408, {"__type": "ModelTimeoutException", "message": "The model timed out"},
     "bedrock"),
    ("client", 400, {"message": "1 validation error detected: Value '[]' at 'messages'"},
     "bedrock"),
    # Mistral
    ("client", 422, {"object": "error", "detail": [{"type": "missing", "loc": ["body", "model"],
     "msg": "Field required"}]}, "mistral"),
    ("context", 400, {"object": "error", "message": "Prompt contains 40013 tokens and 0 draft"
     " tokens, too large for model with 32768 maximum context length",
     "type": "invalid_request_error", "param": None, "code": "3051"}, "mistral"),
    ("busy", 429, {"object": "error", "message": "Service tier capacity exceeded for this model.",
     "type": "service_tier_capacity_exceeded", "code": "3505"}, "mistral"),
    ("setup", 401, {"message": "Unauthorized", "request_id": "1"}, "mistral"),
    # Cohere, Groq, DeepSeek, OpenRouter, xAI, TGI, llama.cpp
    ("context", 400, {"message": "too many tokens: size limit exceeded by 1000 tokens."}, "cohere"),
    ("refused", 498, {"message": "blocked input: please adjust your prompt"}, "cohere"),
    ("busy", 498, openai("Flex capacity exceeded", code="capacity_exceeded"), "groq"),
    ("parameter", 413, openai("Request too large for model `x` in organization `o` on tokens per"
     " minute (TPM): Limit 6000, Requested 8000", type="tokens", code="rate_limit_exceeded"),
     "groq"),
    ("setup", 402, openai("Insufficient Balance", type="unknown_error"), "deepseek"),
    ("setup", 402, {"error": {"code": 402, "message": "Insufficient credits"}}, "openrouter"),
    ("refused", 403, {"error": {"code": 403, "message": "The model requires moderation and the"
     " input was flagged", "metadata": {"reasons": ["violence"]}}}, "openrouter"),
    ("client", 400, {"code": "Client specified an invalid argument", "error": "Empty messages"},
     "xai"),
    ("context", 422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be"
     " <= 4096. Given: 4000 `inputs` tokens and 500 `max_new_tokens`",
     "error_type": "validation"}, "tgi"),
    ("context", 400, openai("the request exceeds the available context size", code=400,
     type="exceed_context_size_error"), "llama.cpp"),
    ("busy", 503, openai("Loading model, currently loading", code=503, type="unavailable_error"),
     "llama.cpp"),
    # our own litellm process
    ("refused", 400, openai("blocked", code="content_filter"), "litellm"),
    ("context", 400, openai("long", code="context_length_exceeded"), "litellm"),
    ("parameter", 400, openai("takes no tools", code="unsupported_parameter"), "litellm"),
    ("busy", 503, openai("Overloaded", type="overloaded_error"), "litellm"),
    ("setup", 404, openai("no such model", type="not_found_error", code="model_not_found"),
     "litellm"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "status", "body"),
    [pytest.param(kind, status, body, id=f"{who}-{status}-{kind}-{n}")
     for n, (kind, status, body, who) in enumerate(CASES)],
)  # fmt: skip
def test_each_provider_s_words(kind: str, status: int, body: Any) -> None:
    assert judge(status, json.dumps(body).encode())[0] == kind


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "client"),
        (401, "setup"),
        (403, "setup"),
        (404, "setup"),
        (408, "timeout"),
        (409, "broken"),
        (413, "client"),
        (422, "client"),
        (429, "busy"),
        (500, "broken"),
        (502, "broken"),
        (503, "broken"),
        (504, "timeout"),
        (529, "busy"),
    ],
)
@pytest.mark.parametrize("body", [b"", b"garbage", b"\xff\xfe", b"null", b"[]", b"{}", b"1"])
def test_a_status_without_words(status: int, kind: str, body: bytes) -> None:
    assert judge(status, body)[0] == kind


def test_a_503_that_says_when_is_busy() -> None:
    assert judge(503, b"", waits=True)[0] == "busy"


def test_bedrock_names_its_error_in_a_header() -> None:
    body = b'{"message":"Rate exceeded"}'
    assert judge(400, body, named="ThrottlingException:http://internal")[0] == "busy"


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"error": {"message": "Please retry after 6 seconds."}}, 6.0),
        ({"error": {"message": "Please try again in 12.5s."}}, 12.5),
        ({"error": {"message": "Please try again in 250ms."}}, 0.25),
        ([{"error": {"details": [{"retryDelay": "34s"}]}}], 34.0),
        ({"error": {"message": "Slow down."}}, None),
        ({"error": {"message": f"Please try again in {'9' * 400} s."}}, None),
        ([{"error": {"details": [{"retryDelay": f"{'9' * 400}s"}]}}], None),
    ],
)
def test_how_long_to_wait_is_read_from_the_body(body: Any, seconds: float | None) -> None:
    assert told(json.dumps(body).encode()).retry_after == seconds


NOW = 1_700_000_000.0
DATE = b"Tue, 14 Nov 2023 22:13:20 GMT"  # that is NOW
IN_A_MINUTE = b"Tue, 14 Nov 2023 22:14:20 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({b"retry-after": b"7"}, 7.0),
        ({b"retry-after": b"0.5"}, 0.5),
        ({b"retry-after": b"7", b"retry-after-ms": b"250"}, 0.25),
        ({b"retry-after": b"7", b"retry-after-ms": b"soon"}, 7.0),
        ({b"retry-after": IN_A_MINUTE}, 60.0),
        ({b"retry-after": b"Tuesday, 14-Nov-23 22:14:20 GMT"}, 60.0),
        ({b"retry-after": b"Tue Nov 14 22:14:20 2023"}, 60.0),
        # By its own clock, which is 50 s slow.
        ({b"retry-after": IN_A_MINUTE, b"date": b"Tue, 14 Nov 2023 22:12:30 GMT"}, 110.0),
        ({b"retry-after": DATE, b"date": IN_A_MINUTE}, 0.0),
        ({b"retry-after": b"Fri, 31 Dec 9999 23:59:59 GMT"}, None),
        ({b"retry-after": b"-1"}, None),
        ({b"retry-after": b"nan"}, None),
        ({b"retry-after": b"9" * 400}, None),
        ({b"retry-after-ms": b"9" * 400}, None),
        ({b"retry-after": b"99:99:99"}, None),
    ],
)
def test_how_long_to_wait_is_read_from_the_headers(
    headers: dict[bytes, bytes], seconds: float | None
) -> None:
    assert wait_in(headers.items(), NOW) == seconds


@given(st.one_of(st.binary(), st.from_regex(rb"[A-Z][a-z]{2},? [0-9A-Za-z: ,+-]*", fullmatch=True)))
def test_whatever_a_header_says_is_a_wait_or_none(header: bytes) -> None:
    wait_s = wait_in([(b"retry-after", header), (b"date", header)], NOW)
    assert wait_s is None or 0.0 <= wait_s < LONGEST_WAIT_S


def test_what_the_client_wrote_is_not_taken_for_the_provider_s_words() -> None:
    """The words of one kind of failure only count under the statuses that it comes with."""
    echoed = openai("Invalid value: 'too many requests, overloaded'", code="invalid_value")
    assert judge(422, json.dumps(echoed).encode())[0] == "client"
