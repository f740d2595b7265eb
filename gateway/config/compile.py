"""Turns valid models into the domain's frozen values. Pure."""

import hashlib
import posixpath
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from gateway.config.files.backends import (
    AdapterStorePart,
    AnyBackend,
    HostedPart,
    LitellmPart,
    OpenaiPart,
    ServePart,
    VllmPart,
)
from gateway.config.files.experiments import ExperimentPart
from gateway.config.files.gateway import GatewayFile
from gateway.config.files.limits import QuotaPart, QuotasPart
from gateway.config.files.models import (
    ENDPOINTS,
    AdapterPart,
    HostedModelPart,
    ModelPart,
    VersionPart,
    VllmModelPart,
)
from gateway.config.files.policies import PolicyFile
from gateway.config.files.routes import CandidatePart, MatchPart, MetricPart, RouteFile
from gateway.config.files.server import CoordinatorPart
from gateway.types.backends import (
    Adapter,
    Admission,
    Backend,
    Capabilities,
    Price,
    Serve,
    Shaping,
    Target,
    Timeouts,
    Turns,
    Version,
    declared_as,
)
from gateway.types.experiments import Asked, Experiment
from gateway.types.limits import Alerts, Quota, Quotas
from gateway.types.policies import Breaking, Limits, Policy
from gateway.types.routes import Candidate, Comparison, Match, Metric, Route, Shadow
from gateway.types.snapshot import Server, Snapshot

SECONDS_PER_HOUR = 3600
SECONDS_PER_DAY = 86400


def server(file: GatewayFile, directory: Path) -> Server:
    """The gateway's own side; the encoder's directory becomes absolute."""
    part, classifier = file.server, file.classifier
    host, port = part.listen
    encoder = classifier.directory
    return Server(
        host=host,
        port=port,
        max_head=part.max_head,
        max_body=part.max_body,
        max_bodies=part.max_bodies,
        head_timeout=part.head_timeout,
        body_timeout=part.body_timeout,
        max_open=part.max_open,
        max_connections=part.max_connections,
        open_metrics=part.open_metrics,
        spool=part.spool,
        workers=part.workers,
        store=file.store,
        classifier=classifier.kind,
        encoder=str((directory / encoder).resolve()) if encoder is not None else None,
        encoder_target=classifier.target,
        coordinator=_coordinator_url(file),
        coordinator_name=_coordinator_name(file),
    )


def _coordinator_url(file: GatewayFile) -> str | None:
    part = file.coordinator
    return part.url if isinstance(part, CoordinatorPart) else part


def _coordinator_name(file: GatewayFile) -> str:
    part = file.coordinator
    return part.name if isinstance(part, CoordinatorPart) else Server().coordinator_name


# ---------------------------------------------------------------- backends


def backend(name: str, part: AnyBackend, directory: Path) -> Backend:
    """A backend. litellm's replica is not known before its process has started: there is none."""
    declared = Backend(
        name=name,
        kind=part.kind,
        replicas=_replicas(part),
        api_key=part.api_key,
        headers=part.headers,
        timeouts=Timeouts(
            connect=part.timeouts.connect,
            first_byte=part.timeouts.first_token,
            between=part.timeouts.between_tokens,
            total=part.timeouts.total,
        ),
        admission=Admission(part.admission.concurrent, part.admission.queue, part.admission.wait),
        may_train=part.kind == "vllm" if part.outputs_may_train is None else part.outputs_may_train,
    )
    if isinstance(part, HostedPart):
        declared = msgspec.structs.replace(declared, replica_hour=part.replica_hour, idle=part.idle)
    if isinstance(part, VllmPart):
        return _with_adapters(declared, part, directory)
    if isinstance(part, OpenaiPart):
        return msgspec.structs.replace(declared, proxy=part.proxy)
    return msgspec.structs.replace(
        declared,
        provider=part.provider,
        api_base=part.url,
        models={model: each.id for model, each in part.models.items()},
        arguments=part.arguments,
        parameters=tuple(part.parameters),
    )


LOOPBACK = "127.0.0.1"
CPU_SLOTS = 32
"""Adapters that a server run by us keeps in memory where nothing is declared."""
SHELF = ".shelf"
"""Where, below a backend's adapter store, the adapters lie that its replicas read."""


