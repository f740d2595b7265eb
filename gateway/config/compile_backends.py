"""Turns the models of backends into backends, targets and adapters. Pure."""

import posixpath
from collections.abc import Collection, Iterable, Iterator
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
from gateway.config.files.gateway import GatewayFile
from gateway.config.files.models import (
    ENDPOINTS,
    AdapterPart,
    HostedModelPart,
    ModelPart,
    VersionPart,
    VllmModelPart,
)
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

_SECONDS_PER_HOUR = 3600


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


_LOOPBACK = "127.0.0.1"
_CPU_SLOTS = 32
"""Adapters that a server run by us keeps in memory where nothing is declared."""
_SHELF = ".shelf"
"""Where, below a backend's adapter store, the adapters lie that its replicas read."""


def _with_adapters(declared: Backend, part: VllmPart, directory: Path) -> Backend:
    """Without a store declared, vLLM runs on this machine, and sees what we see."""
    lora, agent = part.lora, part.agent
    declared = msgspec.structs.replace(
        declared,
        slots=lora.slots,
        cpu_slots=lora.cpu_slots or (max(_CPU_SLOTS, lora.slots or 0) if part.serve else None),
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
        shelf_here=str(here / _SHELF),
        shelf_on_replicas=posixpath.join(on_replicas, _SHELF),
    )


def _serve(part: VllmPart, each: ServePart, directory: Path) -> Serve:
    model = part.models[each.model]
    weights = each.weights or model.id
    if weights.startswith(("/", ".")):
        weights = str((directory / weights).resolve())
    hosts = _hosts_of(part, each.port)
    return Serve(
        model=each.model,
        id=model.id,
        weights=weights,
        host=each.host or (hosts[0] if hosts else _LOOPBACK),
        port=each.port,
        gpus=tuple(each.gpus),
        quantization=each.quantization,
        args={name: _option(value) for name, value in each.args.items()},
        env={name: str(value) for name, value in each.env.items()},
    )


def _hosts_of(part: VllmPart, port: int) -> list[str]:
    """The hosts of the replicas with a port, this machine's own as an address."""
    parts = [urlsplit(url) for url in part.replicas if not url.startswith("dns://")]
    named = [each.hostname or "" for each in parts if (each.port or 80) == port]
    return list(dict.fromkeys(_LOOPBACK if each == "localhost" else each for each in named))


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


def turns(file: GatewayFile, name: str) -> Turns | None:
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
    per_token = part.replica_hour / _SECONDS_PER_HOUR / peak
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
        log_probabilities=not isinstance(part, LitellmPart)
        if declared.log_probabilities is None
        else declared.log_probabilities,
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
                versions=_versions(declared),
                base_id=model.id,
                base_config=_base_config(model, directory),
                base_matches=declared.base_matches,
            )


def _base_config(model: ModelPart, directory: Path) -> str | None:
    if not isinstance(model, VllmModelPart) or model.config is None:
        return None
    return str((directory / model.config).resolve())


def _versions(declared: AdapterPart) -> tuple[Version, ...]:
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
