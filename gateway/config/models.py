"""The kinds of file that a team edits, as pydantic models.

The JSON Schemas that editors use and the reference in `docs/configuration.md` are made from these.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from gateway.config.fields import (
    CoordinatorUrl,
    HeaderName,
    HeaderValue,
    Index,
    Listen,
    MediaHost,
    Money,
    Name,
    Number,
    Pattern,
    Points,
    Port,
    Positive,
    Rated,
    ReplicaUrl,
    RightWhen,
    Seconds,
    Sha256,
    Share,
    Size,
    StickTo,
    StoreUrl,
    Switch,
    TargetName,
    Text,
    TokenPrice,
    Url,
    Usd,
    Waiting,
    Weight,
    Whole,
)
from gateway.types import Admission, Breaking, Capabilities, Policy, Server, Timeouts, Turns

EndpointName = Literal["chat", "completions", "embeddings", "responses"]
ENDPOINTS = {
    "chat": "chat/completions",
    "completions": "completions",
    "embeddings": "embeddings",
    "responses": "responses",
}

_SERVER, _TIMEOUTS, _CAPABILITIES, _POLICY = Server(), Timeouts(), Capabilities(), Policy("")
_TURNS, _ADMISSION, _BREAKING = Turns(), Admission(), Breaking()


class Part(BaseModel):
    """A mapping with fixed keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


# ---------------------------------------------------------------- gateway.yaml


class ServerPart(Part):
    """The gateway's own side."""

    listen: Listen = Field(
        default=(_SERVER.host, _SERVER.port),
        description="Where to listen. Without any key in the store only loopback is bound.",
        examples=["127.0.0.1:8080"],
    )
    max_head: Size = Field(
        default=_SERVER.max_head, description="Largest request head.", examples=["64 KiB"]
    )
    max_body: Size = Field(
        default=_SERVER.max_body, description="Largest request body.", examples=["32 MiB"]
    )
    max_bodies: Size = Field(
        default=_SERVER.max_bodies,
        description="Most that the bodies of all open requests may take together; "
        "those of up to 64 KiB do not count.",
        examples=["512 MiB"],
    )
    max_open: Whole = Field(
        default=_SERVER.max_open, description="Most requests open at once.", examples=[4096]
    )
    max_connections: Whole = Field(
        default=_SERVER.max_connections,
        description="Most connections open at once, those that are idle among them.",
        examples=[8192],
    )
    head_timeout: Seconds = Field(
        default=_SERVER.head_timeout,
        description="Time for a client to send a head.",
        examples=["10 s"],
    )
    body_timeout: Seconds = Field(
        default=_SERVER.body_timeout,
        description="Time for a client to send a body; "
        "after it, one that still comes at 32 KiB/s or more is waited for.",
        examples=["30 s"],
    )
    open_metrics: Switch = Field(
        default=_SERVER.open_metrics,
        description="True if whoever reaches `/metrics` may read it; else a key of the role `read`"
        " is needed, as soon as there is any key.",
        examples=[True],
    )
    workers: Whole = Field(
        default=_SERVER.workers,
        description="Processes that serve on one port; more than one need a `coordinator`, and"
        " PostgreSQL as the `store`. Read at the start.",
        examples=[4],
    )
    spool: Size = Field(
        default=_SERVER.spool,
        description="How much of the log may wait on disk, in `.switchboard/spool`, while the store"
        " is away or slow; 0 keeps it in memory only.",
        examples=["1 GiB"],
    )


class CoordinatorPart(Part):
    """A Redis that others use too."""

    url: CoordinatorUrl = Field(
        description="Where it is; `rediss://` by TLS.", examples=["redis://host:6379/0"]
    )
    name: Name = Field(
        default=_SERVER.coordinator_name,
        description="Begins the name of every key and channel. Workers and hosts that share their"
        " limits have the same; another gateway at the same Redis has another.",
        examples=["switchboard"],
    )


class ClassifierPart(Part):
    """How a text's route is learned from the routes' examples."""

    kind: Literal["lexical", "embedding"] = Field(
        default="lexical",
        description="`lexical` needs nothing; `embedding` needs an encoder.",
        examples=["lexical"],
    )
    directory: Text | None = Field(
        default=None,
        description="Encoder: a sentence-transformer's directory, from the configuration's own.",
        examples=["encoders/all-minilm-l6-v2"],
    )
    target: TargetName | None = Field(
        default=None,
        description="Encoder: a declared model that serves `embeddings`, instead of a directory.",
        examples=["local/embedder"],
    )


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


class TimeoutsPart(Part):
    """How long a backend may take."""

    connect: Seconds = Field(
        default=_TIMEOUTS.connect, description="To open a connection.", examples=["5 s"]
    )
    first_token: Seconds = Field(
        default=_TIMEOUTS.first_byte,
        description="From the request sent to the beginning of the answer.",
        examples=["60 s"],
    )
    between_tokens: Seconds = Field(
        default=_TIMEOUTS.between,
        description="Between two pieces of the answer.",
        examples=["60 s"],
    )
    total: Seconds = Field(default=_TIMEOUTS.total, description="For all of it.", examples=["10 m"])


