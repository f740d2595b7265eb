"""The domain's words as frozen values. Imports nothing of ours; everything may import it.

Units everywhere: money in US dollars, time in seconds, prices in dollars per token, shares and
probabilities in 0..1. Instants are Unix seconds.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal

import msgspec


class Endpoint(Enum):
    """The inference calls of OpenAI's API; the value is the path below `/v1/`."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"


# ---------------------------------------------------------------- what is configured


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


class Candidate(msgspec.Struct, frozen=True):
    """A target that a route may use.

    `target` is a declared name, or a pattern such as `local/qwen+{key.tenant}` that is resolved
    per caller. `quality` is P(right) as declared, worth `quality_n` observations. `system` is a
    system prompt's text of the candidate's own.
    """

    target: str
    quality: float
    quality_n: float = 20.0
    system: str | None = None


class Match(msgspec.Struct, frozen=True):
    """How a route is recognised: headers, keywords, patterns are certain, examples learned."""

    headers: Mapping[str, str] = {}
    keywords: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()


Keep = Literal["none", "features", "text"]

Priority = Literal["low", "normal", "high"]
"""Who is served first where there is not enough for all."""


class Rate(msgspec.Struct, frozen=True, gc=False):
    """At most `amount` in any `per_s` seconds."""

    amount: int
    per_s: float


class Quota(msgspec.Struct, frozen=True, gc=False):
    """The limits and budgets of a key, a tenant or a route; None is no limit. Dollars a day and a
    month, of UTC.

    `lifted` are limits that do not hold though one for everybody is declared.
    """

    requests: Rate | None = None
    tokens: Rate | None = None
    concurrent: int | None = None
    day: float | None = None
    month: float | None = None
    lifted: frozenset[str] = frozenset()

    def over(self, others: "Quota | None") -> "Quota":
        """These limits, and those of `others` where there is none here."""
        if others is None:
            return self
        lifted = self.lifted

        def of(name: str) -> Any:
            own = getattr(self, name)
            return own if own is not None or name in lifted else getattr(others, name)

        return Quota(of("requests"), of("tokens"), of("concurrent"), of("day"), of("month"))

    @property
    def limits(self) -> bool:
        """Whether anything is limited by it."""
        return any(
            each is not None
            for each in (self.requests, self.tokens, self.concurrent, self.day, self.month)
        )


class Alerts(msgspec.Struct, frozen=True):
    """Who is told when a share of a budget is spent: a signed POST to `webhook`."""

    at: tuple[float, ...]
    webhook: str
    secret: str

    def __repr__(self) -> str:
        return f"Alerts({self.at})"


class Quotas(msgspec.Struct, frozen=True):
    """What is declared for keys and tenants; a key may have other limits of its own."""

    every_key: Quota | None = None
    every_tenant: Quota | None = None
    tenants: Mapping[str, Quota] = {}
    alerts: Alerts | None = None


class Asked(msgspec.Struct, frozen=True):
    """What an experiment is to answer: whether `arm` is better than the arm `than` by more than
    `margin`, or, with `no_worse`, that it is not worse by more; with `best`, which of all arms is
    not worse than any other by more, and then it names none. In shares of `metric`."""

    arm: str
    than: str
    metric: str
    no_worse: bool
    margin: float = 0.0
    best: bool = False


class Experiment(msgspec.Struct, frozen=True):
    """Arms of a route that get traffic by chance, so that they can be compared.

    `arms` are targets by name; `shares` what each gets of `traffic`, at the start of a bandit too.
    `stick_to` says whose requests keep their arm. Guards: the 95th percentile of the time to the
    first token in seconds, and the share of requests that an arm fails. It stops after so many
    dollars or seconds. With `slot_s` whole stretches of time have one arm. `winner` is the arm that
    all of the route's requests go to from now on.
    """

    name: str
    arms: Mapping[str, str]
    shares: Mapping[str, float]
    traffic: float
    stick_to: str = "user"
    bandit: bool = False
    asked: Asked | None = None
    first_token_p95: float | None = None
    errors: float | None = None
    confidence: float = 0.95
    most_usd: float | None = None
    most_s: float | None = None
    promote: bool = False
    slot_s: float | None = None
    winner: str | None = None

    @property
    def control(self) -> str:
        """The arm that the others are compared with: the question's, or the first."""
        asked = self.asked
        return next(iter(self.arms)) if asked is None or asked.best else asked.than


class Shadow(msgspec.Struct, frozen=True):
    """A share of a route's answered requests is copied to `target`, whose answers nobody gets: for
    so many dollars in a day of UTC, and so many of them at a time."""

    target: str
    share: float
    day_usd: float
    concurrent: int = 2


