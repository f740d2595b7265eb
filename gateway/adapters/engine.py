"""What a vLLM engine tells of itself on its `/metrics` page, as far as a gateway uses it. Pure."""

import re
from collections.abc import Iterator

import msgspec


class Engine(msgspec.Struct, frozen=True):
    """One look at an engine. Tokens are counted since its start, an instant in Unix seconds.

    `running` and `waiting` are requests, `kv_cache` the share of it in use, `slots` its
    `--max-loras` where it tells, `asleep` whether it sleeps. `busy_s` is the time to first tokens
    and between tokens, summed over requests.
    """

    started: float = 0.0
    running: int = 0
    waiting: int = 0
    kv_cache: float = 0.0
    slots: int | None = None
    asleep: bool = False
    prompt_tokens: float = 0.0
    cached_tokens: float = 0.0
    generation_tokens: float = 0.0


_LINE = re.compile(
    r"^(?:vllm:)?(process_start_time_seconds|num_requests_running|num_requests_waiting"
    r"|kv_cache_usage_perc|lora_requests_info|engine_sleep_state|prompt_tokens_total"
    r"|prefix_cache_hits_total|generation_tokens_total)(\{[^\n]*\})? (\S+)$",
    re.MULTILINE,
)
_MOST = 2.0**53
"""A sample that is larger, or not a number, tells nothing."""

_MAX_LORA = re.compile(r'max_lora="(\d{1,9})"')


def read(page: str) -> Engine:
    """The engine of a page in Prometheus' text format; what is not there stays at its default.

    With several engines behind one page (data parallel) requests and tokens are summed.
    """
    sums: dict[str, float] = {}
    slots, asleep = None, False
    for name, labels, value in _series(page):
        if name == "lora_requests_info":
            found = _MAX_LORA.search(labels)
            slots = int(found[1]) if found is not None else slots
        elif name == "engine_sleep_state":
            asleep = asleep or (value > 0.0 and 'sleep_state="awake"' not in labels)
        elif name == "kv_cache_usage_perc" or name == "process_start_time_seconds":
            sums[name] = max(sums.get(name, 0.0), value)
        else:
            sums[name] = sums.get(name, 0.0) + value
    return Engine(
        started=sums.get("process_start_time_seconds", 0.0),
        running=int(sums.get("num_requests_running", 0)),
        waiting=int(sums.get("num_requests_waiting", 0)),
        kv_cache=sums.get("kv_cache_usage_perc", 0.0),
        slots=slots,
        asleep=asleep,
        prompt_tokens=sums.get("prompt_tokens_total", 0.0),
        cached_tokens=sums.get("prefix_cache_hits_total", 0.0),
        generation_tokens=sums.get("generation_tokens_total", 0.0),
    )


def _series(page: str) -> Iterator[tuple[str, str, float]]:
    for name, labels, value in _LINE.findall(page):
        try:
            number = float(value)
        except ValueError:
            continue
        if abs(number) <= _MOST:
            yield name, labels, number