class AdapterStorePart(Part):
    """One directory of adapters, as the two machines see it."""

    here: Text = Field(
        description="On the gateway's machine, from the configuration's directory.",
        examples=["/mnt/adapters"],
    )
    on_replicas: Text | None = Field(
        default=None,
        description="On the machine where vLLM runs; the same if left out.",
        examples=["/adapters"],
    )


class LoraPart(Part):
    """What the replicas are started with; what is left out is asked of them where they tell."""

    slots: Whole | None = Field(
        default=None,
        description="vLLM's `--max-loras`: adapters that one batch may use.",
        examples=[8],
    )
    cpu_slots: Whole | None = Field(
        default=None,
        description="vLLM's `--max-cpu-loras`: adapters that stay in its memory; `slots` if left"
        " out, or 32 with `serve`.",
        examples=[32],
    )
    max_rank: Whole | None = Field(
        default=None,
        description="vLLM's `--max-lora-rank`: adapters of a larger rank are refused.",
        examples=[64],
    )


class AdmissionPart(Part):
    """How many requests may be under way, and who waits; `docs/overload.md` tells all of it."""

    concurrent: Whole | None = Field(
        default=None,
        description="How many requests may be under way at each replica; without it, what the"
        " replica says decides: a vLLM engine's own line, a provider's 429 and 503.",
        examples=[64],
    )
    queue: Index = Field(
        default=_ADMISSION.queue,
        description="How many may wait for each replica; 0 for none.",
        examples=[128],
    )
    wait: Seconds | None = Field(
        default=None,
        description="How long one may wait. What would wait for longer is refused at once; without"
        " it, as long as an answer takes.",
        examples=["5 s"],
    )


class BackendPart(Part):
    """What every backend has."""

    api_key: HeaderValue | None = Field(
        default=None, description="Sent as a bearer token.", examples=["${OPENAI_API_KEY}"]
    )
    headers: dict[HeaderName, HeaderValue] = Field(
        default={}, description="Sent with every request.", examples=[{"x-team": "platform"}]
    )
    outputs_may_train: Switch | None = Field(
        default=None,
        description="Whether its answers may be used to train models, as its terms have it; left"
        " out, those of vLLM may, and others' not.",
        examples=[True],
    )
    timeouts: TimeoutsPart = Field(
        default=TimeoutsPart(),
        description="How long it may take.",
        examples=[{"first_token": "20 s"}],
    )
    admission: AdmissionPart = Field(
        default=AdmissionPart(),
        description="How many requests each replica is given at once, and how many wait.",
        examples=[{"concurrent": 64, "queue": 128, "wait": "5 s"}],
    )


class HostedPart(BackendPart):
    """What a backend that one can host oneself has."""

    replica_hour: Usd | None = Field(
        default=None, description="What one replica costs an hour.", examples=["2.20 usd"]
    )
    peak_tokens_per_second: Positive | None = Field(
        default=None, description="Tokens a second of one replica at full batch.", examples=[2400]
    )
    idle: Literal["ours", "shared"] = Field(
        default="ours",
        description="Who is billed for the time in which nothing ran: `ours` is a line of its own,"
        " `shared` goes to who used the rest.",
        examples=["shared"],
    )


class TurnsPart(Part):
    """Several models on one GPU, each at its own server: one is awake, the others sleep.

    The first of every model's `replicas` share one GPU, the second another. The servers need
    `--enable-sleep-mode` and `VLLM_SERVER_DEV_MODE=1`, which `switchboard up` gives them.
    """

    stay: Seconds = Field(
        default=_TURNS.stay,
        description="How long a model stays awake at least while others are waited for.",
        examples=["10 s"],
    )
    queue: Whole = Field(
        default=_TURNS.queue,
        description="How many requests may wait at a GPU for their model; more are refused.",
        examples=[64],
    )
    wait: Seconds = Field(
        default=_TURNS.wait, description="How long one may wait.", examples=["60 s"]
    )
    swap: Seconds = Field(
        default=_TURNS.swap,
        description="What putting one model to sleep and waking another takes, until that was"
        " measured.",
        examples=["5 s"],
    )


class AgentPart(Part):
    """The agent on each replica's machine; its key is `SWITCHBOARD_AGENT_KEY`, here and there."""

    port: Port = Field(description="Where it listens.", examples=[8081])
    tls: Switch = Field(default=False, description="True if it speaks HTTPS.", examples=[True])


