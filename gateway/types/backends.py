"""Who answers: backends, the models and adapters that they serve, and the targets that follow."""

from collections.abc import Mapping
from typing import Literal

import msgspec


class Price(msgspec.Struct, frozen=True):
    """Dollars per token."""

    input: float = 0.0
    cached_input: float = 0.0
    output: float = 0.0


class Capabilities(msgspec.Struct, frozen=True):
    """Hard facts of a model: what it can take. `context` is in tokens, None if not declared.

    `media_from` are the hosts from which it may fetch what a request names by URL, in lower case,
    `.example.com` for all below one; None is any.
    """

    context: int | None = None
    tools: bool = True
    vision: bool = False
    audio: bool = False
    json_schema: bool = True
    endpoints: frozenset[str] = frozenset({"chat/completions", "completions"})
    media_from: frozenset[str] | None = None
    log_probabilities: bool = True


class Shaping(msgspec.Struct, frozen=True):
    """How a request's body is changed for one model: names are top-level keys of the body.

    `set` holds values as JSON text, put in only where the client sent none.
    """

    rename: Mapping[str, str] = {}
    drop: frozenset[str] = frozenset()
    set: Mapping[str, bytes] = {}


class Timeouts(msgspec.Struct, frozen=True):
    """Seconds. `first_byte` runs from the request sent to the head; `between` between two reads."""

    connect: float = 5.0
    first_byte: float = 60.0
    between: float = 60.0
    total: float = 600.0


class Canary(msgspec.Struct, frozen=True):
    """A share of a target's users or conversations goes to another version of its adapter."""

    target: str
    share: float


class Target(msgspec.Struct, frozen=True):
    """Backend + model + optional adapter, written `backend/model+adapter`, or with `@version`.

    `served` is the id that goes upstream. `internal` is true for self-hosted backends only.
    `replicas` are base URLs, without `/v1`. `first_token_s` and `tokens_per_s` are priors, used
    until live figures exist. `priced` is false where the price is yet to come from litellm's map.
    `missing` says why the target cannot be used yet: an adapter that is being fetched, or is bad.
    Without a version the live one is meant, or, for the share that it says, the canary's.
    `steps` are those of a composition, each with how often a client waits for it, as far as is
    declared. `first_tail` and `whole_tail` are priors, too: the 95th percentile over the mean, of
    the seconds to the first token, and of a composition's in all.
    """

    name: str
    backend: str
    model: str
    adapter: str | None
    served: str
    internal: bool
    price: Price
    capabilities: Capabilities
    shaping: Shaping
    replicas: tuple[str, ...]
    first_token_s: float = 0.5
    tokens_per_s: float = 50.0
    output_tokens: float = 200.0
    priced: bool = True
    version: str | None = None
    missing: str = ""
    canary: Canary | None = None
    steps: "tuple[tuple[float, Target], ...]" = ()
    first_tail: float = 2.0
    whole_tail: float = 2.0


class Serve(msgspec.Struct, frozen=True):
    """One vLLM server that `switchboard up` runs: `weights` are a name on the Hub or a path, `id`
    what it is served as; `args` are vLLM's options by name, without dashes."""

    model: str
    id: str
    weights: str
    host: str
    port: int
    gpus: tuple[int, ...] = ()
    quantization: str | None = None
    args: Mapping[str, str] = {}
    env: Mapping[str, str] = {}

    def __repr__(self) -> str:
        return f"Serve({self.model!r}, {self.host}:{self.port})"


class Turns(msgspec.Struct, frozen=True):
    """Models that share GPUs by vLLM's sleep mode. Times in seconds.

    `gpus` are, for each GPU, the servers that share it, of which one is awake; it stays so for
    `stay` while others are waited for. `queue` requests of a GPU may wait, each for `wait`. `swap`
    is what putting one to sleep and waking another takes, until that was measured.
    """

    gpus: tuple[tuple[str, ...], ...] = ()
    stay: float = 10.0
    queue: int = 64
    wait: float = 60.0
    swap: float = 5.0


