"""Starts workers, starts one again that dies, gathers their metrics, and ends them together.

A worker is a process of its own, begun anew and not forked, in a session of its own: a ctrl-C at
the terminal reaches the supervisor alone, which passes it on once. Each holds one end of a line;
when the supervisor ends, however it does, the line does too, and the workers drain and end: none
is left over.
"""

import asyncio
import contextlib
import os
import signal
import socket
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Mapping, Sequence

import msgspec

from gateway.errors import SwitchboardError
from gateway.workers.link import VARIABLE, Place
from gateway.workers.merging import Families, added, merged, read
from gateway.workers.messages import (
    FromWorker,
    Numbers,
    Page,
    Serves,
    Sibling,
    Siblings,
    WantNumbers,
    WantPage,
    from_worker,
    received,
    send,
)
from gateway.workers.sockets import again, bound

GRACE_S = 75.0
"""How long a worker may drain: 30 s for requests under way, 30 s for its rows, and some more."""

STABLE_S = 30.0
"""A worker that has served for so long counts as healthy: its next end is the first one again."""

NUMBERS_S = 1.0
"""How long a worker may take to tell its metrics; then those it told last stand for it."""

KEEP_S = 10.0
"""How often the workers' metrics are asked for anyway: what one counted since then and before it is
killed is in no sum."""


def backoff(failures: int) -> float:
    """Seconds before the next start, after `failures` in a row: none, then 0.5 s doubling to 10."""
    return 0.0 if failures <= 1 else min(10.0, 0.25 * 2.0 ** (failures - 1))