class ServePart(Part):
    """One vLLM server that `switchboard up` runs on this machine."""

    model: Name = Field(description="Which of the backend's models.", examples=["qwen"])
    port: Port = Field(description="Where it listens.", examples=[8000])
    host: Text | None = Field(
        default=None,
        description="The address that it listens on; that of the replica with this port if left"
        " out.",
        examples=["127.0.0.1"],
    )
    weights: Text | None = Field(
        default=None,
        description="What vLLM loads: a name on the Hub, or a path, which begins with `/` or `.`;"
        " the model's `id` if left out.",
        examples=["/models/qwen3-8b-awq"],
    )
    gpus: list[Index] = Field(
        default=[],
        description="The GPUs that it uses, by their numbers; several share the model.",
        examples=[[0]],
    )
    quantization: Text | None = Field(
        default=None, description="vLLM's `--quantization`.", examples=["awq"]
    )
    args: dict[Text, Text | int | float | bool] = Field(
        default={},
        description="More of vLLM's options, by name without dashes; `false` turns a switch off.",
        examples=[{"max-model-len": 8192, "enable-prefix-caching": True}],
    )
    env: dict[Text, Text | int] = Field(
        default={},
        description="Variables of its environment, such as tokens, which must not be options.",
        examples=[{"HF_HUB_OFFLINE": 1}],
    )


class VllmPart(HostedPart):
    """vLLM, self-hosted: data may stay internal, and adapters are loaded through its API."""

    kind: Literal["vllm"] = Field(description="vLLM.")
    replicas: list[ReplicaUrl] = Field(
        default=[],
        description="Base URLs, without `/v1`; or `dns://NAME:PORT`, of which each address is one,"
        " and they may come and go. Each serves all of the models that have none of their own.",
        examples=[["http://gpu-1:8000"], ["dns://vllm.ml.svc:8000"]],
    )
    turns: TurnsPart | None = Field(
        default=None,
        description="Models that share a GPU, of which one is awake at a time.",
        examples=[{"stay": "10 s"}],
    )
    agent: AgentPart | None = Field(
        default=None,
        description="`switchboard agent` beside each replica, where no directory is shared.",
        examples=[{"port": 8081}],
    )
    adapter_store: AdapterStorePart | Text | None = Field(
        default=None,
        description="Where the adapters' directories lie; a plain path if both machines share it.",
        examples=[{"here": "/mnt/adapters", "on_replicas": "/adapters"}],
    )
    serve: list[ServePart] = Field(
        default=[],
        description="Servers that `switchboard up` runs here; on Kubernetes leave it out.",
        examples=[[{"model": "qwen", "port": 8000, "gpus": [0]}]],
    )
    lora: LoraPart = Field(
        default=LoraPart(),
        description="How many adapters each replica holds, and of what rank.",
        examples=[{"slots": 8, "cpu_slots": 32, "max_rank": 64}],
    )
    models: dict[Name, VllmModelPart] = Field(
        min_length=1, description="What it serves.", examples=[{"qwen": {"id": "Qwen/Qwen3-8B"}}]
    )


class OpenaiPart(HostedPart):
    """Anything that speaks OpenAI's API."""

    kind: Literal["openai"] = Field(description="OpenAI's API.")
    url: Url | None = Field(
        default=None,
        description="The base URL that an SDK would take.",
        examples=["https://api.openai.com/v1"],
    )
    replicas: list[Url] | None = Field(
        default=None,
        min_length=1,
        description="Several base URLs of one and the same service, instead of `url`.",
        examples=[["http://gpu-1:8000/v1", "http://gpu-2:8000/v1"]],
    )
    proxy: Url | None = Field(
        default=None,
        description="The HTTP proxy through which it is reached.",
        examples=["http://proxy.example:3128"],
    )
    internal: Switch = Field(
        default=False,
        description="True for what one hosts oneself: `data: internal` may go there.",
        examples=[True],
    )
    models: dict[Name, HostedModelPart] = Field(
        min_length=1, description="What it serves.", examples=[{"mini": {"id": "gpt-5-mini"}}]
    )


class LitellmPart(BackendPart):
    """Every other provider, through litellm in a process of its own."""

    kind: Literal["litellm"] = Field(description="litellm.")
    provider: Text = Field(description="litellm's name of the provider.", examples=["anthropic"])
    url: Url | None = Field(
        default=None,
        description="The provider's base URL where it is not the usual one.",
        examples=["https://example.openai.azure.com"],
    )
    arguments: dict[Text, object] = Field(
        default={},
        description="What litellm takes with each call to this provider.",
        examples=[{"api_version": "2025-03-01"}],
    )
    parameters: list[Text] = Field(
        default=[],
        description="Parameters of a request that the provider takes though litellm does not know"
        " of it.",
        examples=[["reasoning_effort"]],
    )
    models: dict[Name, ModelPart] = Field(
        min_length=1,
        description="What it serves.",
        examples=[{"haiku": {"id": "claude-haiku-4-5"}}],
    )


AnyBackend = Annotated[VllmPart | OpenaiPart | LitellmPart, Field(discriminator="kind")]


class BudgetPart(Part):
    """What may be spent."""

    day: Money | None = Field(default=None, description="In a day of UTC.", examples=["10 usd"])
    month: Money | None = Field(
        default=None, description="In a month of UTC.", examples=["200 usd"]
    )


class QuotaPart(Part):
    """Limits and budgets; each that is left out is none."""

    requests: Rated | None = Field(
        default=None,
        description="Requests in any minute (or second, or hour).",
        examples=["600/min"],
    )
    tokens: Rated | None = Field(
        default=None,
        description="Tokens, of input and output, in any minute (or second, or hour).",
        examples=["100k/min"],
    )
    concurrent: Whole | None = Field(default=None, description="Requests at once.", examples=[20])
    budget: BudgetPart = Field(
        default=BudgetPart(),
        description="What may be spent.",
        examples=[{"day": "10 usd", "month": "200 usd"}],
    )


