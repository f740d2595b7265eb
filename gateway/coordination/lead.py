"""Which of all workers does what only one shall do: whoever holds a lease in Redis.

The lease ends by itself when its holder does, and another has it within seconds. While Redis is
away the holder leads on until its lease is over; from then on, on each host, the first worker does.
So for a time several may lead, or none: what a lead does must bear both.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

from gateway.coordination.coordinator import Coordinator
from gateway.errors import CoordinatorAway

LEASE_S = 5.0
RENEW_S = 1.5

_TAKE = """
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
"""

_LEAVE = "if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end"


class Lead:
    """One worker's side of the lease."""

    def __init__(
        self,
        coordinator: Coordinator,
        me: str,
        *,
        first: bool,
        lease_s: float = LEASE_S,
        renew_s: float = RENEW_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`me` is no other worker's name; `first` is whether it leads where nobody can be asked."""
        self._coordinator = coordinator
        self._me = me
        self._first = first
        self._lease_s = lease_s
        self._renew_s = renew_s
        self._clock = clock
        self._until = float("-inf")

    @property
    def mine(self) -> bool:
        """Whether this worker is to do it now."""
        return self._clock() < self._until or (self._first and not self._coordinator.here)

    async def run(self) -> None:
        """Takes the lease when it is free, and keeps it, for ever."""
        while True:
            await self.take()
            await asyncio.sleep(self._renew_s)

    async def take(self) -> None:
        """Tries once."""
        asked = self._clock()
        try:
            got = await self._ask(_TAKE, round(1000 * self._lease_s))
        except CoordinatorAway:
            return  # what is held runs out by itself
        # From before it was asked: Redis counts from later on, so never longer than there.
        self._until = asked + self._lease_s if got else float("-inf")

    async def leave(self) -> None:
        """Lets another have it at once."""
        self._until = float("-inf")
        with contextlib.suppress(CoordinatorAway):
            await self._ask(_LEAVE)

    async def _ask(self, script: str, *more: int) -> object:
        key = self._coordinator.key("lead")
        return await self._coordinator.ask("EVAL", script, 1, key, self._me, *more)
