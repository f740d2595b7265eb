"""`switchboard up`: the vLLM servers that the files declare, run on this machine."""

import asyncio
import os
import shlex
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli.opening import ConfigOption, fail, snapshot_of
from gateway.types.backends import declared_as

if TYPE_CHECKING:
    from gateway.backends.vllm_server import Program
    from gateway.types.backends import Backend
    from gateway.types.snapshot import Snapshot

PLAIN_EVERY_S = 15.0
"""How often a start is told of where there is no terminal."""


def register(app: typer.Typer) -> None:
    """Adds `up`."""

    @app.command()
    def up(
        command: Annotated[
            str | None,
            typer.Option(
                metavar="WORDS",
                help="What runs vLLM; else `vllm serve`, or its module where that cannot work.",
            ),
        ] = None,
        backend: Annotated[
            str | None, typer.Option(metavar="NAME", help="Only this backend's servers.")
        ] = None,
        logs: Annotated[
            Path | None,
            typer.Option(metavar="DIR", help="Where their logs go; else .switchboard/logs."),
        ] = None,
        start_within: Annotated[
            float,
            typer.Option(min=1, metavar="SECONDS", help="How long a server may take to start."),
        ] = 1800,
        config: ConfigOption = Path(),
    ) -> None:
        """Run the vLLM servers that backends declare under `serve`, until ctrl-C.

        Each is waited for, started again when it ends or falls silent, and stopped with its
        workers. LoRA is switched on with the rank and slots that the declared adapters need.
        """
        from gateway.backends.vllm_server import ServerFailed, check_ports, installed

        snapshot = snapshot_of(config)
        declared = sorted({declared_as(name) for name in snapshot.backends})
        if backend is not None and backend not in declared:
            fail(f"there is no backend {backend}; declared are {', '.join(declared)}")
        if not any(each.serve for each in snapshot.backends.values()):
            fail("no backend declares servers to run; write `serve: [{model: …, port: 8000}]`")
        try:
            words = shlex.split(command) if command is not None else installed()
            programs = _programs(snapshot, backend, words, logs or config / ".switchboard" / "logs")
            check_ports(programs)
        except ServerFailed as error:
            fail(str(error))
        board = Board(Console(stderr=True, highlight=False, soft_wrap=True))
        _tell_what_is_unknown(snapshot, backend, board)
        failed = asyncio.run(_run(programs, board, start_within))
        if failed:
            fail("\n".join(failed))
        board.tell("", "stopped")


class Board:
    """What is shown of the servers: lines, and on a terminal which ones are starting."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._starting: dict[str, str] = {}
        self._told: dict[str, float] = {}
        self._status = out.status("") if out.is_terminal else None

    def tell(self, name: str, what: str) -> None:
        """A line of its own, which stays."""
        self._starting.pop(name, None)
        self._told.pop(name, None)
        self._out.print(f"[bold]{escape(name)}[/bold] {escape(what)}" if name else escape(what))
        self._show()

    def progress(self, name: str, elapsed_s: float, line: str) -> None:
        """How a start is going: replaced by the next, or now and then a line."""
        said = f"starting for {elapsed_s:.0f} s: {line}"
        if self._status is not None:
            self._starting[name] = f"{name} {said}"
            self._show()
        elif elapsed_s >= self._told.get(name, 0.0) + PLAIN_EVERY_S:
            self._told[name] = elapsed_s
            self._out.print(f"[bold]{escape(name)}[/bold] {escape(said)}")

    def _show(self) -> None:
        if self._status is None:
            return
        if not self._starting:
            self._status.stop()
            return
        width = max(self._out.width - 4, 20)
        self._status.update("\n".join(escape(said[:width]) for said in self._starting.values()))
        self._status.start()


def _programs(
    snapshot: "Snapshot", only: str | None, words: Sequence[str], logs: Path
) -> "list[Program]":
    from gateway.backends import vllm_command as vllm
    from gateway.backends.litellm_process import secrets_of
    from gateway.backends.vllm_server import Program

    secrets = secrets_of(snapshot.backends.values())
    return [
        Program(
            name=f"{name}:{serve.port}",
            line=tuple(vllm.command(words, serve, backend, snapshot.adapters)),
            env=vllm.environment(serve, backend, snapshot.adapters, os.environ, secrets),
            url=vllm.url(serve),
            served=serve.id,
            log=logs / f"{name.replace(':', '-')}-{serve.port}.log",
            key=backend.api_key,
            beside=_beside(backend, vllm.url(serve)),
        )
        for name, backend in snapshot.backends.items()
        if only in (None, declared_as(name))
        for serve in backend.serve
    ]


def _beside(backend: "Backend", url: str) -> tuple[str, ...]:
    """The servers that share a GPU with one."""
    gpus = backend.turns.gpus if backend.turns is not None else ()
    return tuple(each for servers in gpus if url in servers for each in servers if each != url)


def _tell_what_is_unknown(snapshot: "Snapshot", only: str | None, board: Board) -> None:
    """Ranks that cannot be read are a reason to declare the largest."""
    from gateway.backends import vllm_command as vllm

    for name, backend in snapshot.backends.items():
        if only not in (None, declared_as(name)) or not backend.serve:
            continue
        mine = vllm.of(backend.serve[0], backend, snapshot.adapters)
        unread = vllm.unread(backend, mine)
        if unread:
            board.tell(
                name,
                f"the rank of {', '.join(unread)} cannot be read yet: "
                f"{vllm.max_rank(backend, mine)} is taken; if that is too small, write "
                "`lora: {max_rank: …}`",
            )


async def _run(programs: "Sequence[Program]", board: Board, start_within_s: float) -> list[str]:
    """Until a signal, or a server that does not come up; what has failed."""
    import time

    from gateway.backends.vllm_server import ServerFailed, VllmServer

    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    gpus = {frozenset((each.url, *each.beside)): asyncio.Lock() for each in programs}
    running = [
        asyncio.create_task(
            VllmServer(
                program,
                board.tell,
                clock=time.monotonic,
                progress=board.progress,
                start_within_s=start_within_s,
                gpu=gpus[frozenset((program.url, *program.beside))],
            ).run()
        )
        for program in programs
    ]
    waiting = asyncio.create_task(ended.wait())
    await asyncio.wait([*running, waiting], return_when=asyncio.FIRST_COMPLETED)
    board.tell("", "stopping")
    for task in (*running, waiting):
        task.cancel()
    results = await asyncio.gather(*running, return_exceptions=True)
    for each in results:
        if isinstance(each, Exception) and not isinstance(each, ServerFailed):
            raise each
    return [str(each) for each in results if isinstance(each, ServerFailed)]