class AlertsPart(Part):
    """Who is told when a share of a budget is spent."""

    at: list[Share] = Field(
        default=[0.5, 0.8, 1.0],
        min_length=1,
        description="At which shares of a day's or a month's budget; once each.",
        examples=[["50 %", "80 %", "100 %"]],
    )
    webhook: Url = Field(
        description="Where a JSON object is sent by POST. Redirects are not followed.",
        examples=["https://alerts.example/switchboard"],
    )
    secret: HeaderValue = Field(
        description="What it is signed with, by HMAC-SHA256.",
        examples=["${SWITCHBOARD_ALERTS_SECRET}"],
    )


class QuotasPart(Part):
    """Limits and budgets of keys and tenants."""

    every_key: QuotaPart | None = Field(
        default=None,
        description="Of each key; a key may have others: `switchboard keys limit`.",
        examples=[{"requests": "600/min", "budget": {"day": "10 usd"}}],
    )
    every_tenant: QuotaPart | None = Field(
        default=None,
        description="Of each tenant, all of its keys together.",
        examples=[{"budget": {"month": "500 usd"}}],
    )
    tenants: dict[Text, QuotaPart] = Field(
        default={},
        description="Of one tenant; what is left out is as for every tenant.",
        examples=[{"acme": {"budget": {"month": "2000 usd"}}}],
    )
    alerts: AlertsPart | None = Field(
        default=None,
        description="Who is told when a share of a budget is spent.",
        examples=[
            {
                "webhook": "https://alerts.example/switchboard",
                "secret": "${SWITCHBOARD_ALERTS_SECRET}",
            }
        ],
    )


class GatewayFile(Part):
    """`gateway.yaml`: every backend, model, adapter and price, each declared once."""

    server: ServerPart = Field(
        default=ServerPart(),
        description="The gateway's own side.",
        examples=[{"listen": "127.0.0.1:8080"}],
    )
    store: StoreUrl = Field(
        default=_SERVER.store,
        description="Where requests, keys and revisions are kept.",
        examples=["postgresql://user@host/switchboard"],
    )
    coordinator: CoordinatorPart | CoordinatorUrl | None = Field(
        default=None,
        description="Redis: needed only with several workers or hosts. Its URL, or a mapping.",
        examples=["redis://host:6379", {"url": "redis://host:6379", "name": "switchboard"}],
    )
    classifier: ClassifierPart = Field(
        default=ClassifierPart(),
        description="How a text's route is learned.",
        examples=[{"kind": "lexical"}],
    )
    aliases: dict[Text, Text] = Field(
        default={},
        description="Names that applications already send, and the route or target meant, or"
        " `auto`.",
        examples=[{"gpt-4o": "auto"}],
    )
    default_route: Name = Field(
        description="The route of whatever no other route is recognised in.", examples=["general"]
    )
    limits: QuotasPart = Field(
        default=QuotasPart(),
        description="Limits and budgets of keys and tenants.",
        examples=[{"every_key": {"requests": "600/min", "budget": {"day": "10 usd"}}}],
    )
    backends: dict[Name, AnyBackend] = Field(
        min_length=1,
        description="Servers and providers by name.",
        examples=[
            {
                "local": {
                    "kind": "vllm",
                    "replicas": ["http://gpu-1:8000"],
                    "models": {"qwen": {"id": "Qwen/Qwen3-8B"}},
                }
            }
        ],
    )


# ---------------------------------------------------------------- routes/*.yaml


class MatchPart(Part):
    """How a route is recognised. All but the examples are certain."""

    headers: dict[HeaderName, HeaderValue] = Field(
        default={},
        description="The request has all of these headers.",
        examples=[{"x-workflow": "legal"}],
    )
    keywords: list[Text] = Field(
        default=[],
        description="One of these stands in the last user message as a whole word.",
        examples=[["clause", "lessee"]],
    )
    patterns: list[Pattern] = Field(
        default=[],
        description="One of these regular expressions is found in the last user message.",
        examples=[["(?i)section [0-9]+"]],
    )
    examples: list[Text] = Field(
        default=[],
        description="Messages of this kind; a classifier is learned from them.",
        examples=[["Summarise this clause in one sentence."]],
    )


class CandidatePart(Part):
    """A target that could do a route's work, and how well."""

    target: TargetName = Field(
        description="A declared target; `+{key.tenant}` is the adapter named by the caller's key.",
        examples=["local/qwen+contracts"],
    )
    quality: Share = Field(
        description="The share of its answers that are right.", examples=[0.97, "97 %"]
    )
    observations: Positive = Field(
        default=20.0, description="How many observations `quality` is worth.", examples=[200]
    )
    system: Text | None = Field(
        default=None,
        description="A file with a system prompt of this candidate's own, put before the"
        " application's messages; from the configuration's directory.",
        examples=["prompts/contracts-base.md"],
    )


