"""A Lua script that serves many items in one call.

Each item is a list of arguments. They reach the script as `ARGV`: for every item how many there
are, then they themselves; the script returns one reply for each item, in their order. Items that
were asked in the same turn of the event loop share a call: its cost is paid once.

Keys are named among the arguments, so that the number of them may differ: a Redis Cluster, which
wants them apart, is not served.
"""

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any

from redis.exceptions import ResponseError

from gateway.errors import CoordinatorAway

Arg = str | bytes | int | float
Item = tuple[Sequence[Arg], asyncio.Future[Any]]


class Script:
    """Made by `Coordinator.script`; `items` wait for the next round trip."""

    __slots__ = ("_sha", "_soon", "items", "source", "unheard")

    def __init__(self, source: str, soon: Callable[[], None]) -> None:
        """`soon` is told of each item; it raises CoordinatorAway where there is nobody to ask."""
        self.source = source
        self.unheard: Callable[[Sequence[Arg], Any], None] | None = None
        """Told of each reply that nobody waits for any more, with the item that it is to."""
        self.items: list[Item] = []
        self._sha = sha1(source.encode(), usedforsecurity=False).hexdigest()
        self._soon = soon

    def put(self, args: Sequence[Arg]) -> asyncio.Future[Any]:
        """One item; the future has its reply, or CoordinatorAway. Raises it if already away."""
        self._soon()
        future = asyncio.get_running_loop().create_future()
        self.items.append((args, future))
        return future

    def tell(self, args: Sequence[Arg]) -> asyncio.Future[Any]:
        """As `put`, where nobody has to look at the reply."""
        future = self.put(args)
        future.add_done_callback(unheeded)
        return future

    async def ask(self, args: Sequence[Arg]) -> Any:
        """One item's reply; raises CoordinatorAway."""
        return await self.put(args)

    def take(self, most: int | None = None) -> list[Item]:
        """The items that wait, the first ones first; what is more than `most` waits on."""
        if most is None or len(self.items) <= most:
            taken, self.items = self.items, []
        else:
            taken, self.items = self.items[:most], self.items[most:]
        return taken

    def call(self, items: Sequence[Item], *, whole: bool = False) -> tuple[Arg, ...]:
        """The command that serves these items; `whole` brings the script's text with it."""
        command: list[Arg] = ["EVAL", self.source, 0] if whole else ["EVALSHA", self._sha, 0]
        for args, _ in items:
            command.append(len(args))
            command += args
        return tuple(command)

    def answered(self, items: Sequence[Item], reply: Any) -> None:
        """Hands each item its part of the reply."""
        if isinstance(reply, ResponseError) or len(reply) != len(items):
            self.failed(items, CoordinatorAway(f"Redis refused: {reply}", sent=True))
            return
        for (args, future), part in zip(items, reply, strict=True):
            if not future.done():
                future.set_result(part)
            elif self.unheard is not None:
                self.unheard(args, part)

    def failed(self, items: Sequence[Item], error: CoordinatorAway) -> None:
        """None of these items has a reply."""
        for _, future in items:
            if not future.done():
                future.set_exception(error)


def unheeded(future: asyncio.Future[Any]) -> None:
    """Nobody waits for it: that it failed was logged where Redis was lost."""
    if not future.cancelled():
        future.exception()
