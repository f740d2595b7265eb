"""One connection to Redis, shared by everything in a worker that has something to coordinate.

Calls are batched: all that is asked in the same turn of the event loop, or while a round trip is
under way, leaves together in the next one. A round trip has `timeout_s`; when it does not come back
in time, or the connection breaks, Redis is *away*: every call fails at once, nobody waits for it,
and the connection is tried again in the background until it is there.

A call that failed because Redis went away may or may not have been carried out: `CoordinatorAway`
says so by `sent`. Every connection has a higher `generation` than the ones before it, so that a
script can refuse what an older one still delivers.
"""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from redis import RedisError
from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError

from gateway.coordination.script import Item, Script, unheeded
from gateway.errors import CoordinatorAway

log = logging.getLogger("switchboard.coordinator")

Arg = str | bytes | int | float

TIMEOUT_S = 0.1
"""How long a round trip may take: within a data centre it takes a hundredth of that."""

RETRY_S = 0.5
"""Between two tries to reach a Redis that is away, and between two looks at an idle one."""

CONNECT_S = 1.0
"""How long a new connection may take, with its greeting and scripts."""

GRACE_S = 0.02
"""What a reply gets that lay unread when its time was up: the event loop itself was late."""

MOST_AT_ONCE = 500
"""Items of one script in a round trip: Redis serves nobody else while it runs."""


class CoordinatorState(msgspec.Struct, frozen=True):
    """What `/ready` and metrics show. `since` is the Unix time of the last change of `here`.

    `calls` are what was asked, `trips` the round trips that carried it, `failed` the trips that did
    not come back.
    """

    url: str
    here: bool
    since: float
    error: str
    calls: int
    trips: int
    failed: int