class QuestionPart(Part):
    """What an experiment is to answer: whether an arm is better or no worse than another, which one
    of `better_than` and `no_worse_than` names; or, without any arm, which of all is best."""

    arm: Name | None = Field(
        default=None,
        description="The arm that it is about; left out, the question is which of all is best.",
        examples=["lora"],
    )
    metric: Name = Field(
        description="The metric of the route that is compared.", examples=["accepted"]
    )
    better_than: Name | None = Field(
        default=None,
        description="Is it better than that arm, by more than `margin`?",
        examples=["commercial"],
    )
    no_worse_than: Name | None = Field(
        default=None,
        description="Is it not worse than that arm, by more than `margin`?",
        examples=["commercial"],
    )
    margin: Points = Field(
        default=0.0,
        description="By how much. For `no_worse_than` what a cheaper or faster arm may be worse;"
        " for the best arm, what another may be better, so that of two alike ones one is found.",
        examples=["2 points"],
    )


class GuardsPart(Part):
    """What stops an experiment at once, its traffic going to the control. They are for the arms
    other than the control, and speak when the limit is surely passed."""

    first_token_p95: Seconds | None = Field(
        default=None, description="95 of 100 first tokens come within this.", examples=["2 s"]
    )
    errors: Share | None = Field(
        default=None,
        description="Most of its requests that an arm may fail, be it that another target answered"
        " in its place.",
        examples=["1 %"],
    )


class StopPart(Part):
    """When it ends, answered or not."""

    spend: Usd | None = Field(
        default=None, description="Its requests have cost that.", examples=["500 usd"]
    )
    days: Positive | None = Field(default=None, description="It is that old.", examples=[30])


class ExperimentPart(Part):
    """Arms that get traffic by chance, so that they can be compared."""

    arms: dict[Name, TargetName] = Field(
        min_length=2,
        description="The targets that are compared, by names of their own. They need not be"
        " candidates of the route.",
        examples=[{"commercial": "openai/mini", "lora": "local/qwen+contracts"}],
    )
    traffic: Share = Field(
        description="What share of the route's users, conversations or keys take part.",
        examples=["20 %"],
    )
    shares: dict[Name, Share] | None = Field(
        default=None,
        description="What each arm gets of that; the same if not given. A bandit begins with it.",
        examples=[{"commercial": "50 %", "lora": "50 %"}],
    )
    stick_to: StickTo = Field(
        default="user",
        description="Whose requests keep their arm: `user` (`safety_identifier` or `user` in the"
        " body; where there is none, the conversation), `conversation`, `key`, or a header.",
        examples=["user", "header:x-workspace"],
    )
    mode: Literal["fixed", "bandit"] = Field(
        default="fixed",
        description="Whether shares stay, or follow what arms are worth in dollars (Thompson"
        " sampling).",
        examples=["bandit"],
    )
    question: QuestionPart | None = Field(
        default=None,
        description="What is to be answered.",
        examples=[{"arm": "lora", "metric": "accepted", "better_than": "commercial"}],
    )
    guards: GuardsPart = Field(
        default=GuardsPart(),
        description="What stops it at once.",
        examples=[{"first_token_p95": "2 s", "errors": "1 %"}],
    )
    confidence: Share = Field(
        default=0.95, description="How sure the answer is to be.", examples=["95 %"]
    )
    stop_at: StopPart = Field(
        default=StopPart(),
        description="When it ends in any case.",
        examples=[{"spend": "500 usd", "days": 30}],
    )
    when_answered: Literal["promote", "report"] = Field(
        default="report",
        description="`promote` makes a revision with the `winner`; `report` ends it and says so.",
        examples=["promote"],
    )
    latency: Literal["as_it_comes", "switchback"] = Field(
        default="as_it_comes",
        description="`switchback` gives whole slots of time to one arm: for arms that share"
        " replicas, where each slows the other.",
        examples=["switchback"],
    )
    slot: Seconds = Field(default=600.0, description="How long such a slot is.", examples=["10 m"])
    winner: Name | None = Field(
        default=None,
        description="The experiment is over: all of the route's requests go to this arm first.",
        examples=["lora"],
    )


class MetricPart(Part):
    """What is said of an answer, and when it makes the answer right."""

    type: Literal["boolean", "score"] = Field(
        default="boolean", description="Yes or no, or a number.", examples=["score"]
    )
    source: Literal["feedback", "judge", "check"] = Field(
        default="feedback",
        alias="from",
        description="Who says it: who got the answer, a model that judges, or a check by code.",
        examples=["judge"],
    )
    right_when: RightWhen | None = Field(
        default=None,
        description="When it makes the answer right: `true` or `false` for a boolean, a comparison"
        " for a score; left out, a boolean's `true` does, and a score only is reported.",
        examples=[True, ">= 4"],
    )
    within: Seconds | None = Field(
        default=None,
        description="How long after the answer it still counts; left out, for ever.",
        examples=["48 h"],
    )


