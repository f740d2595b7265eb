"""What goes wrong: kills, holds and restarts of backends, one begun at a time, and in between what
is commanded (see `tests.chaos.operator`)."""

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Sequence

from tests.chaos.operator import Operator
from tests.chaos.servers import Backend, Provider, Replica, until_it_answers
from tests.chaos.story import Ill, Story
from tests.gateway.support import Served

HELD_S = (0.2, 1.0, 6.0)
"""How long a provider is held: from hardly felt to longer than its timeouts."""

REPLICA_HELD_S = (0.2, 2.0)
PAUSE_S = 0.45
"""On the average between two things."""


class Monkey:
    """Harms what it is given, at random by its seed, and mends it again."""

    def __init__(
        self,
        served: Served,
        story: Story,
        rng: random.Random,
        operator: Operator,
        providers: Sequence[Provider],
        replicas: Sequence[Replica],
    ) -> None:
        self._served = served
        self._story = story
        self._rng = rng
        self._operator = operator
        self._providers = providers
        self._replicas = replicas
        self._mending: dict[str, asyncio.Task[None]] = {}
        self.done: dict[str, int] = {}
        """How often each thing was done."""

    async def run(self, until: Callable[[], bool]) -> None:
        """Goes on until it is told to end; then all is mended."""
        while not until():
            await asyncio.sleep(self._rng.expovariate(1 / PAUSE_S))
            name, act = self._drawn()
            self.done[name] = self.done.get(name, 0) + 1
            await act()
        await asyncio.gather(*self._mending.values(), self._operator.end())

    def start_replicas(self) -> None:
        """Ours are ill from the beginning: they start while there is traffic already."""
        for replica in self._replicas:
            self._mend(replica, self._restarted(replica, 0.0, self._story.ill(replica.name)))

    def _drawn(self) -> tuple[str, Callable[[], Awaitable[None]]]:
        acts: list[tuple[str, Callable[[], Awaitable[None]]]] = [
            *self._operator.acts(),
            ("kill a provider", self._kill_provider),
            ("hold a provider", self._hold_provider),
            ("kill a provider", self._kill_provider),
            ("hold a provider", self._hold_provider),
        ]
        well = [replica for replica in self._replicas if self._well(replica)]
        if well:
            acts += [("hold a replica", self._hold_replica)] * 2
            acts += self._operator.acts_on_adapters()
            first = len(well) == len(self._replicas) and "kill a replica" not in self.done
            if first or self._rng.random() < 0.1:  # it takes most of a minute to be back
                acts.append(("kill a replica", self._kill_replica))
        # In a short run everything is to happen once, too.
        new = [act for act in acts if act[0] not in self.done]
        return self._rng.choice(new if new and self._rng.random() < 0.5 else acts)

    # ---------------------------------------------------------------- what is done

    async def _kill_provider(self) -> None:
        provider = self._rng.choice(self._providers)
        if self._well(provider):
            self._mend(
                provider,
                self._restarted(
                    provider, self._rng.choice((0.0, 0.5, 2.0)), self._story.ill(provider.name)
                ),
            )

    async def _hold_provider(self) -> None:
        provider = self._rng.choice(self._providers)
        if self._well(provider):
            self._mend(provider, self._held(provider, self._rng.choice(HELD_S)))

    async def _kill_replica(self) -> None:
        replica = self._rng.choice([each for each in self._replicas if self._well(each)])
        self._mend(replica, self._restarted(replica, 0.5, self._story.ill(replica.name)))

    async def _hold_replica(self) -> None:
        replica = self._rng.choice([each for each in self._replicas if self._well(each)])
        self._mend(replica, self._held(replica, self._rng.choice(REPLICA_HELD_S)))

    # ---------------------------------------------------------------- harm and mend

    def _well(self, server: Backend) -> bool:
        task = self._mending.get(server.name)
        return task is None or task.done()

    def _mend(self, server: Backend, work: Awaitable[None]) -> None:
        async def mending() -> None:
            await work

        self._mending[server.name] = asyncio.create_task(mending())

    async def _restarted(self, server: Backend, after_s: float, ill: Ill) -> None:
        self._story.tell(f"kill {server.name}")
        await asyncio.to_thread(_kill_if_running, server)
        await asyncio.sleep(after_s)
        await asyncio.to_thread(server.launch)
        await self._until_well(server)
        self._story.well(ill)
        self._story.tell(f"{server.name} serves")

    async def _held(self, server: Backend, seconds: float) -> None:
        ill = self._story.ill(server.name)
        self._story.tell(f"hold {server.name} for {seconds:g} s")
        server.signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            server.signal(signal.SIGCONT)
        await self._until_well(server)
        self._story.well(ill)
        self._story.tell(f"{server.name} goes on")

    async def _until_well(self, server: Backend) -> None:
        """It answers, and of our own servers the gateway has seen it: adapters may be loaded."""
        await until_it_answers(server)
        while isinstance(server, Replica) and not self._reachable(server):  # noqa: ASYNC110
            await asyncio.sleep(0.05)

    def _reachable(self, replica: Replica) -> bool:
        keeper = self._served.gateway.fleet.keepers["local"]
        return keeper.states[replica.url].reachable


def _kill_if_running(server: Backend) -> None:
    if server.launched:
        server.signal(signal.SIGKILL)
