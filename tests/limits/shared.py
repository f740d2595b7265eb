"""Several gateways that share one Redis and one store, in front of one provider."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from gateway.app import Gateway
from gateway.serving import listening
from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.store.store import Store
from gateway.types.backends import Price
from gateway.types.limits import Quota
from gateway.types.snapshot import Server, Snapshot
from tests.gateway.support import Served, serving_client, snapshot, target

USD = 1e-4
"""What a token costs here."""


class Workers(msgspec.Struct):
    """Gateways of one key, and what is known of them."""

    served: list[Served]
    provider: StandIn
    secret: str

    async def ask(self, count: int, **body: Any) -> list[int]:
        """So many requests at once, dealt out among the workers; their statuses."""
        asked = {"text": "hello", **body}
        answers = await asyncio.gather(
            *(self.served[n % len(self.served)].chat(**asked) for n in range(count))
        )
        return [answer.status_code for answer in answers]

    async def spent(self) -> float:
        """By the rows of the log."""
        for each in self.served:
            await asyncio.to_thread(each.gateway.writer.flush)
        rows = self.served[0].gateway.reader.recent(limit=10_000)
        return float(sum(row["cost_usd"] for row in rows))

    async def told(self) -> dict[str, Any]:
        """The key's limits as the first worker shows them."""
        (row,) = [
            row
            for row in await self.served[0].gateway.limiter.shown()
            if row["account"].startswith("key:")
        ]
        limits: dict[str, Any] = row["limits"]
        return limits

    def here(self) -> bool:
        """Whether Redis decides for every worker."""
        shared = [each.gateway.shared_limits for each in self.served]
        return all(each is not None and each.ready for each in shared)

    async def known(self) -> None:
        """Back when Redis decides for every worker, and knows what was spent before."""
        await until(self.here)
        shared = [each.gateway.shared_limits for each in self.served]
        await until(lambda: all(each is not None and each.seeded for each in shared))

    async def settled(self) -> None:
        """Back when every worker has told Redis all that has ended."""
        shared = [each.gateway.shared_limits for each in self.served]
        await until(lambda: all(each is not None and each.settled for each in shared))


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Back when it is true."""
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def configured(provider: StandIn, redis: str, **changes: Any) -> Snapshot:
    """One target at the provider, one Redis."""
    price = Price(input=USD, cached_input=USD, output=USD)
    declared = target("openai/mini", provider.url, price=price, output_tokens=20.0)
    return snapshot([declared], server=Server(coordinator=redis), **changes)


@asynccontextmanager
async def working(
    configuration: Snapshot, provider: StandIn, folder: Path, count: int, quota: Quota
) -> AsyncIterator[Workers]:
    """So many workers, each a whole gateway on a socket of its own."""
    url = f"sqlite:///{folder}/switchboard.db"
    secret = Keys(Store.open(url)).create("test", quota=quota).secret
    async with AsyncExitStack() as stack:
        workers = Workers([], provider, secret)
        for _ in range(count):
            gateway = Gateway(configuration, Store.open(url), workers=count)
            await gateway.start()
            stack.push_async_callback(gateway.stop)
            port = await stack.enter_async_context(
                listening(gateway, "127.0.0.1", 0, configuration.server)
            )
            served = await stack.enter_async_context(serving_client(gateway, port, secret))
            workers.served.append(served)
        yield workers
