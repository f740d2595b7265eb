"""`gateway.yaml`: the models and adapters of a backend."""

from typing import Literal

from pydantic import Field

from gateway.config.fields import (
    MediaHost,
    Name,
    Positive,
    ReplicaUrl,
    Seconds,
    Sha256,
    Switch,
    Text,
    TokenPrice,
    Weight,
    Whole,
)
from gateway.config.files.part import Part
from gateway.types.backends import Capabilities

EndpointName = Literal["chat", "completions", "embeddings", "responses"]
ENDPOINTS = {
    "chat": "chat/completions",
    "completions": "completions",
    "embeddings": "embeddings",
    "responses": "responses",
}

_CAPABILITIES = Capabilities()


class PricePart(Part):
    """What a model's tokens cost."""

    input: TokenPrice = Field(description="Of the prompt.", examples=["0.25 usd/Mtok"])
    cached_input: TokenPrice | None = Field(
        default=None,
        description="Of the prompt's part that the backend had cached; as `input` if left out.",
        examples=["0.025 usd/Mtok"],
    )
    output: TokenPrice = Field(description="Of the answer.", examples=["2 usd/Mtok"])


class CapabilitiesPart(Part):
    """Hard facts: what a model can take. A request that needs more never goes there."""

    context: Whole | None = Field(
        default=_CAPABILITIES.context,
        description="Most tokens of prompt and answer together; no limit if left out.",
        examples=[32768],
    )
    tools: Switch = Field(default=_CAPABILITIES.tools, description="Takes tools.", examples=[True])
    vision: Switch = Field(
        default=_CAPABILITIES.vision, description="Takes images.", examples=[False]
    )
    audio: Switch = Field(default=_CAPABILITIES.audio, description="Takes audio.", examples=[False])
    json_schema: Switch = Field(
        default=_CAPABILITIES.json_schema, description="Answers by a JSON Schema.", examples=[True]
    )
    log_probabilities: Switch | None = Field(
        default=None,
        description="Tells its tokens' log-probabilities, which a cascade may check; if left out,"
        " all do but those behind litellm.",
        examples=[True],
    )
    media_from: list[MediaHost] | None = Field(
        default=None,
        description="Hosts from which it may fetch pictures and the like that a request names by"
        " URL; `.example.com` is each below it. If left out, a self-hosted model, and one"
        " behind litellm, fetches from none and takes what stands in the request itself; a"
        " provider's own server may fetch from any.",
        examples=[["images.example.com", ".cdn.example.com"]],
    )
    endpoints: list[EndpointName] | None = Field(
        default=None,
        description="Which of OpenAI's calls it serves; if left out, `chat`, `completions` and,"
        " for vLLM, `responses`.",
        examples=[["chat", "embeddings"]],
        min_length=1,
    )


class RequestPart(Part):
    """How the body of a request is changed for a model; names are top-level keys of it."""

    rename: dict[Text, Text] = Field(
        default={},
        description="Parameters that the model knows by another name.",
        examples=[{"max_tokens": "max_completion_tokens"}],
    )
    drop: list[Text] = Field(
        default=[], description="Parameters that the model refuses.", examples=[["temperature"]]
    )
    set: dict[Text, object] = Field(
        default={},
        description="Values put in where the client sent none.",
        examples=[{"reasoning_effort": "low"}],
    )


class TypicalPart(Part):
    """What to expect of a model until it has been measured."""

    first_token: Seconds = Field(
        default=0.5,
        description="Time to the first token, with nothing queued.",
        examples=["300 ms"],
    )
    tokens_per_second: Positive = Field(
        default=50.0, description="Tokens a second of one answer.", examples=[80]
    )
    output_tokens: Positive = Field(
        default=200.0, description="Tokens of one answer.", examples=[250]
    )


class VersionPart(Part):
    """One set of an adapter's files: a source, or a mix of other adapters of the same model."""

    source: Text | None = Field(
        default=None,
        description="Where its files are: a directory below the backend's `adapter_store`, or an"
        " `s3://`, `hf://` or `https://` URL.",
        examples=["contracts-v3", "s3://adapters/contracts-v3", "hf://legal/contracts@v3"],
    )
    sha256: Sha256 | None = Field(
        default=None,
        description="The SHA-256 that its content must have, as `adapters show` prints it.",
        examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
    )
    mix: dict[Text, Weight] | None = Field(
        default=None,
        description="Other adapters, or `adapter@version`, each with its weight: their weighted"
        " sum. Weights are used as they are, not normalised.",
        examples=[{"support": 1.0, "brand": 0.8}],
        min_length=1,
    )
    rank: Whole | None = Field(
        default=None,
        description="The rank that a mix is reduced to, where its ranks' sum is too much.",
        examples=[32],
    )
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        default=None,
        description="What a mix is stored in; the widest of its parts if left out.",
        examples=["bfloat16"],
    )


class AdapterPart(VersionPart):
    """A LoRA adapter: a `source`, a `mix`, or `versions` of which one is live."""

    versions: dict[Name, VersionPart | Text] | None = Field(
        default=None,
        description="Several sets of files side by side. The first one is live until another is"
        " promoted; `backend/model+adapter@version` is one of them.",
        examples=[{"v7": "support-v7", "v8": "support-v8"}],
        min_length=1,
    )
    base_matches: Switch = Field(
        default=False,
        description="True if it fits this model though its files name another one.",
        examples=[True],
    )


class ModelPart(Part):
    """A model, declared once; its target is `backend/model`."""

    id: Text = Field(
        description="What the backend calls it, in any spelling.", examples=["Qwen/Qwen3-8B"]
    )
    price: PricePart | None = Field(
        default=None,
        description="Prices of its tokens. Left out, a self-hosted model's come from"
        " `replica_hour` over `peak_tokens_per_second`, and a litellm model's from litellm.",
        examples=[{"input": "0.25 usd/Mtok", "output": "2 usd/Mtok"}],
    )
    capabilities: CapabilitiesPart = Field(
        default=CapabilitiesPart(),
        description="What it can take.",
        examples=[{"context": 32768, "vision": True}],
    )
    request: RequestPart = Field(
        default=RequestPart(),
        description="How requests are changed for it.",
        examples=[{"drop": ["temperature"]}],
    )
    typical: TypicalPart = Field(
        default=TypicalPart(),
        description="What to expect of it until it has been measured.",
        examples=[{"first_token": "300 ms", "tokens_per_second": 80}],
    )


class HostedModelPart(ModelPart):
    """A model of a self-hosted backend."""

    peak_tokens_per_second: Positive | None = Field(
        default=None,
        description="Tokens a second of one replica at full batch; the backend's if left out.",
        examples=[2400],
    )


class VllmModelPart(HostedModelPart):
    """A model that vLLM serves, with its adapters; each is a target `backend/model+adapter`."""

    adapters: dict[Name, AdapterPart] = Field(
        default={},
        description="LoRA adapters, loaded at the replicas where they are asked for.",
        examples=[{"contracts": {"source": "contracts-v3"}}],
    )
    config: Text | None = Field(
        default=None,
        description="The model's `config.json`, or the directory that it lies in: adapters are"
        " checked against its shapes.",
        examples=["models/qwen3-8b/config.json"],
    )
    replicas: list[ReplicaUrl] = Field(
        default=[],
        description="Servers of this model alone, instead of the backend's `replicas`.",
        examples=[["http://gpu-1:8001"]],
    )