class ShadowPart(Part):
    """A copy of a share of the answered requests, for a target whose answers nobody gets."""

    target: TargetName = Field(
        description="Who answers the copies; it need not be a candidate of the route.",
        examples=["local/qwen+contracts"],
    )
    traffic: Share = Field(
        description="What share of the answered requests is copied.", examples=["5 %"]
    )
    budget: Money = Field(
        description="The most that copies may cost in a day of UTC; it is no part of any other"
        " budget.",
        examples=["5 usd"],
    )
    concurrent: Whole = Field(
        default=2,
        description="The most that are asked at a time; what comes beyond is not copied.",
        examples=[2],
    )


class RouteFile(Part):
    """`routes/*.yaml`: a kind of work, how to recognise it, who could do it."""

    name: Name = Field(description="What requests call it.", examples=["contract-summary"])
    description: str = Field(
        default="", description="What it is, for people.", examples=["Summarise a contract clause."]
    )
    value: Usd = Field(description="What one right answer is worth.", examples=["0.02 usd"])
    data: Literal["any", "internal"] = Field(
        default="any",
        description="`internal` never leaves self-hosted targets, whatever happens.",
        examples=["internal"],
    )
    keep: Literal["none", "features", "text"] = Field(
        default="features",
        description="What the store keeps of a request beside its figures; only `text` keeps"
        " prompts and answers.",
        examples=["features"],
    )
    priority: Literal["low", "normal", "high"] = Field(
        default="normal",
        description="Who is served first where there is not enough for all: a key's requests have"
        " four times the share on a `high` route, and a quarter on a `low` one.",
        examples=["high"],
    )
    match: MatchPart | Literal["named"] = Field(
        default=MatchPart(),
        description="How it is recognised; `named` for a route that only its name leads to.",
        examples=[{"keywords": ["clause"]}, "named"],
    )
    candidates: list[CandidatePart] = Field(
        min_length=1,
        description="The targets that could do it.",
        examples=[[{"target": "local/qwen+contracts", "quality": 0.97}]],
    )
    policy: Name = Field(description="How to choose among them.", examples=["balanced"])
    limits: QuotaPart | None = Field(
        default=None,
        description="Limits and budgets of the route, whoever asks.",
        examples=[{"requests": "6000/min", "budget": {"day": "50 usd"}}],
    )
    shadow: ShadowPart | None = Field(
        default=None,
        description="A target that answers copies of requests, to be looked at later.",
        examples=[{"target": "local/qwen+contracts", "traffic": "5 %", "budget": "5 usd"}],
    )
    experiments: dict[Name, ExperimentPart] = Field(
        default={},
        description="Targets that are compared on a share of its traffic, by name; see"
        " [experiments.md](experiments.md). Put new ones last: users keep their places then.",
        examples=[
            {
                "lora-vs-commercial": {
                    "arms": {"commercial": "openai/mini", "lora": "local/qwen+contracts"},
                    "traffic": "20 %",
                }
            }
        ],
    )
    metrics: dict[Name, MetricPart] = Field(
        default={},
        description="What is said of its answers.",
        examples=[{"accepted": {"type": "boolean", "from": "feedback", "within": "48 h"}}],
    )
    right: Name | None = Field(
        default=None,
        description="The metric that says whether an answer is right; the others are reported.",
        examples=["accepted"],
    )
    half_life: Seconds = Field(
        default=30 * 86_400.0,
        description="After how long what was said of an answer counts half: what a provider changes"
        " without a word shows the sooner.",
        examples=["7 d"],
    )


# ---------------------------------------------------------------- policies/*.yaml


class WaitingPart(Part):
    """What a second of waiting costs us."""

    first_token: Waiting = Field(
        default=_POLICY.waiting_first_token,
        description="To the first token.",
        examples=["0.002 usd/s"],
    )
    whole: Waiting = Field(
        default=_POLICY.waiting_whole,
        description="For the whole answer.",
        examples=["0.0005 usd/s"],
    )


class LimitsPart(Part):
    """What rules a candidate out."""

    cost: Usd | None = Field(
        default=None, description="Most that a request may cost.", examples=["0.01 usd"]
    )
    first_token_p95: Seconds | None = Field(
        default=None, description="95 of 100 first tokens come within this.", examples=["1.5 s"]
    )
    whole_p95: Seconds | None = Field(
        default=None, description="95 of 100 answers are whole within this.", examples=["20 s"]
    )
    quality: Share | None = Field(
        default=None, description="Least share of right answers.", examples=[0.8]
    )


class WeighPart(Part):
    """How much two of the objective's terms count; 1 is their worth in dollars, 0 nothing."""

    quality: Number = Field(
        default=_POLICY.value_weight, description="What a right answer is worth.", examples=[1]
    )
    price: Number = Field(default=_POLICY.price_weight, description="What it costs.", examples=[1])


class BackoffPart(Part):
    """How long is waited before the same is asked again; a random part of it is left out."""

    first: Seconds = Field(
        default=_POLICY.backoff_first_s,
        description="Before the first time; twice as long before each further one.",
        examples=["200 ms"],
    )
    most: Seconds = Field(
        default=_POLICY.backoff_most_s,
        description="Never longer. A backend that wants to be left alone for longer (`retry-after`)"
        " is not waited for.",
        examples=["5 s"],
    )


