"""How a vLLM server that is declared under `serve` is started: its command line, its environment.

Only the ranks of adapters that lie on this machine are read; all else is given.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gateway.adapters import files
from gateway.adapters.check import RANKS
from gateway.types.backends import Adapter, Backend, Serve, Version

USUAL_RANK = 16
"""vLLM's own maximum, where no adapter is known to need more."""
MOST_SLOTS = 8
"""Adapters in one batch where nothing is declared: each slot takes memory from the KV cache."""
OURS = "SWITCHBOARD_"
"""Variables of the gateway's own, keys among them, which are none of vLLM's business."""


def command(
    program: Sequence[str], serve: Serve, backend: Backend, adapters: Sequence[Adapter]
) -> list[str]:
    """The command line of one server. Options of `args` come last, so that they have the last word.

    The API key goes by the environment: everybody on the machine can read command lines.
    """
    line = [*program, *(["--model"] if "-m" in program else []), serve.weights]
    line += ["--host", serve.host, "--port", str(serve.port), "--served-model-name", serve.id]
    if serve.quantization is not None:
        line += ["--quantization", serve.quantization]
    if len(serve.gpus) > 1:
        line += ["--tensor-parallel-size", str(len(serve.gpus))]
    if backend.turns is not None:
        line.append("--enable-sleep-mode")
    mine = of(serve, backend, adapters)
    if mine:
        slots = backend.slots or min(2 * len(mine), MOST_SLOTS)
        line += ["--enable-lora", "--max-lora-rank", str(max_rank(backend, mine))]
        line += ["--max-loras", str(slots)]
        line += ["--max-cpu-loras", str(max(backend.cpu_slots or slots, slots))]
    return [*line, *(word for option in serve.args.items() for word in _option(*option))]


def _option(name: str, value: str) -> tuple[str, ...]:
    """vLLM's switches are turned off by a `no-` before their names."""
    match value:
        case "true":
            return (f"--{name}",)
        case "false":
            return (f"--no-{name}",)
    return (f"--{name}", value)


def environment(
    serve: Serve,
    backend: Backend,
    adapters: Sequence[Adapter],
    own: Mapping[str, str],
    secrets: Iterable[str] = (),
) -> dict[str, str]:
    """The server's environment: `own` without the gateway's secrets, and what vLLM needs besides.

    Loading at run time is allowed only where there are adapters: it lets callers name files; and
    the endpoints of sleep mode only where models take turns.
    """
    hidden = frozenset(secrets)
    made = {
        name: value
        for name, value in own.items()
        if not name.startswith(OURS) and value not in hidden
    }
    if of(serve, backend, adapters):
        made["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    if backend.turns is not None:
        made["VLLM_SERVER_DEV_MODE"] = "1"
    if serve.gpus:
        made["CUDA_VISIBLE_DEVICES"] = ",".join(str(gpu) for gpu in serve.gpus)
    if backend.api_key is not None:
        made["VLLM_API_KEY"] = backend.api_key
    return made | dict(serve.env)


def url(serve: Serve) -> str:
    """Where this machine reaches it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(serve.host, serve.host)
    return f"http://[{host}]:{serve.port}" if ":" in host else f"http://{host}:{serve.port}"


def of(serve: Serve, backend: Backend, adapters: Sequence[Adapter]) -> list[Adapter]:
    """The adapters of one server's model."""
    return [each for each in adapters if (each.backend, each.model) == (backend.name, serve.model)]


# ---------------------------------------------------------------- ranks


def max_rank(backend: Backend, adapters: Sequence[Adapter]) -> int:
    """The first maximum that vLLM takes for what is declared, or for the largest rank found."""
    wanted = backend.max_rank or max([USUAL_RANK, *ranks(backend, adapters).values()])
    return next((rank for rank in RANKS if rank >= wanted), RANKS[-1])


def unread(backend: Backend, adapters: Sequence[Adapter]) -> list[str]:
    """The adapters whose rank could count, and cannot be known: such as those yet to be fetched."""
    if backend.max_rank is not None:
        return []
    known = {name for name, rank in ranks(backend, adapters).items() if rank}
    return [each.name for each in adapters if each.name not in known]


def ranks(backend: Backend, adapters: Sequence[Adapter]) -> dict[str, int]:
    """The largest rank of each adapter's versions: of its files, or a mix's declared or summed; 0
    where it cannot be read."""
    declared = {each.name: each for each in adapters}

    @functools.cache
    def rank(name: str) -> int:
        return max((of_version(each) for each in declared[name].versions), default=0)

    def of_version(version: Version) -> int:
        if version.rank is not None or not version.mix:
            return version.rank or _read(backend, version.source)
        parts = [part.partition("@")[0] for part in version.mix]
        return sum(rank(part) for part in parts if part in declared)

    return {name: rank(name) for name in declared}


def _read(backend: Backend, source: str | None) -> int:
    """What is wrong with a file is the gateway's to say, when it looks at the whole adapter."""
    if source is None or "://" in source:
        return 0
    try:
        read = files.read(Path(backend.adapters_here) / source)
    except (files.AdapterError, OSError):
        return 0
    return max(read.rank, read.config.r, *(read.config.rank_pattern or {}).values())