class Standing(msgspec.Struct, frozen=True):
    """What has become of an experiment. `shares` are those that a bandit has come to.

    `guarded` where a guard has stopped it: its traffic goes to the control. `of` is a hash of what
    was declared, `since` when that began, and `why` is a sentence for people.
    """

    of: str
    since: float
    state: Literal["running", "stopped", "answered", "promoted"] = "running"
    guarded: bool = False
    why: str = ""
    shares: Mapping[str, float] = {}
    answer: bool | None = None


Comparison = Literal["=", ">=", ">", "<=", "<"]


class Metric(msgspec.Struct, frozen=True):
    """What is said of an answer of a route: a boolean is 1 or 0, a score any number.

    `source` says who says it. An answer is right where its value compares with `bound` so;
    None where the metric does not say. What comes later than `within_s` after the answer does not
    count; None is any time.
    """

    name: str
    type: Literal["boolean", "score"]
    source: Literal["feedback", "judge", "check"] = "feedback"
    comparison: Comparison | None = None
    bound: float = 0.0
    within_s: float | None = None

    def is_right(self, value: float) -> bool | None:
        """Whether an answer of this value is right; None where the metric does not say."""
        match self.comparison:
            case "=":
                return value == self.bound
            case ">=":
                return value >= self.bound
            case ">":
                return value > self.bound
            case "<=":
                return value <= self.bound
            case "<":
                return value < self.bound
        return None


class Route(msgspec.Struct, frozen=True):
    """A kind of work. `value` is what one right answer is worth, in dollars.

    `right` names the one of its `metrics` that says whether an answer is right. What was said of
    one loses half its weight in `half_life_s`.
    """

    name: str
    description: str
    value: float
    internal: bool
    match: Match
    candidates: tuple[Candidate, ...]
    policy: str
    keep: Keep = "features"
    priority: Priority = "normal"
    quota: Quota | None = None
    experiments: tuple[Experiment, ...] = ()
    shadow: Shadow | None = None
    metrics: tuple[Metric, ...] = ()
    right: str | None = None
    half_life_s: float = 30 * 86_400.0

    def metric(self, name: str | None) -> Metric | None:
        """The metric of that name, if it is declared."""
        return next((each for each in self.metrics if each.name == name), None)


class Limits(msgspec.Struct, frozen=True):
    """What a policy accepts of one request; None is no limit."""

    cost: float | None = None
    first_token_p95: float | None = None
    whole_p95: float | None = None
    quality: float | None = None


class Breaking(msgspec.Struct, frozen=True):
    """When a breaker opens: after so many `failures` in a row, or when at least `share` of the
    requests of the last `window_s` seconds have failed. It is left alone for `first_s`, then ever
    longer, up to `most_s`."""

    failures: int = 5
    share: float = 0.5
    window_s: float = 30.0
    first_s: float = 2.0
    most_s: float = 60.0


class Policy(msgspec.Struct, frozen=True):
    """How to trade off. `waiting_*` are dollars per second; `explore` and `switch_margin` shares.

    `value_weight` scales what a right answer is worth and `price_weight` what it costs, so that
    `cheapest`, `fastest` and `best` are policies in the same words. `on_cold` forces what is done
    where the best target's adapter is not loaded; None leaves it to the objective.

    Where a backend fails: `tries` candidates are asked at most, and `retries` times one is asked
    again, after `backoff_first_s` and then ever later, up to `backoff_most_s`; `again` says whether
    before another candidate, after all of them, or whichever is cheaper. The whole answer may take
    `total_s`, all of it together, and the first token of each stream tried `first_token_s`.
    For a share of at most `hedge` of the requests a second candidate is asked when the first is
    late. With `carry_on` a stream of text that breaks off is gone on with by another. Without
    `breaking` its failures open no breaker. With `learned` a candidate's quality is what was
    learned for prompts such as the one asked, where that is sure.
    """

    name: str
    waiting_first_token: float = 0.0
    waiting_whole: float = 0.0
    limits: Limits = Limits()
    if_none_fits: Literal["best", "refuse"] = "best"
    switch_margin: float = 0.0
    explore: float = 0.0
    value_weight: float = 1.0
    price_weight: float = 1.0
    on_cold: Literal["wait", "base", "external"] | None = None
    tries: int = 2
    retries: int = 1
    again: Literal["cheaper", "first", "last"] = "cheaper"
    backoff_first_s: float = 0.2
    backoff_most_s: float = 5.0
    total_s: float | None = None
    first_token_s: float | None = None
    hedge: float = 0.0
    carry_on: bool = False
    breaking: Breaking | None = Breaking()
    learned: bool = False


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