class Coordinator:
    """Redis, by batched calls of bounded time.

    coordinator = Coordinator("redis://host:6379", name="switchboard")
    await coordinator.start()                      # Redis may be away: that is only a warning
    await coordinator.ask("GET", coordinator.key("x"))
    coordinator.tell("SET", coordinator.key("x"), 1)
    await coordinator.publish("revisions", b"12")
    coordinator.subscribe("revisions", changed, again=look)
    script = coordinator.script(LUA); await script.ask(args)
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "switchboard",
        timeout_s: float = TIMEOUT_S,
        retry_s: float = RETRY_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`url` is redis://, rediss:// or unix://; `name` begins every key and channel.

        Raises ValueError for a URL that is none.
        """
        self._pool = ConnectionPool.from_url(
            url,
            protocol=2,
            socket_connect_timeout=CONNECT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._name = name
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._clock = clock
        self._now = now
        self._connection: AbstractConnection | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._listener: asyncio.Task[None] | None = None
        self._trip: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        self._scripts: list[Script] = []
        self._commands: list[tuple[tuple[Arg, ...], asyncio.Future[Any]]] = []
        self._channels: dict[
            bytes, list[tuple[Callable[[bytes], None], Callable[[], None] | None]]
        ] = {}
        self._came_back: list[Callable[[], None]] = []
        self._went_away: list[Callable[[], None]] = []
        self._used = 0.0
        self._since = now()
        self._error = "not connected yet"
        self._shown = _without_secret(url)
        self._calls = self._trips = self._failed = 0
        self.generation = 0

    def __repr__(self) -> str:
        return f"Coordinator({self._shown})"

    # ------------------------------------------------------------ life

    async def start(self) -> None:
        """Tries to connect, and goes on trying beside; a Redis that is away is only warned of."""
        await self._connect()
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """Sends what is waiting, as far as Redis is there, and closes the connections."""
        if self._trip is not None:
            await asyncio.wait([self._trip])
        for task in (self._keeper, self._listener):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        self._fail("stopped", sent=False)
        await _close(self._connection)
        self._connection = None

    @property
    def here(self) -> bool:
        """Whether Redis can be asked now."""
        return self._connection is not None

    @property
    def state(self) -> CoordinatorState:
        """For `/ready` and metrics; without any secret."""
        return CoordinatorState(
            self._shown,
            self.here,
            self._since,
            self._error,
            self._calls,
            self._trips,
            self._failed,
        )

    def key(self, *parts: str) -> str:
        """A key of this gateway's own: `name:part:part`."""
        return ":".join((self._name, *parts))

    def on_back(self, told: Callable[[], None]) -> None:
        """Calls `told` whenever a connection has been made, the first one too."""
        self._came_back.append(told)

    def on_away(self, told: Callable[[], None]) -> None:
        """Calls `told` whenever the connection is lost."""
        self._went_away.append(told)

    # ------------------------------------------------------------ asking

    async def ask(self, *command: Arg) -> Any:
        """One command's reply; raises CoordinatorAway."""
        return await self._put(command)

    def tell(self, *command: Arg) -> None:
        """A command whose reply nobody waits for; it is dropped while Redis is away."""
        if self._connection is not None:
            self._put(command).add_done_callback(unheeded)

    def script(self, source: str) -> Script:
        """A Lua script that serves many items in one call; see `Script`."""
        script = Script(source, self._soon)
        self._scripts.append(script)
        return script

    async def publish(self, channel: str, message: bytes) -> None:
        """Tells all who subscribed to the channel, this worker too; raises CoordinatorAway."""
        await self._put(("PUBLISH", self.key(channel), message))

    def subscribe(
        self,
        channel: str,
        heard: Callable[[bytes], None],
        *,
        again: Callable[[], None] | None = None,
    ) -> None:
        """Calls `heard` with each message of the channel from now on.

        What is published while Redis is away is missed: `again` is called whenever the channel is
        listened to from anew, the first time too, to look for oneself.
        """
        name = self.key(channel).encode()
        self._channels.setdefault(name, []).append((heard, again))
        self._listen_anew()

    def _put(self, command: tuple[Arg, ...]) -> asyncio.Future[Any]:
        future = asyncio.get_running_loop().create_future()
        self._soon()
        self._commands.append((command, future))
        return future

    def _soon(self) -> None:
        """Something was asked: a trip is made for it in this turn; raises CoordinatorAway."""
        if self._connection is None:
            raise CoordinatorAway(f"the coordinator is away: {self._error}", sent=False)
        self._calls += 1
        if self._trip is None:
            self._trip = asyncio.create_task(self._make_trips(self._connection))

    # ------------------------------------------------------------ round trips

    async def _make_trips(self, connection: AbstractConnection) -> None:
        """One round trip after the other, while something is waiting."""
        try:
            while connection is self._connection:
                commands, self._commands = self._commands, []
                batches = [(each, each.take(MOST_AT_ONCE)) for each in self._scripts if each.items]
                if not commands and not batches:
                    return
                self._used = self._clock()
                self._trips += 1
                try:
                    async with asyncio.timeout(None) as limit:
                        late = asyncio.get_running_loop().call_later(
                            self._timeout_s, _last_chance, limit
                        )
                        try:
                            await self._round(connection, batches, commands)
                        finally:
                            late.cancel()
                except (TimeoutError, OSError, RedisError) as error:
                    said = str(error) or f"no answer within {self._timeout_s:g} s"
                    _fail_all(batches, commands, CoordinatorAway(said, sent=True))
                    self._lost(connection, said)
        finally:
            self._trip = None

    async def _round(
        self,
        connection: AbstractConnection,
        batches: Sequence[tuple[Script, list[Item]]],
        commands: Sequence[tuple[tuple[Arg, ...], asyncio.Future[Any]]],
    ) -> None:
        packed: list[tuple[Arg, ...]] = [script.call(items) for script, items in batches]
        packed += [command for command, _ in commands]
        await connection.send_packed_command(connection.pack_commands(packed), check_health=False)
        replies = [await _reply(connection) for _ in packed]
        for (script, items), reply in zip(batches, replies, strict=False):
            if isinstance(reply, NoScriptError):
                # Its cache was flushed; EVAL puts it back.
                call = connection.pack_command(*script.call(items, whole=True))
                await connection.send_packed_command(call, check_health=False)
                reply = await _reply(connection)
            script.answered(items, reply)
        for (_, future), reply in zip(commands, replies[len(batches) :], strict=True):
            if future.done():
                continue
            if isinstance(reply, ResponseError):
                future.set_exception(CoordinatorAway(f"Redis refused: {reply}", sent=True))
            else:
                future.set_result(reply)

    # ------------------------------------------------------------ here and away

    async def _keep(self) -> None:
        """Reaches for a Redis that is away, and looks whether an idle one is still there."""
        while True:
            await asyncio.sleep(self._retry_s)
            if self._connection is None:
                await self._connect()
            elif self._clock() - self._used > self._retry_s:
                with contextlib.suppress(CoordinatorAway):
                    await self.ask("PING")

    async def _connect(self) -> None:
        connection = self._new_connection()
        try:
            async with asyncio.timeout(CONNECT_S):
                await connection.connect()  # type: ignore[no-untyped-call]
                for script in self._scripts:
                    await connection.send_command("SCRIPT", "LOAD", script.source)
                    await connection.read_response()
        except (TimeoutError, OSError, RedisError) as error:
            self._say(str(error) or f"no connection within {CONNECT_S:g} s")
            await _close(connection)
            return
        except BaseException:
            await _close(connection)
            raise
        self.generation += 1
        self._connection = connection
        self._error = ""
        self._since = self._now()
        log.info("the coordinator %s is there", self._shown)
        for told in self._came_back:
            told()

    def _new_connection(self) -> AbstractConnection:
        return self._pool.make_connection()  # type: ignore[no-untyped-call,no-any-return]

    def _lost(self, connection: AbstractConnection, error: str) -> None:
        if self._connection is not connection:
            return
        self._connection = None
        self._failed += 1
        self._since = self._now()
        self._say(error)
        self._fail(error, sent=False)
        closing = asyncio.create_task(_close(connection))
        self._closing.add(closing)  # the loop itself would not keep it
        closing.add_done_callback(self._closing.discard)
        if self._listener is not None:
            # Its side may say nothing for ever: listen from anew once Redis is there again.
            self._listen_anew()
        for told in self._went_away:
            told()

    def _say(self, error: str) -> None:
        if error != self._error:
            log.warning("the coordinator %s is away: %s", self._shown, error)
        self._error = error

    def _fail(self, error: str, *, sent: bool) -> None:
        """What waits for a trip is told that there is none."""
        commands, self._commands = self._commands, []
        batches = [(script, script.take()) for script in self._scripts if script.items]
        _fail_all(batches, commands, CoordinatorAway(error, sent=sent))

    # ------------------------------------------------------------ listening

    async def _listen(self) -> None:
        """Hears what is published, by a connection of its own."""
        while True:
            if self._connection is not None:
                connection = self._new_connection()
                try:
                    await self._hear(connection)
                except (TimeoutError, OSError, RedisError) as error:
                    log.info("listening at the coordinator ended: %s", error)
                finally:
                    await _close(connection)
            await asyncio.sleep(self._retry_s)

    def _listen_anew(self) -> None:
        if self._listener is not None:
            self._listener.cancel()
        self._listener = asyncio.create_task(self._listen())

    async def _hear(self, connection: AbstractConnection) -> None:
        async with asyncio.timeout(CONNECT_S):
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command("SUBSCRIBE", *self._channels)
        while True:
            kind, channel, message = await connection.read_response(timeout=math.inf)
            for heard, again in self._channels.get(channel, ()):
                if kind == b"message":
                    _guarded(heard, message)
                elif kind == b"subscribe" and again is not None:
                    _guarded(again)


def _last_chance(limit: asyncio.Timeout) -> None:
    """Time is up; but a loop that was late itself reads what lies there before it gives up."""
    limit.reschedule(asyncio.get_running_loop().time() + GRACE_S)


async def _reply(connection: AbstractConnection) -> Any:
    """One reply; an error of the command alone is returned, not raised."""
    try:
        return await connection.read_response(disconnect_on_error=False)
    except ResponseError as error:
        return error


def _fail_all(
    batches: Sequence[tuple[Script, list[Item]]],
    commands: Sequence[tuple[tuple[Arg, ...], asyncio.Future[Any]]],
    error: CoordinatorAway,
) -> None:
    for script, items in batches:
        script.failed(items, error)
    for _, future in commands:
        if not future.done():
            future.set_exception(error)


def _guarded(call: Callable[..., None], *args: Any) -> None:
    try:
        call(*args)
    except Exception:
        log.exception("what was heard from the coordinator could not be dealt with")


async def _close(connection: AbstractConnection | None) -> None:
    if connection is not None:
        with contextlib.suppress(OSError, RedisError, TimeoutError):
            await connection.disconnect(nowait=True)


def _without_secret(url: str) -> str:
    """A URL for people: without user and password, and without its query."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('?')[0].rpartition('@')[2]}"