def url_of(host: str, port: int) -> str:
    """The URL of a gateway that listens there."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class WorkersFailed(SwitchboardError):
    """No worker came to serve; the text says how they ended."""


class Worker:
    """One place for a worker: the process that has it now, and what those before it had counted."""

    def __init__(self, number: int, listen: socket.socket) -> None:
        self.number = number
        self.listen = listen
        self.process: Process | None = None
        self.writer: asyncio.StreamWriter | None = None
        self.snapshot = ""
        self.serves = False
        self.since = 0.0
        self.failures = 0
        self.restarts = 0
        self.numbers: Families = {}
        self.gone: Families = {}
        self.waiting: dict[int, asyncio.Future[None]] = {}

    def seen(self) -> Sibling:
        """As the other workers hear of it."""
        pid = self.process.pid if self.process is not None else None
        return Sibling(self.number, pid, self.serves, self.snapshot, self.restarts)


class Supervisor:
    """The workers of one gateway on this host."""

    def __init__(
        self,
        command: Sequence[str],
        count: int,
        host: str,
        port: int,
        *,
        env: Mapping[str, str],
        say: Callable[[str], None],
        grace_s: float = GRACE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`command` begins a worker. Raises OSError where the port is taken."""
        self._command = tuple(command)
        self._env = dict(env)
        self._say = say
        self._grace_s = grace_s
        self._clock = clock
        self.workers = [Worker(n, each) for n, each in enumerate(bound(host, port, count))]
        self.address: tuple[str, int] = self.workers[0].listen.getsockname()[:2]
        self._asked = 0
        self._answering: set[asyncio.Task[None]] = set()
        self._ending = asyncio.Event()
        self._signals = 0
        self._served = False
        self._failed = ""

    async def run(self) -> None:
        """Until SIGINT or SIGTERM, and every worker has ended. Raises WorkersFailed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled, number)
        keeping = [asyncio.create_task(self._keep(worker)) for worker in self.workers]
        asking = asyncio.create_task(self._ask_often())
        try:
            await asyncio.gather(*keeping)
        finally:
            asking.cancel()
            for task in keeping:
                task.cancel()
            await asyncio.gather(asking, *keeping, return_exceptions=True)
            for worker in self.workers:
                worker.listen.close()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        if self._failed:
            raise WorkersFailed(self._failed)

    # ------------------------------------------------------------ ends

    def _signalled(self, number: int) -> None:
        """The first signal lets workers drain; a second one makes them cut what is under way."""
        self._signals += 1
        self._end(number)

    def _end(self, number: int) -> None:
        self._ending.set()
        for worker in self.workers:
            worker.listen.close()
            if worker.process is not None:
                _signal(worker.process, number)

    async def _ended(self, process: Process) -> int:
        """Its exit code, once it has ended: by itself, or drained, or cut off after the grace."""
        ended = asyncio.create_task(process.wait())
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait([ended, ending], return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():
                await asyncio.wait([ended], timeout=self._grace_s)
            if not ended.done():
                self._say(f"worker {process.pid} did not end in {self._grace_s:g} s: killed")
                _kill_group(process)
            return await ended
        finally:
            ending.cancel()

    # ------------------------------------------------------------ one worker

    async def _keep(self, worker: Worker) -> None:
        """Has a process at this place, one after the other, until the end."""
        while not self._ending.is_set():
            code = await self._one(worker)
            if self._ending.is_set():
                return
            if not self._served and not worker.serves:
                self._failed = f"worker {worker.number} ended with {code} before it served"
                self._end(signal.SIGTERM)
                return
            healthy = worker.serves and self._clock() - worker.since >= STABLE_S
            worker.failures = 1 if healthy else worker.failures + 1
            worker.restarts += 1
            worker.serves = False
            wait = backoff(worker.failures)
            self._say(
                f"worker {worker.number} ended with {code}; started again"
                + (f" in {wait:g} s" if wait else "")
            )
            self._tell_all()
            if wait:
                worker.listen = again(worker.listen)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait):
                        await self._ending.wait()

    async def _one(self, worker: Worker) -> int:
        """One process of a worker, from its start to its end; its exit code."""
        ours, theirs = socket.socketpair()
        told = Place(worker.number, len(self.workers), worker.listen.fileno(), theirs.fileno())
        with theirs:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env={**self._env, VARIABLE: msgspec.json.encode(told).decode()},
                pass_fds=(told.listen, told.line),
                start_new_session=True,
            )
        worker.process, worker.serves, worker.snapshot = process, False, ""
        reader, worker.writer = await asyncio.open_unix_connection(sock=ours)
        reading = asyncio.create_task(self._read(worker, reader))
        try:
            if self._ending.is_set():
                _signal(process, signal.SIGTERM)  # it was begun as the end came
            return await self._ended(process)
        finally:
            if process.returncode is None:
                _kill_group(process)
            reading.cancel()
            worker.writer.close()
            worker.process = worker.writer = None
            worker.gone = added(worker.gone, worker.numbers)
            worker.numbers = {}
            for future in worker.waiting.values():
                future.cancel()

    async def _read(self, worker: Worker, reader: asyncio.StreamReader) -> None:
        while (data := await received(reader)) is not None:
            await self._heard(worker, from_worker(data))

    async def _heard(self, worker: Worker, message: FromWorker) -> None:
        if isinstance(message, Serves):
            worker.snapshot = message.snapshot
            if not worker.serves:
                worker.serves, worker.since = True, self._clock()
            self._tell_all()
            if not self._served and all(each.serves for each in self.workers):
                self._served = True
                self._say(self._ready(message.snapshot))
        elif isinstance(message, Numbers):
            worker.numbers = read(message.page)
            waiting = worker.waiting.pop(message.asked, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        elif isinstance(message, WantPage):
            answering = asyncio.create_task(self._answer(worker, message.asked))
            self._answering.add(answering)  # the loop itself would not keep it
            answering.add_done_callback(self._answering.discard)

    def _ready(self, snapshot: str) -> str:
        of = f"{len(self.workers)} workers, snapshot {snapshot[:12]}"
        return f"Switchboard serves {url_of(*self.address)} ({of})"

    def _tell_all(self) -> None:
        told = Siblings(tuple(worker.seen() for worker in self.workers))
        for worker in self.workers:
            if worker.writer is not None:
                send(worker.writer, told)

    # ------------------------------------------------------------ metrics

    async def _answer(self, worker: Worker, asked: int) -> None:
        page = await self.page()
        if worker.writer is not None:
            send(worker.writer, Page(asked, page))

    async def page(self) -> str:
        """The metrics of all workers as they are now."""
        await asyncio.gather(*(self._ask(worker) for worker in self.workers if worker.serves))
        gone: Families = {}
        for worker in self.workers:
            added(gone, worker.gone)
        live = {worker.number: worker.numbers for worker in self.workers}
        return merged(gone, live) + self._own()

    async def _ask(self, worker: Worker) -> None:
        """Its metrics are those of now; where it does not tell, those it told last."""
        if worker.writer is None:
            return
        self._asked += 1
        future = worker.waiting[self._asked] = asyncio.get_running_loop().create_future()
        send(worker.writer, WantNumbers(self._asked))
        await asyncio.wait([future], timeout=NUMBERS_S)

    async def _ask_often(self) -> None:
        while True:
            await asyncio.sleep(KEEP_S)
            await asyncio.gather(*(self._ask(worker) for worker in self.workers if worker.serves))

    def _own(self) -> str:
        serving = sum(worker.serves for worker in self.workers)
        restarts = sum(worker.restarts for worker in self.workers)
        return (
            "# HELP switchboard_workers Workers that serve.\n"
            "# TYPE switchboard_workers gauge\n"
            f"switchboard_workers {serving}\n"
            "# HELP switchboard_worker_restarts_total Workers that ended and were started again.\n"
            "# TYPE switchboard_worker_restarts_total counter\n"
            f"switchboard_worker_restarts_total {restarts}\n"
        )


def _signal(process: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def _kill_group(process: Process) -> None:
    """The worker leads a session: whatever it has started goes with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
