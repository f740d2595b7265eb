"""vLLM's management endpoints: health, load, metrics, and adapters loaded while it runs."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.standin.answer import Whole, error, refuse
from gateway.standin.behaviour import Fault
from gateway.standin.reading import json_object
from gateway.standin.wire import Seen

TYPES = {400: "BadRequestError", 401: "Unauthorized", 404: "NotFoundError"}
TEXT = "text/plain; charset=utf-8"


class Card:
    """A GPU's memory, which is enough for one of the models that share it."""

    def __init__(self) -> None:
        self.holder: Engine | None = None


@dataclass(frozen=True, slots=True)
class Vllm:
    """How a stand-in for vLLM is started.

    `base` is the base model's served name; `adapters` (served name: path) are there from the start,
    as with `--lora-modules`. A load takes `load_s` seconds. `refuses` maps a path to the status and
    message that loading it is answered with. `slots` is how many requests run at once
    (`--max-num-seqs`); the rest wait. With a `card` it has sleep mode, and putting it to sleep or
    waking it takes `swap_s` seconds.
    """

    base: str = "base"
    adapters: Mapping[str, str] = field(default_factory=dict)
    load_s: float = 0.0
    refuses: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    max_loras: int = 4
    max_model_len: int = 4096
    version: str = "0.32.0"
    card: Card | None = None
    swap_s: float = 0.0