class Server(msgspec.Struct, frozen=True):
    """The gateway's own side. Sizes in bytes, times in seconds.

    An embedding classifier's encoder is a local directory (`encoder`) or a target that serves
    embeddings (`encoder_target`). `coordinator` is a Redis' URL; `coordinator_name` begins the keys
    that are ours there.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    max_head: int = 65_536
    max_body: int = 33_554_432
    max_bodies: int = 536_870_912
    head_timeout: float = 10.0
    body_timeout: float = 30.0
    max_open: int = 4096
    max_connections: int = 8192
    open_metrics: bool = False
    store: str = "sqlite:///switchboard.db"
    classifier: Literal["lexical", "embedding"] = "lexical"
    encoder: str | None = None
    encoder_target: str | None = None
    spool: int = 1 << 30
    workers: int = 1
    coordinator: str | None = None
    coordinator_name: str = "switchboard"


class Weight(msgspec.Struct, frozen=True):
    """What share of its traffic a target, backend or replica gets, by command of `author` at the
    instant `since`: 0 is drained, 1 as if nothing was said. `why` may be empty."""

    share: float
    why: str = ""
    author: str = ""
    since: float = 0.0


class Quality(msgspec.Struct, frozen=True):
    """What is known of P(right) of a target on a route: its mean, what that is worth in
    observations (`seen` of them other than declared), and the interval that has 95 % of it."""

    mean: float
    n: float
    seen: float
    low: float
    high: float


class Snapshot(msgspec.Struct, frozen=True):
    """One immutable compiled configuration; `hash` is of its content, `weights` by subject and
    `qualities` by route and target are not part of it."""

    hash: str
    server: Server
    default_route: str
    aliases: Mapping[str, str]
    routes: Mapping[str, Route]
    policies: Mapping[str, Policy]
    targets: Mapping[str, Target]
    backends: Mapping[str, Backend]
    adapters: tuple[Adapter, ...] = ()
    quotas: Quotas = Quotas()
    weights: Mapping[str, Weight] = {}
    qualities: Mapping[tuple[str, str], Quality] = {}


# ---------------------------------------------------------------- one request
# gc=False: none of these can be part of a cycle, and there are thousands of them between a request
# and its row in the store; walking them cost the collector 13 us a request.


Role = Literal["read", "operate", "apply", "admin"]
"""What a key may do besides asking models: see what runs and what was done; change what gets
requests (drain, weight, promote, canary, roll back); change the configuration; make keys."""

ROLES: tuple[Role, ...] = ("read", "operate", "apply", "admin")
"""In order: each may do what those before it may."""


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Who asks. `routes` None is every route; `direct` allows targets and overrides by header.

    `role` says which commands are open to it; None none, as for applications. `quota` are limits of
    its own.
    """

    key: str | None = None
    name: str = "anonymous"
    tenant: str | None = None
    routes: frozenset[str] | None = None
    direct: bool = True
    role: Role | None = None
    quota: Quota | None = None

    def may(self, needed: Role) -> bool:
        """Whether its role is `needed`, or one above."""
        return self.role is not None and ROLES.index(self.role) >= ROLES.index(needed)