def _with_adapters(declared: Backend, part: VllmPart, directory: Path) -> Backend:
    """Without a store declared, vLLM runs on this machine, and sees what we see."""
    lora, agent = part.lora, part.agent
    declared = msgspec.structs.replace(
        declared,
        slots=lora.slots,
        cpu_slots=lora.cpu_slots or (max(CPU_SLOTS, lora.slots or 0) if part.serve else None),
        max_rank=lora.max_rank,
        agent=None
        if agent is None
        else f"{'https' if agent.tls else 'http'}://{{host}}:{agent.port}",
        serve=tuple(
            _serve(part, each, directory) for each in part.serve if each.model in part.models
        ),
    )
    here, on_replicas = adapter_store(part, directory)
    if here is None or on_replicas is None:
        shelf = str(directory.resolve() / ".switchboard" / "adapters")
        return msgspec.structs.replace(
            declared,
            adapters_here=str(directory.resolve()),
            shelf_here=shelf,
            shelf_on_replicas=shelf,
        )
    return msgspec.structs.replace(
        declared,
        adapters_here=str(here),
        shelf_here=str(here / SHELF),
        shelf_on_replicas=posixpath.join(on_replicas, SHELF),
    )


def _serve(part: VllmPart, each: ServePart, directory: Path) -> Serve:
    model = part.models[each.model]
    weights = each.weights or model.id
    if weights.startswith(("/", ".")):
        weights = str((directory / weights).resolve())
    hosts = hosts_of(part, each.port)
    return Serve(
        model=each.model,
        id=model.id,
        weights=weights,
        host=each.host or (hosts[0] if hosts else LOOPBACK),
        port=each.port,
        gpus=tuple(each.gpus),
        quantization=each.quantization,
        args={name: _option(value) for name, value in each.args.items()},
        env={name: str(value) for name, value in each.env.items()},
    )


def hosts_of(part: VllmPart, port: int) -> list[str]:
    """The hosts of the replicas with a port, this machine's own as an address."""
    parts = [urlsplit(url) for url in part.replicas if not url.startswith("dns://")]
    named = [each.hostname or "" for each in parts if (each.port or 80) == port]
    return list(dict.fromkeys(LOOPBACK if each == "localhost" else each for each in named))