class BreakerPart(Part):
    """When a target that fails is left alone, at the replica where it does."""

    failures: Whole = Field(
        default=_BREAKING.failures, description="After so many in a row.", examples=[5]
    )
    share: Share = Field(
        default=_BREAKING.share,
        description="Or when so many of the last requests failed, of ten at least.",
        examples=["50 %"],
    )
    window: Seconds = Field(
        default=_BREAKING.window_s,
        description="How long a failure counts for that share.",
        examples=["30 s"],
    )
    pause: Seconds = Field(
        default=_BREAKING.first_s,
        description="How long it is left alone before one request tries it again; twice as long"
        " each time that this fails, too.",
        examples=["2 s"],
    )
    most: Seconds = Field(
        default=_BREAKING.most_s, description="Never for longer.", examples=["1 m"]
    )


class OnFailurePart(Part):
    """What is done about failures."""

    tries: Whole = Field(
        default=_POLICY.tries,
        description="How many candidates are asked at most, one after the other, while nothing was"
        " sent to the client.",
        examples=[3],
    )
    retries: Index = Field(
        default=_POLICY.retries,
        description="How many times a candidate is asked again at most, where what failed may pass:"
        " it was busy or broken, or took no connection.",
        examples=[2],
    )
    again: Literal["cheaper", "first", "last"] = Field(
        default=_POLICY.again,
        description="When a candidate is asked again: `first`, before another one is asked; `last`,"
        " after all others have failed; or whichever is `cheaper` by this policy: waiting, or the"
        " next candidate.",
        examples=["last"],
    )
    backoff: BackoffPart = Field(
        default=BackoffPart(),
        description="How long is waited before it is asked again.",
        examples=[{"first": "200 ms", "most": "5 s"}],
    )
    hedge: Share = Field(
        default=_POLICY.hedge,
        description="Share of the requests for which a second candidate may be asked when the first"
        " is later than 95 of 100 times, where waiting costs more than asking twice. The one that"
        " is later is cancelled.",
        examples=["5 %"],
    )
    continue_: Switch = Field(
        default=_POLICY.carry_on,
        alias="continue",
        description="Whether a stream that breaks off is gone on with by the next candidate, from"
        " the text that was sent. Chat text only: no tools, one choice, no format.",
        examples=[True],
    )
    breaker: BreakerPart = Field(
        default=BreakerPart(),
        description="When a target is left alone because it fails.",
        examples=[{"failures": 5, "pause": "2 s"}],
    )
    first_token: Seconds | None = Field(
        default=None,
        description="How long the first token of a stream may take; then the next candidate is"
        " asked.",
        examples=["10 s"],
    )
    total: Seconds | None = Field(
        default=None,
        description="What the whole answer may take, all tries together. A client may give less"
        " with the header `x-request-timeout`.",
        examples=["2 m"],
    )


class PolicyFile(Part):
    """`policies/*.yaml`: how to trade quality, money and time."""

    name: Name = Field(description="What routes call it.", examples=["balanced"])
    waiting: WaitingPart = Field(
        default=WaitingPart(),
        description="What a second of waiting costs us.",
        examples=[{"first_token": "0.002 usd/s", "whole": "0.0005 usd/s"}],
    )
    limits: LimitsPart = Field(
        default=LimitsPart(),
        description="What rules a candidate out.",
        examples=[{"cost": "0.01 usd", "quality": 0.8}],
    )
    if_none_fits: Literal["best", "refuse"] = Field(
        default=_POLICY.if_none_fits,
        description="When limits leave nothing: `best` takes the least bad, `refuse` answers 503.",
        examples=["best"],
    )
    quality: Literal["known", "learned"] = Field(
        default="known",
        description="P(right) of a candidate: as it is `known` of the whole route, or as `learned`"
        " by `switchboard train` for prompts such as the one asked, where that is sure.",
        examples=["learned"],
    )
    switch_if_better_by: Share = Field(
        default=_POLICY.switch_margin,
        description="Another target takes over only if it is better by more than this.",
        examples=["5 %"],
    )
    explore: Share = Field(
        default=_POLICY.explore,
        description="Share of requests that go to any fitting candidate, to learn from.",
        examples=["2 %"],
    )
    on_cold: Literal["wait", "base", "external"] | None = Field(
        default=_POLICY.on_cold,
        description="When the best target's adapter is not loaded: `wait` for it, take its `base`,"
        " or an `external` target. Left out, the seconds of loading count like any others.",
        examples=["base"],
    )
    weigh: WeighPart = Field(
        default=WeighPart(),
        description="How much quality and price count: `{price: 0}` makes `best`,"
        " `{quality: 0}` makes `cheapest`.",
        examples=[{"quality": 1, "price": 1}],
    )
    on_failure: OnFailurePart = Field(
        default=OnFailurePart(),
        description="What is done where a backend fails.",
        examples=[{"tries": 3, "total": "2 m"}],
    )


# ---------------------------------------------------------------- evals/*.yaml


