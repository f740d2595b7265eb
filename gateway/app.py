"""The composition root: builds every part, hands each its slice, and owns start and stop."""

import asyncio
import contextlib
import logging
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvicorn

from gateway.backends.base import Backend, HttpBackend
from gateway.backends.vllm import AdapterKeeper
from gateway.classify.base import Classifier
from gateway.classify.fit import fit
from gateway.classify.recognise import Recogniser
from gateway.errors import ConfigError
from gateway.http.control import control_plane
from gateway.http.openai import DataPlane, require_key
from gateway.http.protocol import limited
from gateway.metering.metrics import Metrics
from gateway.pipeline import Pipeline, Plane
from gateway.policy.decide import Decider
from gateway.policy.live import Live
from gateway.store.keys import Keyring
from gateway.store.reader import Reader
from gateway.store.store import Store
from gateway.store.writer import Writer
from gateway.transport.base import Transport
from gateway.transport.lean import LeanTransport
from gateway.types import Caller, Record, Snapshot

log = logging.getLogger("switchboard")

KEYS_EVERY_S = 1.0
"""How soon a key that was made or revoked by another process counts."""

ANONYMOUS = Caller()


class Gateway:
    """One running gateway: its parts, and the tasks that look after them."""

    def __init__(self, snapshot: Snapshot, store: Store, cache: Path | None) -> None:
        self.snapshot = snapshot
        self.store = store
        self._cache = cache
        self.metrics = Metrics()
        self.live = Live()
        self.writer = Writer(store)
        self.keyring = Keyring(store)
        self.reader = Reader(store)
        self.transport: Transport = LeanTransport()
        self._http = httpx.AsyncClient(timeout=5.0, trust_env=False)
        self._tasks: list[asyncio.Task[None]] = []
        self._keepers: list[AdapterKeeper] = []
        self._tending: list[asyncio.Task[None]] = []
        self._started_at = time.time()
        self._problem: str | None = None
        self.pipeline: Pipeline
        self.asgi: DataPlane

    async def start(self) -> None:
        """Builds the first plane and starts the tasks beside serving."""
        self.keyring.refresh()
        self.writer.start()
        self.pipeline = Pipeline(
            await self._plane(self.snapshot),
            self.live,
            keep=self._keep,
            clock=time.perf_counter,
            now=time.time,
            draw=random.random,
        )
        control = control_plane(
            self.pipeline,
            self.authenticate,
            find=self._find,
            ready=self.readiness,
            metrics=self.metrics.page,
            started=int(self._started_at),
        )
        self.asgi = DataPlane(self.pipeline, control, self.authenticate)
        self._start_keepers(self.snapshot)
        self._tasks.append(asyncio.create_task(self._follow_keys()))

    async def stop(self) -> None:
        """Stops the tasks, writes every row, closes every connection."""
        tasks = [*self._tasks, *self._tending]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.aclose()
        await self.transport.close()
        await asyncio.to_thread(self.writer.stop)

    async def swap(self, snapshot: Snapshot) -> None:
        """Serves a new snapshot from now on; requests under way finish on the old one."""
        self.pipeline.plane = await self._plane(snapshot)
        self.snapshot = snapshot
        self._start_keepers(snapshot)

    def authenticate(self, token: bytes | None) -> Caller:
        """Who asks. Without any key in the store everybody on this machine may."""
        if self.keyring.empty:
            return ANONYMOUS
        caller = self.keyring.lookup(token) if token is not None else None
        if caller is None:
            raise require_key(token)
        return caller

    def readiness(self) -> dict[str, Any]:
        """The detail of `/ready`."""
        replicas = {
            f"{keeper.backend} {url}": msgspec.to_builtins(state)
            for keeper in self._keepers
            for url, state in keeper.states.items()
        }
        return {
            "ready": True,
            "snapshot": self.pipeline.plane.snapshot.hash,
            "configuration_error": self._problem,
            "replicas": replicas,
        }

    async def _plane(self, snapshot: Snapshot) -> Plane:
        classifier = await asyncio.to_thread(self._classifier, snapshot)
        backends: dict[str, Backend] = {
            name: HttpBackend(declared, self.transport)
            for name, declared in snapshot.backends.items()
        }
        return Plane(snapshot, Recogniser(snapshot, classifier), Decider(snapshot), backends)

    def _classifier(self, snapshot: Snapshot) -> Classifier | None:
        examples = [
            (text, route.name)
            for route in snapshot.routes.values()
            for text in route.match.examples
        ]
        if not examples:
            return None
        return fit(snapshot.server.classifier, examples, self._cache)

    def _start_keepers(self, snapshot: Snapshot) -> None:
        for task in self._tending:
            task.cancel()
        self._keepers, self._tending = [], []
        for backend in snapshot.backends.values():
            if backend.kind != "vllm":
                continue
            keeper = AdapterKeeper(
                backend,
                [a for a in snapshot.adapters if a.backend == backend.name],
                [t for t in snapshot.targets.values() if t.backend == backend.name],
                self.live,
                self._http,
                clock=time.perf_counter,
            )
            self._keepers.append(keeper)
            self._tending.append(asyncio.create_task(keeper.run()))

    async def _follow_keys(self) -> None:
        while True:
            await asyncio.sleep(KEYS_EVERY_S)
            await asyncio.to_thread(self.keyring.refresh)

    def _keep(self, record: Record) -> None:
        self.metrics.saw(record)
        if not self.writer.put(record):
            self.metrics.lost += 1

    async def _find(self, id: str) -> dict[str, Any] | None:
        await asyncio.to_thread(self.writer.flush)
        return await asyncio.to_thread(self.reader.find, id)