class Admission(msgspec.Struct, frozen=True):
    """How many requests may be under way at each replica of a backend, and how many may wait.

    None for `concurrent` leaves it to what the replica says, and for `wait`, the seconds that one
    may wait, to how long answers take.
    """

    concurrent: int | None = None
    queue: int = 128
    wait: float | None = None


BackendKind = Literal["vllm", "openai", "litellm"]


class Backend(msgspec.Struct, frozen=True):
    """A server or provider as declared. `api_key` never leaves for anywhere but its own replicas.

    `proxy` is the forward proxy that its calls go through. `adapters_here` is the directory that
    adapters' relative sources lie in, on this machine; what was fetched and checked is kept in
    `shelf_here`, which its replicas see as `shelf_on_replicas`; or `agent` is the URL of what keeps
    a shelf beside each, with `{host}` for the replica's. A replica of `dns://` is each address of
    the name. A model with servers of its own is a backend of its own, called `backend:model`, and
    `turns` says how it shares GPUs with the others. `replica_hour` is in dollars, and `idle` says
    who is billed for idle time. `serve` are the servers that `switchboard up` runs. `slots`,
    `cpu_slots` and `max_rank` are vLLM's `--max-loras`, `--max-cpu-loras` and `--max-lora-rank`.
    With `may_train` its terms let its answers be trained on. The four before it are for litellm's
    process, which is the one replica of such a backend: the provider's own base URL if it is not
    the usual one, its ids by declared model, what goes with each of its calls, and body parameters
    that litellm does not know of.
    """

    name: str
    kind: BackendKind
    replicas: tuple[str, ...]
    api_key: str | None = None
    provider: str | None = None
    headers: Mapping[str, str] = {}
    proxy: str | None = None
    timeouts: Timeouts = Timeouts()
    adapters_here: str = ""
    shelf_here: str = ""
    shelf_on_replicas: str = ""
    replica_hour: float | None = None
    idle: Literal["ours", "shared"] = "ours"
    agent: str | None = None
    turns: Turns | None = None
    admission: Admission = Admission()
    serve: tuple[Serve, ...] = ()
    slots: int | None = None
    cpu_slots: int | None = None
    max_rank: int | None = None
    api_base: str | None = None
    models: Mapping[str, str] = {}
    arguments: Mapping[str, object] = {}
    parameters: tuple[str, ...] = ()
    may_train: bool = False

    def __repr__(self) -> str:
        return f"Backend({self.name!r}, {self.kind})"

    def api_url(self, replica: str) -> str:
        """The base URL of a replica's API: providers' is as SDKs take it, others' lacks /v1."""
        url = replica.rstrip("/")
        return url if self.kind == "openai" or url.endswith("/v1") else f"{url}/v1"


def declared_as(backend: str) -> str:
    """The name that a backend has in the files, without the model that has servers of its own."""
    return backend.partition(":")[0]


class Version(msgspec.Struct, frozen=True):
    """One set of an adapter's files: of a source, or mixed from other adapters of the same model.

    `source` is a path, or a URL that `gateway.adapters.sources` knows; `sha256` what its content
    must hash to. `mix` holds weights by adapter, `rank` what the mix is reduced to,
    `dtype` what it is stored in.
    """

    name: str
    source: str | None = None
    sha256: str | None = None
    mix: Mapping[str, float] = {}
    rank: int | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None


class Adapter(msgspec.Struct, frozen=True):
    """A LoRA of one vLLM backend's model, in at least one version, as they were written.

    `base_id` is what the backend calls the model, `base_config` the path of its `config.json` on
    this machine. `base_matches` is the team's word that the adapter was trained on this base,
    whatever its files say.
    """

    backend: str
    model: str
    name: str
    versions: tuple[Version, ...]
    base_id: str = ""
    base_config: str | None = None
    base_matches: bool = False

    @property
    def target(self) -> str:
        """The name of the target that it makes with its model."""
        return f"{declared_as(self.backend)}/{self.model}+{self.name}"
