"""`gateway.yaml`: servers and providers, their replicas and how they are run."""

from typing import Annotated, Literal

from pydantic import Field

from gateway.config.fields import (
    HeaderName,
    HeaderValue,
    Index,
    Name,
    Port,
    Positive,
    ReplicaUrl,
    Seconds,
    Switch,
    Text,
    Url,
    Usd,
    Whole,
)
from gateway.config.files.models import HostedModelPart, ModelPart, VllmModelPart
from gateway.config.files.part import Part
from gateway.types.backends import Admission, Timeouts, Turns

_TIMEOUTS, _TURNS, _ADMISSION = Timeouts(), Turns(), Admission()


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
        " replica says decides: a vLLM engine's own line, a provider's 429 and 503, or how"
        " long its answers take.",
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
