"""`switchboard up`: the vLLM servers that the files declare, run on this machine."""

import asyncio
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli.opening import ConfigOption, fail, snapshot_of

if TYPE_CHECKING:
    from gateway.backends.vllm_server import VllmServer
    from gateway.types import Snapshot


def register(app: typer.Typer) -> None:
    """Adds `up`."""

    @app.command()
    def up(
        command: Annotated[
            str | None,
            typer.Option(
                metavar="WORDS",
                help="What runs vLLM; else `vllm serve`, or this Python's module of it.",
            ),
        ] = None,
        backend: Annotated[
            str | None, typer.Option(metavar="NAME", help="Only this backend's servers.")
        ] = None,
        logs: Annotated[
            Path | None, typer.Option(metavar="DIR", help="Where their logs go.")
        ] = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Run the vLLM servers that backends declare under `serve`, until ctrl-C.

        Each is waited for, started again when it ends or falls silent, and stopped with its
        workers. LoRA is switched on with the rank and slots that the declared adapters need.
        """
        snapshot = snapshot_of(config)
        program = shlex.split(command) if command is not None else _installed()
        folder = logs or config / ".switchboard" / "logs"
        out = Console(stderr=True, highlight=False, soft_wrap=True)
        servers = _servers(snapshot, backend, program, folder, out)
        if not servers:
            fail("no backend declares servers to run; write `serve: [{model: …, port: 8000}]`")
        try:
            raise typer.Exit(asyncio.run(_run(servers, out)))
        except KeyboardInterrupt:
            raise typer.Exit() from None


def _installed() -> list[str]:
    """vLLM's own command; where its distribution is broken, as of the CPU build, its module."""
    found = shutil.which("vllm")
    if found is not None:
        return [found, "serve"]
    return [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]


def _servers(
    snapshot: "Snapshot", only: str | None, program: list[str], logs: Path, out: Console
) -> "list[VllmServer]":
    import time

    from gateway.backends.vllm_server import VllmServer, command, environment

    def tell(name: str, what: str) -> None:
        out.print(f"[bold]{escape(name)}[/bold] {escape(what)}")

    return [
        VllmServer(
            f"{name}:{serve.port}",
            command(program, serve, backend, snapshot.adapters),
            environment(serve, backend, os.environ),
            f"http://{'127.0.0.1' if serve.host == '0.0.0.0' else serve.host}:{serve.port}",
            logs / f"{name}-{serve.port}.log",
            tell,
            clock=time.monotonic,
        )
        for name, backend in snapshot.backends.items()
        if only in (None, name)
        for serve in backend.serve
    ]


async def _run(servers: "list[VllmServer]", out: Console) -> int:
    """Until a signal, or a server that does not come up; the exit code."""
    from gateway.backends.vllm_server import ServerFailed, check_ports

    try:
        check_ports(servers)
    except ServerFailed as error:
        out.print(f"[red]{escape(str(error))}[/red]")
        return 1
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    running = [asyncio.create_task(server.run()) for server in servers]
    waiting = asyncio.create_task(ended.wait())
    done, _ = await asyncio.wait([*running, waiting], return_when=asyncio.FIRST_COMPLETED)
    for task in (*running, waiting):
        task.cancel()
    results = await asyncio.gather(*running, return_exceptions=True)
    failed = [str(each) for each in results if isinstance(each, ServerFailed)]
    for said in failed:
        out.print(f"[red]{escape(said)}[/red]")
    for each in results:
        if isinstance(each, Exception) and not isinstance(each, ServerFailed):
            raise each
    if waiting in done:
        out.print("stopped")
    return 1 if failed else 0