class ScorerPart(Part):
    """How an answer is scored, from 0 to 1."""

    kind: Literal[
        "exact",
        "normalised",
        "contains",
        "regex",
        "number",
        "schema",
        "fields",
        "bleu",
        "rouge",
        "similarity",
        "code",
        "judge",
        "python",
    ] = Field(
        description="What it looks at: the text, to the letter or but for case, punctuation and"
        " spaces; the last number; JSON that fits a schema, or the F1 of its fields; BLEU, ROUGE-L;"
        " the similarity of a sentence encoder's vectors; code that is run; a model that judges; a"
        " function of your own.",
        examples=["number"],
    )
    tolerance: Number = Field(
        default=0.0, description="`number`: how far off it may be.", examples=[0.01]
    )
    relative: Share = Field(
        default=0.0, description="`number`: how far off in parts of it.", examples=["1 %"]
    )
    schema_file: Text | None = Field(
        default=None,
        alias="schema",
        description="`schema`: the JSON Schema's file, beside the suite.",
        examples=["ticket.schema.json"],
    )
    target: TargetName | None = Field(
        default=None,
        description="`judge`: the target that judges, asked through the gateway.",
        examples=["openai/mini"],
    )
    rubric: Text | None = Field(
        default=None,
        description="`judge`: what a good answer is, in words.",
        examples=["Correct, polite and at most two sentences."],
    )
    against: Literal["rubric", "expected"] = Field(
        default="rubric",
        description="`judge`: marks by the rubric, or whether the answer is better than the"
        " expected one; asked in both orders, and half right where the orders disagree.",
        examples=["expected"],
    )
    scale: Whole = Field(default=5, description="`judge`: marks from 1 to this.", examples=[5])
    run: Text | None = Field(
        default=None,
        description="`code`: the file of Python that is run, `{output}` and the case's fields put"
        " in; right where it ends with 0.",
        examples=["check.py"],
    )
    timeout: Seconds = Field(
        default=10.0, description="`code`: how long it may take.", examples=["10 s"]
    )
    memory: Size = Field(
        default=512 * 2**20, description="`code`: what it may take.", examples=["512 MiB"]
    )
    function: Text | None = Field(
        default=None,
        description="`python`: `module:function` beside the suite; it is given what was said, what"
        " was expected and the case's fields, and answers 0 to 1. It is run as it is.",
        examples=["scorers:on_time"],
    )
    right_when: RightWhen | None = Field(
        default=None,
        description="From which score on an answer is right; `= 1` if left out.",
        examples=[">= 0.8"],
    )


class AskedPart(Part):
    """A target of a suite, with what is its own of how it is asked."""

    target: TargetName = Field(description="A declared target.", examples=["local/qwen"])
    system: Text | None = Field(
        default=None,
        description="A system prompt of its own.",
        examples=["Answer with one word."],
    )
    prompt: Text | None = Field(
        default=None, description="A template of its own.", examples=["Q: {input}\nA:"]
    )


class SuiteFile(Part):
    """`evals/*.yaml`: cases with known answers, who is asked, and how an answer is scored."""

    name: Name = Field(description="What it is called.", examples=["support"])
    route: Name | None = Field(
        default=None,
        description="The route that it is about: its candidates are asked, its results can feed"
        " what is known of them, and its `data` holds.",
        examples=["support"],
    )
    data: Text = Field(
        description="The cases, as JSONL or CSV beside this file or by path.",
        examples=["support.jsonl"],
    )
    cases: Whole | None = Field(
        default=None,
        description="How many of them are taken, by chance and always the same; all if left out.",
        examples=[200],
    )
    prompt: Text = Field(
        default="{input}",
        description="What is asked; `{input}` stands for the case's, and other fields likewise.",
        examples=["Which queue? {input}"],
    )
    expected: Text = Field(
        default="{expected}",
        description="The answer that is wanted, from the case's fields.",
        examples=["{label}"],
    )
    system: Text | None = Field(
        default=None, description="A system prompt.", examples=["Answer with one word."]
    )
    max_tokens: Whole = Field(default=64, description="Of an answer.", examples=[64])
    temperature: Number = Field(default=0.0, description="Of an answer.", examples=[0.7])
    repetitions: Whole = Field(
        default=1, description="How often each case is asked of each target.", examples=[3]
    )
    seed: Index = Field(
        default=0, description="Of the choice of cases, and of answers.", examples=[7]
    )
    targets: list[TargetName | AskedPart] = Field(
        default=[],
        description="Who is asked; the candidates of its route if left out.",
        examples=[["local/qwen", {"target": "openai/mini", "system": "Answer with one word."}]],
    )
    score: Literal["exact", "normalised", "contains", "regex"] = Field(
        default="exact",
        description="The one scorer, where `scorers` has none.",
        examples=["normalised"],
    )
    scorers: dict[Name, ScorerPart] = Field(
        default={},
        description="How an answer is scored, by names of your own.",
        examples=[{"amount": {"kind": "number", "tolerance": 0.01}}],
    )
    right: Name | None = Field(
        default=None,
        description="The scorer that says whether an answer is right; the first if left out.",
        examples=["amount"],
    )
