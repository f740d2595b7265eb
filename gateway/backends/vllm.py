"""Keeps a vLLM backend's declared adapters present at each of its replicas.

A runtime load is per replica and lost at its restart, so each replica is looked at again and again:
what is declared and not listed is loaded through vLLM's API.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

import httpx
import msgspec

from gateway.policy.live import Live
from gateway.types import Adapter, Backend, Target

log = logging.getLogger("switchboard.vllm")

LOOK_EVERY_S = 1.0
"""A restarted replica has its adapters again within two of these after it is healthy."""

REQUEST_TIMEOUT_S = 30.0


class ReplicaState(msgspec.Struct, frozen=True):
    """What the last look at a replica found; `failed` says why an adapter could not be loaded."""

    reachable: bool = False
    loaded: frozenset[str] = frozenset()
    failed: Mapping[str, str] = {}
    error: str = "not looked at yet"


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


_models = msgspec.json.Decoder(_Models)


class AdapterKeeper:
    """Looks after the adapters of one vLLM backend."""

    def __init__(
        self,
        backend: Backend,
        adapters: Sequence[Adapter],
        targets: Sequence[Target],
        live: Live,
        client: httpx.AsyncClient,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float],
    ) -> None:
        self._backend = backend
        self._adapters = adapters
        self._targets = {t.served: t for t in targets if t.adapter is not None}
        self._live = live
        self._client = client
        self._sleep = sleep
        self._clock = clock
        self.backend = backend.name
        self.states: dict[str, ReplicaState] = {url: ReplicaState() for url in backend.replicas}

    async def run(self) -> None:
        """Looks at every replica for ever."""
        while True:
            await self.look()
            await self._sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """One look at every replica, loading what is missing."""
        await asyncio.gather(*(self._tend(replica) for replica in self._backend.replicas))

    async def _tend(self, replica: str) -> None:
        before = self.states[replica]
        try:
            present = await self._listed(replica)
        except (httpx.HTTPError, msgspec.DecodeError) as error:
            state = ReplicaState(error=f"{type(error).__name__}: {error}")
        else:
            state = await self._fill(replica, present, before)
        if (state.reachable, state.error) != (before.reachable, before.error):
            log.log(
                logging.INFO if state.reachable else logging.WARNING,
                "%s at %s: %s",
                self._backend.name,
                replica,
                state.error or f"serves {', '.join(sorted(state.loaded)) or 'no adapter'}",
            )
        self.states[replica] = state

    async def _fill(
        self, replica: str, present: frozenset[str], before: ReplicaState
    ) -> ReplicaState:
        loaded, failed = set(present), dict(before.failed)
        for adapter in self._adapters:
            if adapter.served in present:
                failed.pop(adapter.served, None)
                if adapter.served not in before.loaded:
                    self._tell(adapter, replica, 1.0, None)
                continue
            seconds, reason = await self._load(replica, adapter)
            if reason is None:
                loaded.add(adapter.served)
                failed.pop(adapter.served, None)
                self._tell(adapter, replica, 1.0, seconds)
            else:
                if failed.get(adapter.served) != reason:
                    log.error(
                        "%s at %s cannot load adapter %s from %s: %s",
                        self._backend.name,
                        replica,
                        adapter.name,
                        adapter.path,
                        reason,
                    )
                failed[adapter.served] = reason
                self._tell(adapter, replica, 0.0, None)
        return ReplicaState(True, frozenset(loaded), failed, "")

    async def _listed(self, replica: str) -> frozenset[str]:
        answer = await self._client.get(f"{replica}/v1/models", headers=self._headers())
        answer.raise_for_status()
        return frozenset(model.id for model in _models.decode(answer.content).data)

    async def _load(self, replica: str, adapter: Adapter) -> tuple[float, str | None]:
        """Seconds that the load took, and why it failed if it did."""
        began = self._clock()
        try:
            answer = await self._client.post(
                f"{replica}/v1/load_lora_adapter",
                json={"lora_name": adapter.served, "lora_path": adapter.path},
                headers=self._headers(),
                timeout=REQUEST_TIMEOUT_S,
            )
        except httpx.HTTPError as error:
            return self._clock() - began, f"{type(error).__name__}: {error}"
        seconds = self._clock() - began
        if answer.is_success or "already been loaded" in answer.text:
            return seconds, None
        return seconds, f"{answer.status_code}: {answer.text[:300]}"

    def _tell(self, adapter: Adapter, replica: str, loaded: float, seconds: float | None) -> None:
        target = self._targets.get(adapter.served)
        if target is not None:
            self._live.resident(target, replica, loaded, seconds)

    def _headers(self) -> dict[str, str]:
        key = self._backend.api_key
        return {"authorization": f"Bearer {key}"} if key is not None else {}