def _option(value: str | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def parts(file: GatewayFile) -> Iterator[tuple[str, AnyBackend]]:
    """The backends by name; a model with servers of its own is one of its own."""
    for name, part in file.backends.items():
        own = _with_own_servers(part)
        for model in own:
            yield f"{name}:{model}", _alone(part, model)
        if len(own) < len(part.models):
            yield name, _without(part, own) if own else part


def _with_own_servers(part: AnyBackend) -> list[str]:
    if not isinstance(part, VllmPart):
        return []
    return [name for name, model in part.models.items() if model.replicas]


def _alone(part: AnyBackend, model: str) -> VllmPart:
    assert isinstance(part, VllmPart)
    return part.model_copy(
        update={"models": {model: part.models[model]}, "replicas": part.models[model].replicas}
    )


def _without(part: AnyBackend, models: Collection[str]) -> AnyBackend:
    kept = {name: model for name, model in part.models.items() if name not in models}
    return part.model_copy(update={"models": kept})


def _turns(file: GatewayFile, name: str) -> Turns | None:
    """How a backend shares GPUs with the others that were declared in one with it."""
    part = file.backends[declared_as(name)]
    if not isinstance(part, VllmPart) or part.turns is None:
        return None
    servers = [[_server(url) for url in model.replicas] for model in part.models.values()]
    return Turns(
        gpus=tuple(zip(*servers, strict=False)),
        stay=part.turns.stay,
        queue=part.turns.queue,
        wait=part.turns.wait,
        swap=part.turns.swap,
    )


def _server(url: str) -> str:
    return url.removesuffix("/v1")


def _replicas(part: AnyBackend) -> tuple[str, ...]:
    if isinstance(part, VllmPart):
        return tuple(_server(url) for url in part.replicas)
    if isinstance(part, OpenaiPart):
        return (part.url,) if part.url is not None else tuple(part.replicas or ())
    return ()


def adapter_store(part: AnyBackend, directory: Path) -> tuple[Path | None, str | None]:
    """Where adapters lie: on this machine, and as the replicas see it."""
    if not isinstance(part, VllmPart) or part.adapter_store is None:
        return None, None
    store = part.adapter_store
    written = store.here if isinstance(store, AdapterStorePart) else store
    here = (directory / written).resolve()
    there = store.on_replicas if isinstance(store, AdapterStorePart) else None
    return here, there if there is not None else str(here)


def is_internal(part: AnyBackend) -> bool:
    """Whether data that must stay with us may go there."""
    return isinstance(part, VllmPart) or (isinstance(part, OpenaiPart) and part.internal)


def targets(name: str, part: AnyBackend) -> Iterator[Target]:
    """Every model of a backend, every adapter of each, and every named version of each."""
    for model_name, model in part.models.items():
        base = _target(name, part, model_name, model)
        yield base
        for adapter, declared in _adapters_of(model):
            plain = msgspec.structs.replace(
                base, name=f"{base.name}+{adapter}", adapter=adapter, served=adapter
            )
            yield plain
            for version in declared.versions or ():
                yield msgspec.structs.replace(
                    plain, name=f"{plain.name}@{version}", version=version
                )


def _adapters_of(model: ModelPart) -> Iterable[tuple[str, AdapterPart]]:
    return model.adapters.items() if isinstance(model, VllmModelPart) else ()


def _target(backend_name: str, part: AnyBackend, name: str, model: ModelPart) -> Target:
    """litellm's process knows a model by its declared name and looks the id up by itself."""
    declared = price(part, model)
    target = f"{declared_as(backend_name)}/{name}"
    return Target(
        name=target,
        backend=backend_name,
        model=name,
        adapter=None,
        served=target if isinstance(part, LitellmPart) else model.id,
        internal=is_internal(part),
        price=declared or Price(),
        capabilities=_capabilities(part, model),
        shaping=Shaping(
            rename=model.request.rename,
            drop=frozenset(model.request.drop),
            set={key: msgspec.json.encode(value) for key, value in model.request.set.items()},
        ),
        replicas=_replicas(part),
        first_token_s=model.typical.first_token,
        tokens_per_s=model.typical.tokens_per_second,
        output_tokens=model.typical.output_tokens,
        priced=declared is not None or not isinstance(part, LitellmPart),
    )


def price(part: AnyBackend, model: ModelPart) -> Price | None:
    """The deciding price, as declared or, for what we host, at full batch; None if neither is.

    usd per token = replica_hour / 3600 / peak_tokens_per_second
    """
    if model.price is not None:
        cached = model.price.cached_input
        return Price(
            input=model.price.input,
            cached_input=model.price.input if cached is None else cached,
            output=model.price.output,
        )
    if not isinstance(part, HostedPart) or not isinstance(model, HostedModelPart):
        return None
    peak = model.peak_tokens_per_second or part.peak_tokens_per_second
    if part.replica_hour is None or peak is None:
        return None
    per_token = part.replica_hour / SECONDS_PER_HOUR / peak
    return Price(per_token, per_token, per_token)


def _capabilities(part: AnyBackend, model: ModelPart) -> Capabilities:
    declared = model.capabilities
    endpoints: list[str] | None = list(declared.endpoints) if declared.endpoints else None
    if endpoints is None:
        endpoints = ["chat", "completions"]
        if isinstance(part, VllmPart):
            endpoints.append("responses")
    return Capabilities(
        context=declared.context,
        tools=declared.tools,
        vision=declared.vision,
        audio=declared.audio,
        json_schema=declared.json_schema,
        endpoints=frozenset(ENDPOINTS[name] for name in endpoints),
        media_from=_media_from(part, declared.media_from),
    )


def _media_from(part: AnyBackend, declared: list[str] | None) -> frozenset[str] | None:
    """What is not declared is fetched by nobody inside our network: neither by a server of our own
    nor by litellm, which fetches pictures itself for providers that want them whole."""
    if declared is not None:
        return frozenset(declared)
    fetched_here = is_internal(part) or isinstance(part, LitellmPart)
    return frozenset() if fetched_here else None


def adapters(name: str, part: AnyBackend, directory: Path) -> Iterator[Adapter]:
    """The adapters of a vLLM backend, with their versions as they were written."""
    for model_name, model in part.models.items():
        for adapter, declared in _adapters_of(model):
            yield Adapter(
                backend=name,
                model=model_name,
                name=adapter,
                versions=versions(declared),
                base_id=model.id,
                base_config=_base_config(model, directory),
                base_matches=declared.base_matches,
            )


def _base_config(model: ModelPart, directory: Path) -> str | None:
    if not isinstance(model, VllmModelPart) or model.config is None:
        return None
    return str((directory / model.config).resolve())


def versions(declared: AdapterPart) -> tuple[Version, ...]:
    """An adapter's versions in the order written; one without a name where none was written."""
    if declared.versions is None:
        return (_version("", declared),)
    return tuple(
        _version(name, VersionPart(source=part) if isinstance(part, str) else part)
        for name, part in declared.versions.items()
    )


def _version(name: str, part: VersionPart) -> Version:
    return Version(
        name=name,
        source=part.source,
        sha256=part.sha256,
        mix=part.mix or {},
        rank=part.rank,
        dtype=part.dtype,
    )


# ---------------------------------------------------------------- routes and policies


def route(file: RouteFile, prompts: Mapping[str, str]) -> Route:
    """A route; `prompts` are the texts of the files that its candidates name."""
    return Route(
        name=file.name,
        description=file.description,
        value=file.value,
        internal=file.data == "internal",
        match=match(file.match),
        candidates=tuple(_candidate(part, prompts) for part in file.candidates),
        policy=file.policy,
        keep=file.keep,
        priority=file.priority,
        quota=quota(file.limits),
        shadow=None
        if file.shadow is None
        else Shadow(
            file.shadow.target, file.shadow.traffic, file.shadow.budget, file.shadow.concurrent
        ),
        experiments=tuple(experiment(name, part) for name, part in file.experiments.items()),
        metrics=tuple(metric(name, part) for name, part in file.metrics.items()),
        right=file.right,
        half_life_s=file.half_life,
    )


def experiment(name: str, part: ExperimentPart) -> Experiment:
    """An experiment."""
    asked, equal = part.question, 1.0 / len(part.arms)
    return Experiment(
        name=name,
        arms=part.arms,
        shares=dict(part.shares or {}) or dict.fromkeys(part.arms, equal),
        traffic=part.traffic,
        stick_to=part.stick_to,
        bandit=part.mode == "bandit",
        asked=None
        if asked is None
        else Asked(
            arm=asked.arm or "",
            than=asked.no_worse_than or asked.better_than or "",
            metric=asked.metric,
            no_worse=asked.no_worse_than is not None,
            margin=asked.margin,
            best=asked.arm is None,
        ),
        first_token_p95=part.guards.first_token_p95,
        errors=part.guards.errors,
        confidence=part.confidence,
        most_usd=part.stop_at.spend,
        most_s=None if part.stop_at.days is None else part.stop_at.days * SECONDS_PER_DAY,
        promote=part.when_answered == "promote",
        slot_s=part.slot if part.latency == "switchback" else None,
        winner=part.winner,
    )


def metric(name: str, part: MetricPart) -> Metric:
    """What is said of an answer, and when that makes it right."""
    wanted = part.right_when
    comparison: Comparison | None = None
    bound = 0.0
    if isinstance(wanted, tuple):
        comparison, bound = wanted
    elif part.type == "boolean":
        comparison, bound = "=", float(wanted is not False)
    return Metric(name, part.type, part.source, comparison, bound, part.within)


def quota(part: QuotaPart | None) -> Quota | None:
    """Limits and budgets; None where none is written."""
    if part is None:
        return None
    return Quota(part.requests, part.tokens, part.concurrent, part.budget.day, part.budget.month)


def quotas(part: QuotasPart) -> Quotas:
    """What is declared for keys and tenants."""
    alerts = part.alerts
    return Quotas(
        every_key=quota(part.every_key),
        every_tenant=quota(part.every_tenant),
        tenants={name: quota(each) or Quota() for name, each in part.tenants.items()},
        alerts=None
        if alerts is None
        else Alerts(tuple(sorted(set(alerts.at))), alerts.webhook, alerts.secret),
    )


def match(part: MatchPart | str) -> Match:
    """How a route is recognised; nothing for a route that only its name leads to."""
    if not isinstance(part, MatchPart):
        return Match()
    return Match(
        headers=part.headers,
        keywords=tuple(part.keywords),
        patterns=tuple(part.patterns),
        examples=tuple(part.examples),
    )


def _candidate(part: CandidatePart, prompts: Mapping[str, str]) -> Candidate:
    return Candidate(
        target=part.target,
        quality=part.quality,
        quality_n=part.observations,
        system=prompts[part.system] if part.system is not None else None,
    )


def policy(file: PolicyFile) -> Policy:
    """A policy."""
    return Policy(
        name=file.name,
        waiting_first_token=file.waiting.first_token,
        waiting_whole=file.waiting.whole,
        limits=Limits(
            cost=file.limits.cost,
            first_token_p95=file.limits.first_token_p95,
            whole_p95=file.limits.whole_p95,
            quality=file.limits.quality,
        ),
        if_none_fits=file.if_none_fits,
        switch_margin=file.switch_if_better_by,
        explore=file.explore,
        value_weight=file.weigh.quality,
        price_weight=file.weigh.price,
        on_cold=file.on_cold,
        tries=file.on_failure.tries,
        retries=file.on_failure.retries,
        again=file.on_failure.again,
        backoff_first_s=file.on_failure.backoff.first,
        backoff_most_s=file.on_failure.backoff.most,
        total_s=file.on_failure.total,
        first_token_s=file.on_failure.first_token,
        hedge=file.on_failure.hedge,
        learned=file.quality == "learned",
        carry_on=file.on_failure.continue_,
        breaking=Breaking(
            failures=file.on_failure.breaker.failures,
            share=file.on_failure.breaker.share,
            window_s=file.on_failure.breaker.window,
            first_s=file.on_failure.breaker.pause,
            most_s=file.on_failure.breaker.most,
        ),
    )


# ---------------------------------------------------------------- the whole


def snapshot(
    file: GatewayFile,
    directory: Path,
    routes: Mapping[str, Route],
    policies: Mapping[str, Policy],
) -> Snapshot:
    """The whole configuration, under the hash of its content."""
    declared = list(parts(file))
    whole = Snapshot(
        hash="",
        server=server(file, directory),
        default_route=file.default_route,
        aliases=file.aliases,
        routes=routes,
        policies=policies,
        targets={target.name: target for name, part in declared for target in targets(name, part)},
        backends={
            name: msgspec.structs.replace(backend(name, part, directory), turns=_turns(file, name))
            for name, part in declared
        },
        adapters=tuple(
            adapter for name, part in declared for adapter in adapters(name, part, directory)
        ),
        quotas=quotas(file.limits),
    )
    return msgspec.structs.replace(whole, hash=hashlib.sha256(canonical(whole)).hexdigest())


def canonical(whole: Snapshot) -> bytes:
    """The content as JSON, the same for the same content. Secrets stand in it as digests only.

    The routes' order counts, because rules that are equal go by it; no other order does.
    """
    hidden = {
        name: msgspec.structs.replace(
            each,
            serve=tuple(_without_secrets(serve) for serve in each.serve),
            api_key=_digest(each.api_key) if each.api_key is not None else None,
            headers={key: _digest(value) for key, value in each.headers.items()},
            arguments={
                key: _digest(msgspec.json.encode(value, order="deterministic").decode())
                for key, value in each.arguments.items()
            },
        )
        for name, each in whole.backends.items()
    }
    quotas, alerts = whole.quotas, whole.quotas.alerts
    if alerts is not None:
        alerts = msgspec.structs.replace(alerts, secret=_digest(alerts.secret))
        quotas = msgspec.structs.replace(quotas, alerts=alerts)
    content = msgspec.structs.replace(whole, hash="", backends=hidden, quotas=quotas)
    return msgspec.json.encode([content, list(whole.routes)], order="deterministic")


def _without_secrets(serve: Serve) -> Serve:
    hidden = {name: _digest(value) for name, value in serve.env.items()}
    return msgspec.structs.replace(serve, env=hidden)


def _digest(secret: str) -> str:
    return f"sha256:{hashlib.sha256(secret.encode()).hexdigest()}"
