"""Asking within a limit: each question once, kept by its content, and what all of it costs.

What is kept of an answer lies below its hash: of who answers (its name by its own word, so that
another version of an adapter is asked anew), of the question, and of the repetition.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import msgspec

from gateway.errors import SwitchboardError
from gateway.evals.asking import Reply
from gateway.types.backends import Target


class RunFailed(SwitchboardError):
    """A run cannot be made or go on; the text says why."""


class Answers(Protocol):
    """Who answers: a gateway."""

    async def ask(self, body: Mapping[str, Any]) -> Reply: ...


class Progress(msgspec.Struct):
    """How far a run is. Dollars; `reserved` is what questions under way may cost at the most."""

    done: int = 0
    asked: int = 0
    cached: int = 0
    errors: int = 0
    cost_usd: float = 0.0
    judge_usd: float = 0.0
    reserved: float = 0.0
    stopped: str = ""

    @property
    def spent(self) -> float:
        """On answers and on judging them."""
        return self.cost_usd + self.judge_usd


class Cache:
    """Answers on disk by the hash of what was asked."""

    def __init__(self, folder: Path, *, reads: bool = True) -> None:
        """Without `reads` nothing is known that was kept before."""
        self._folder = folder
        self._reads = reads

    def key(self, model: str, body: Mapping[str, Any], rep: int) -> str:
        """Of who answers, what is asked and for which time."""
        content = msgspec.json.encode([model, body, rep], order="deterministic")
        return sha256(content).hexdigest()

    def get(self, key: str) -> Reply | None:
        """The answer that was kept, if it can be read."""
        if not self._reads:
            return None
        try:
            return msgspec.json.decode(self._path(key).read_bytes(), type=Reply)
        except (OSError, msgspec.DecodeError):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keeps an answer, whole or not at all."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(reply))
        os.replace(beside, path)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


class Purse:
    """Asks within a limit of dollars. `progress` changes while it does, and `told` is called
    whenever it has; `models` are what targets answer as, as far as that is known."""

    def __init__(
        self,
        declared: Mapping[str, Target],
        answers: Answers,
        cache: Cache,
        *,
        limit_usd: float | None = None,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        """`declared` are the targets of the configuration, whose prices bound what is spent."""
        self.progress = Progress()
        self.models: dict[str, str] = {}
        self.told = told
        self._declared = declared
        self._answers = answers
        self._cache = cache
        self._limit = limit_usd
        self._under_way = 0
        self._settled = asyncio.Event()

    def check(self, name: str, *, internal: bool) -> None:
        """Raises RunFailed for a target that is not there, or may not be asked: of `internal` data
        only self-hosted ones are, within a limit only those with a price."""
        target = self._declared.get(name)
        if target is None:
            raise RunFailed(
                f"there is no target `{name}`; there are: {', '.join(sorted(self._declared))}"
            )
        if internal and not target.internal:
            raise RunFailed(f"`{name}` is not self-hosted, and the route's data is internal")
        if self._limit is not None and not target.priced:
            raise RunFailed(f"the price of `{name}` is not known here: no limit can be kept")

    async def who(self, target: str, *, judging: bool = False) -> str:
        """What a target answers as: one token of it tells. Raises RunFailed."""
        if target in self.models:
            return self.models[target]
        body = {
            "model": target,
            "messages": [{"role": "user", "content": "."}],
            "max_tokens": 1,
        }
        reply = await self._paid(target, body, judging=judging)
        if reply is None:
            raise RunFailed(
                f"{self.progress.stopped} leaves too little to ask {target} who it is, which may"
                f" cost {self._most(target, body):.2g} usd; set a higher one"
            )
        if reply.error is not None:
            raise RunFailed(f"{target} does not answer: {reply.error}")
        self.models[target] = reply.model
        return reply.model

    async def reply(
        self, target: str, body: Mapping[str, Any], rep: int, *, judging: bool = False
    ) -> tuple[Reply, bool] | None:
        """The answer, and whether it was kept from before; None where money is at an end.

        An answer that failed is not kept: it is asked again the next time.
        """
        key = self._cache.key(self.models.get(target, ""), body, rep)
        kept = self._cache.get(key)
        if kept is not None:
            self.progress.cached += not judging
            return kept, True
        reply = await self._paid(target, body, judging=judging)
        if reply is None:
            return None
        self.progress.asked += not judging
        if reply.error is None:
            self._cache.put(key, reply)
        self.told()
        return reply, False

    async def _paid(self, target: str, body: Mapping[str, Any], *, judging: bool) -> Reply | None:
        """The answer, and what it cost is spent; None where money is at an end."""
        most = self._most(target, body)
        progress = self.progress
        if not await self._reserved(most):
            return None
        try:
            reply = await self._answers.ask(body)
        finally:
            self._under_way -= 1
            progress.reserved = progress.reserved - most if self._under_way else 0.0
            self._settled.set()
            self._settled = asyncio.Event()
        if judging:
            progress.judge_usd += reply.cost_usd
        else:
            progress.cost_usd += reply.cost_usd
        return reply

    async def _reserved(self, most: float) -> bool:
        """Sets so much aside. What does not fit beside questions under way waits for what those
        really cost; False where money is at an end."""
        progress = self.progress
        while not progress.stopped and self._limit is not None:
            if progress.spent + progress.reserved + most <= self._limit:
                break
            if self._under_way:
                await self._settled.wait()
            else:
                progress.stopped = f"the limit of {self._limit:g} usd"
        if progress.stopped:
            return False
        progress.reserved += most
        self._under_way += 1
        return True

    def _most(self, target: str, body: Mapping[str, Any]) -> float:
        """The most that a question costs: a tokenizer makes at most a token of each byte."""
        price = self._declared[target].price
        size, most = len(msgspec.json.encode(body["messages"])), int(body["max_tokens"])
        return size * price.input + most * price.output
