"""The entrances to all replicas, and waiting at them: the effects around the pure decisions."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from gateway.admission.entrance import Entrance
from gateway.admission.line import Flow, Refused
from gateway.errors import QueueFull
from gateway.policy.live import Live
from gateway.types.backends import Admission, Backend

NEVER = float("inf")

_WHY = {
    "full": "as many requests wait there as may",
    "wait": "its turn would not come in time",
    "displaced": "others that are served earlier needed its place in the line",
    "expired": "its turn did not come in time",
}


class Entrances:
    """One entrance for each replica of each backend; kept when the configuration changes."""

    def __init__(
        self,
        live: Live,
        clock: Callable[[], float],
        workers: int = 1,
        punctual: Callable[[], bool] = lambda: True,
    ) -> None:
        """`live` is told how long one would wait at each replica. Each of `workers` has its share
        of what is declared. While this process is not `punctual`, times are no replica's."""
        self.punctual = punctual
        self._workers = workers
        self._live = live
        self._clock = clock
        self._entrances: dict[tuple[str, str], Entrance] = {}
        self._backends: Mapping[str, Backend] = {}

    def declare(self, backends: Iterable[Backend]) -> None:
        """From now on these; what is under way or waits at others ends as it would have."""
        now = self._clock()
        self._backends = {backend.name: backend for backend in backends}
        for (name, replica), entrance in list(self._entrances.items()):
            backend = self._backends.get(name)
            if backend is not None and replica in backend.replicas:
                entrance.declare(self._share(backend.admission), now)
            elif not entrance.running and not entrance.waiting:
                del self._entrances[name, replica]

    def at(self, backend: str, replica: str) -> Entrance:
        """The entrance of a replica."""
        entrance = self._entrances.get((backend, replica))
        return self._made(backend, replica) if entrance is None else entrance

    async def wait(
        self, entrance: Entrance, flow: Flow, cost: float, patience_s: float = NEVER
    ) -> float:
        """Back when one that `enter` did not let in may go on, after the seconds that this answers;
        then `leave` has to follow.

        Raises QueueFull where it may not wait, or its turn does not come in time.
        """
        began = self._clock()
        heard = _Heard()
        ticket = entrance.ask(flow, cost, began, patience_s, heard.tell)
        if isinstance(ticket, Refused):
            raise _full(ticket)
        try:
            async with asyncio.timeout(ticket.until - began):
                await heard.told
        except TimeoutError:
            if not heard.admitted:
                refused = entrance.give_up(ticket, "expired")
                assert refused is not None
                raise _full(refused) from None
        except asyncio.CancelledError:
            if heard.admitted:
                entrance.back_out(self._clock())
            else:
                entrance.give_up(ticket)
            raise
        if heard.refused is not None:
            raise _full(heard.refused)
        return self._clock() - began

    def told(self, backend: str, replica: str, runs: int, waiting: int) -> None:
        """The engine of a replica runs so many, and has so many in a line of its own."""
        self.at(backend, replica).told(runs, waiting, self._clock())

    def __iter__(self) -> Iterator[tuple[str, str, Entrance]]:
        for (backend, replica), entrance in list(self._entrances.items()):
            yield backend, replica, entrance

    def standing(self) -> dict[str, dict[str, Any]]:
        """For `/ready`: the replicas that have a bound, or a line."""
        return {
            f"{backend} {replica}": {
                "running": entrance.running,
                "limit": round(entrance.limit),
                "waiting": entrance.waiting,
                "wait_s": round(entrance.drain_s, 3),
            }
            for backend, replica, entrance in self
            if entrance.limit != NEVER
        }

    def _made(self, backend: str, replica: str) -> Entrance:
        declared = self._backends.get(backend)
        terms = self._share(Admission() if declared is None else declared.admission)
        # litellm's process is the replica of several providers: what waits for one of them says
        # nothing about the others.
        shared = declared is not None and declared.kind == "litellm"
        entrance = Entrance(terms) if shared else Entrance(terms, self._tells(replica))
        self._entrances[backend, replica] = entrance
        return entrance

    def _share(self, terms: Admission) -> Admission:
        """This worker's part; together they are given no less than is declared."""
        if terms.concurrent is None or self._workers == 1:
            return terms
        return msgspec.structs.replace(terms, concurrent=-(-terms.concurrent // self._workers))

    def _tells(self, replica: str) -> Callable[[float], None]:
        def tell(seconds: float) -> None:
            self._live.server(replica).queue(seconds)

        return tell


class _Heard:
    """What a ticket was told, though its request may have been given up at the same moment."""

    __slots__ = ("admitted", "refused", "told")

    def __init__(self) -> None:
        self.told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.admitted = False
        self.refused: Refused | None = None

    def tell(self, refused: Refused | None) -> None:
        self.admitted = refused is None
        self.refused = refused
        if not self.told.done():
            self.told.set_result(None)


def _full(refused: Refused) -> QueueFull:
    return QueueFull(_WHY[refused.reason], refused.retry_after)