class Needs(msgspec.Struct, frozen=True, gc=False):
    """What a request asks of a target; tokens are estimates made before any tokenizer.

    `media_hosts` are those that its pictures and the like are to be fetched from.
    """

    endpoint: str = "chat/completions"
    input_tokens: int = 0
    max_output: int | None = None
    tools: bool = False
    vision: bool = False
    audio: bool = False
    json_schema: bool = False
    media_hosts: tuple[str, ...] = ()


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request as the edge parsed it, once. `fields` holds the body's top-level values verbatim.

    `turns` are the user's texts, the latest first; classifiers read them. `asks_usage` is true
    when the client itself asked for a stream's usage event. `route` and `policy` are what headers
    asked for. `previous` names the response that this one continues. `choices` is OpenAI's `n`.
    `within_s` are the seconds that the client gives the whole answer. `size` is the body's, in
    bytes. `ref` is the application's own name for what it is about, `episode` for the piece of work
    that it is part of.
    """

    id: str
    endpoint: Endpoint
    model: str
    stream: bool
    fields: Mapping[str, msgspec.Raw]
    headers: Mapping[str, str]
    caller: Caller
    needs: Needs
    turns: tuple[str, ...] = ()
    asks_usage: bool = False
    route: str | None = None
    policy: str | None = None
    previous: str | None = None
    choices: int = 1
    within_s: float | None = None
    size: int = 0
    ref: str | None = None
    episode: str | None = None


Source = Literal[
    "named", "alias", "header", "keyword", "pattern", "classifier", "conversation", "default"
]
"""How a route was known."""


class Recognition(msgspec.Struct, frozen=True, gc=False):
    """Which route, and how it was known. `confidence` is 1 for everything but the classifier."""

    route: str
    by: Source
    confidence: float = 1.0
    detail: str = ""


class Question(msgspec.Struct, frozen=True, gc=False):
    """What `decide` is asked: a recognised request without its transport.

    `only` names the single target that the client asked for, if it did. `conversation` is the same
    number for requests of one conversation within this process, 0 where it has no beginning.
    `qualities` are P(right) on this very prompt, by index of the route's candidates, and below 0
    for one whose known quality is to count; None for all of them.
    """

    route: str
    policy: str
    needs: Needs
    caller: Caller
    only: str | None = None
    conversation: int = 0
    stream: bool = False
    qualities: tuple[float, ...] | None = None


class Choice(msgspec.Struct, frozen=True, gc=False):
    """One (target, replica) with every term of the objective.

    net = value x quality - cost - waiting.first_token x (first_token_s + others_s)
          - waiting.whole x (total_s + others_s)

    `load_s` is the part of both times that is expected of loading the adapter, and `others_s` the
    seconds that others lose by it; less `load_s` itself under `on_cold: wait`.
    """

    target: str
    replica: str
    candidate: int
    quality: float
    cost: float
    first_token_s: float
    total_s: float
    net: float
    propensity: float = 0.0
    verdict: str = ""
    load_s: float = 0.0
    others_s: float = 0.0


class RuledOut(msgspec.Struct, frozen=True, gc=False):
    """A candidate that could not be chosen, and why: a hard fact, a limit of the policy, or that
    it is away for now, such as an adapter that is being fetched.

    `choice` has the figures of its best replica where a limit ruled it out, and those of the one
    that is left alone for now because it fails; that one is asked when no other has answered.
    """

    target: str
    by: Literal["fact", "limit", "away"]
    reason: str
    choice: Choice | None = None


class Trial(msgspec.Struct, frozen=True, gc=False):
    """A request's part in an experiment: its arm, the probability of that, and a hash of what the
    arm sticks to."""

    experiment: str
    arm: str
    share: float
    unit: str


class Decision(msgspec.Struct, frozen=True, gc=False):
    """A ranked list, best first, with what produced it; enough to recompute it.

    `withheld` are the subjects that the draw left out, for they get but a share of their traffic.
    In a `trial` the arm's target stands first, whatever it is worth; and so does `pinned`, the
    target that an ended experiment left.
    """

    route: str
    policy: str
    snapshot: str
    ranked: tuple[Choice, ...]
    ruled_out: tuple[RuledOut, ...]
    draw: float
    explored: bool = False
    fits: bool = True
    withheld: tuple[str, ...] = ()
    trial: Trial | None = None
    pinned: str = ""

    @property
    def last_resorts(self) -> tuple[Choice, ...]:
        """What is left alone for failing: asked when nobody else has answered."""
        return tuple(
            out.choice for out in self.ruled_out if out.by == "away" and out.choice is not None
        )


# ---------------------------------------------------------------- what happened


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Tokens of one answer; `estimated` when the backend did not say."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    estimated: bool = False


Outcome = Literal["ok", "error", "truncated", "abandoned", "refused"]


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One upstream call. `status` is 0 when no head came back."""

    target: str
    replica: str
    reason: Literal["first", "fallback", "retry", "hedge", "continue"]
    started: float
    status: int
    outcome: Outcome
    error: str
    usage: Usage
    cost: float
    first_token_s: float | None
    total_s: float
    changed: tuple[str, ...] = ()


class Record(msgspec.Struct, frozen=True, gc=False):
    """What the store keeps of one request; `text`, `answer` and `messages` (as JSON, as they were
    sent) only where the route keeps text, `features` where it keeps features."""

    id: str
    decision_id: str
    started: float
    endpoint: str
    model: str
    stream: bool
    caller: Caller
    recognition: Recognition | None
    decision: Decision | None
    needs: Needs
    attempts: tuple[Attempt, ...]
    status: int
    outcome: Outcome
    error: str
    usage: Usage
    cost: float
    first_token_s: float | None
    total_s: float
    overhead_s: float
    completion_id: str | None = None
    text: str | None = None
    answer: str | None = None
    ref: str | None = None
    episode: str | None = None
    messages: str | None = None
    features: bytes | None = None
    experiment: str | None = None
    arm: str | None = None
    shadow_of: str | None = None