class Engine:
    """The state that a restart loses: which adapters are loaded, and the counters."""

    def __init__(
        self,
        vllm: Vllm,
        *,
        sleep: Callable[[float], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        self.vllm = vllm
        self.refuses = dict(vllm.refuses)
        self.breaks: dict[str, Fault] = {}
        """What strikes every request for an adapter, by its served name."""
        self.forgets: set[str] = set()
        """Adapters whose loading is said to have succeeded, though nothing was loaded."""
        self.loads: list[tuple[str, str]] = []
        """Every load that succeeded since the stand-in was made: served name and path."""
        self.changes = 0
        """How often what is loaded has changed."""
        self.asleep = False
        self.swaps: list[str] = []
        """Every time that it was put to sleep or woken."""
        self.cut = 0
        """Requests that ran when it was put to sleep."""
        self._awake = asyncio.Event()
        self._sleep = sleep
        self._now = now
        self.restart()

    def restart(self) -> None:
        """What is loaded is forgotten, and counting begins anew."""
        self.adapters = dict(self.vllm.adapters)
        self.changes += 1
        self.started = self._now()
        self._rise()
        self.prompt_tokens = 0
        self.generation_tokens = 0
        self.requests = 0

    def models(self) -> list[dict[str, Any]]:
        """The models as `/v1/models` lists them: the base, then its adapters."""
        base = self._model(self.vllm.base, root=self.vllm.base, parent=None)
        base["max_model_len"] = self.vllm.max_model_len
        return [
            base,
            *(
                self._model(name, root=path, parent=self.vllm.base)
                for name, path in self.adapters.items()
            ),
        ]

    def _model(self, id: str, *, root: str, parent: str | None) -> dict[str, Any]:
        return {
            "id": id,
            "object": "model",
            "created": int(self.started),
            "owned_by": "vllm",
            "root": root,
            "parent": parent,
            "max_model_len": None,
            "permission": [],
        }

    async def manage(self, seen: Seen, running: int, waiting: int) -> Whole | None:
        """The answer of a management endpoint; None if the path is none."""
        match seen.method, seen.path:
            case "GET", "/health" | "/ping":
                return Whole(b"")
            case "GET", "/version":
                return Whole({"version": self.vllm.version})
            case "GET", "/load":
                return Whole({"server_load": running})
            case "GET", "/metrics":
                return Whole(self.metrics(running, waiting).encode(), content_type=TEXT)
            case "POST", "/sleep" if self.vllm.card is not None:
                return await self._lie_down(running)
            case "POST", "/wake_up" if self.vllm.card is not None:
                return await self._wake_up(self.vllm.card)
            case "GET", "/is_sleeping" if self.vllm.card is not None:
                return Whole({"is_sleeping": self.asleep})
            case "POST", "/v1/load_lora_adapter":
                await self.awake()
                return await self._load(json_object(seen.body))
            case "POST", "/v1/unload_lora_adapter":
                return self._unload(json_object(seen.body))
        return None

    async def awake(self) -> None:
        """Back when it does not sleep: until then everything that needs the engine hangs."""
        while self.asleep:
            await self._awake.wait()

    async def _lie_down(self, running: int) -> Whole:
        self.cut += running
        await self._sleep(self.vllm.swap_s)
        self.asleep = True
        self._awake = asyncio.Event()
        self.swaps.append("sleep")
        if self.vllm.card is not None and self.vllm.card.holder is self:
            self.vllm.card.holder = None
        return Whole(b"")

    async def _wake_up(self, card: Card) -> Whole:
        await self._sleep(self.vllm.swap_s)
        if card.holder not in (None, self):
            return error(500, "CUDA Error: out of memory", type="InternalServerError", code=500)
        self._rise()
        self.swaps.append("wake")
        return Whole(b"")

    def _rise(self) -> None:
        self.asleep = False
        self._awake.set()
        if self.vllm.card is not None and self.vllm.card.holder is None:
            self.vllm.card.holder = self

    async def _load(self, body: Mapping[str, Any]) -> Whole:
        name, path = body.get("lora_name"), body.get("lora_path")
        if not name or not path:
            return _invalid("Both 'lora_name' and 'lora_path' must be provided.")
        if name in self.adapters and not body.get("load_inplace"):
            return _invalid(
                f"The lora adapter '{name}' has already been loaded. If you want to load the "
                "adapter in place, set 'load_inplace' to True."
            )
        await self._sleep(self.vllm.load_s)
        if path in self.refuses:
            status, message = self.refuses[path]
            kind = "NotFoundError" if status == 404 else "InternalServerError"
            return error(status, message, type=kind, code=status)
        if name not in self.forgets:
            self.adapters[name] = path
        self.changes += 1
        self.loads.append((name, path))
        text = f"Success: LoRA adapter '{name}' added successfully."
        return Whole(text.encode(), content_type=TEXT)

    def _unload(self, body: Mapping[str, Any]) -> Whole:
        name = body.get("lora_name")
        if not name:
            return _invalid("'lora_name' needs to be provided to unload a LoRA adapter.")
        if self.adapters.pop(name, None) is None:
            raise refuse(404, f"The lora adapter '{name}' cannot be found.")
        self.changes += 1
        text = f"Success: LoRA adapter '{name}' removed successfully."
        return Whole(text.encode(), content_type=TEXT)

    def metrics(self, running: int, waiting: int) -> str:
        """A few of vLLM's series, in Prometheus' text format."""
        label = f'engine="0",model_name="{self.vllm.base}"'
        running_adapters = ",".join(self.adapters)
        series = [
            ("gauge", "num_requests_running", label, running),
            ("gauge", "num_requests_waiting", label, waiting),
            (
                "gauge",
                "num_requests_waiting_by_reason",
                f'{label},reason="capacity"',
                waiting,
            ),
            ("gauge", "kv_cache_usage_perc", label, min(1.0, running / 100)),
            ("counter", "prompt_tokens_total", label, self.prompt_tokens),
            ("counter", "generation_tokens_total", label, self.generation_tokens),
            ("counter", "request_success_total", f'{label},finished_reason="stop"', self.requests),
            (
                "gauge",
                "lora_requests_info",
                f'max_lora="{self.vllm.max_loras}",'
                f'running_lora_adapters="{running_adapters}",waiting_lora_adapters=""',
                self._now(),
            ),
        ]
        if self.vllm.card is not None:
            for state, holds in (
                ("awake", not self.asleep),
                ("weights_offloaded", self.asleep),
                ("discard_all", False),
            ):
                labels = f'{label},sleep_state="{state}"'
                series.append(("gauge", "engine_sleep_state", labels, float(holds)))
        lines = []
        for kind, name, labels, value in series:
            lines.append(f"# TYPE vllm:{name} {kind}")
            lines.append(f"vllm:{name}{{{labels}}} {float(value)}")
        lines += [
            "# TYPE process_start_time_seconds gauge",
            f"process_start_time_seconds {self.started}",
        ]
        return "\n".join(lines) + "\n"


def in_vllms_words(answer: Whole) -> Whole:
    """An error as vLLM says it: its own types, and the status as the code."""
    said = answer.body["error"]
    kind = TYPES.get(answer.status, said["type"])
    return error(
        answer.status,
        said["message"],
        type=kind,
        param=said["param"],
        code=answer.status,
        headers=answer.headers,
    )


def _invalid(message: str) -> Whole:
    return error(400, message, type="InvalidUserInput", code=400)
