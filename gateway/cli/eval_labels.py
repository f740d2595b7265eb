"""`switchboard eval label`: a local page on which people label a run's answers."""

import asyncio
import getpass
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console

from gateway.cli.eval_reports import RunArgument, read_run
from gateway.cli.opening import ConfigOption, JsonOption, fail
from gateway.cli.records import ASIDE
from gateway.errors import SwitchboardError

if TYPE_CHECKING:
    from gateway.evals.labelling import Labelling


def register(evals: typer.Typer) -> None:
    """Adds it to `eval`."""

    @evals.command("label")
    def label(
        run: RunArgument,
        rater: Annotated[
            str | None, typer.Option(metavar="NAME", help="Who labels; this user if left out.")
        ] = None,
        targets: Annotated[
            str | None,
            typer.Option(metavar="A,B", help="Only these targets' answers, two by two."),
        ] = None,
        cases: Annotated[
            int | None, typer.Option(min=1, metavar="N", help="Only so many cases, by the seed.")
        ] = None,
        repetitions: Annotated[
            int | None,
            typer.Option(
                min=1, metavar="N", help="Only the first so many repetitions of each; all of them."
            ),
        ] = None,
        seed: Annotated[
            int | None,
            typer.Option(metavar="N", help="Of the order and the sides; the suite's if left out."),
        ] = None,
        port: Annotated[
            int, typer.Option(min=0, max=65535, metavar="N", help="Of this machine; 0 is any.")
        ] = 0,
        open_it: Annotated[
            bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
        ] = True,
        config: ConfigOption = Path(),
        as_json: JsonOption = False,
    ) -> None:
        """Label a run's answers blindly, side by side, on a page of this machine.

        Which of two answers is better, and which are right. Labels are kept beside the run at once:
        end it whenever you like, and go on another time. `switchboard eval report` shows them.
        """
        from gateway.evals import labels
        from gateway.evals.labelling import Labelling

        folder, told, results = read_run(run, config)
        names = [each.target for each in told.targets]
        if targets is not None:
            wanted = [each.strip() for each in targets.split(",")]
            if unknown := [each for each in wanted if each not in names]:
                fail(f"the run did not ask {', '.join(unknown)}; it asked {', '.join(names)}")
            names = [each for each in names if each in wanted]
        chosen = told.seed if seed is None else seed
        pairs = labels.pairs(results, names, chosen, cases, repetitions)
        if not pairs:
            fail("there is nothing to compare: no case was answered by two targets of this run")
        path = folder / labels.FILE
        try:
            known, _ = labels.read(path)
        except SwitchboardError as error:
            fail(str(error))
        who = rater or _user()
        ended = asyncio.Event()
        labelling = Labelling(
            told.suite, pairs, who, chosen, known,
            keep=lambda each: labels.append(path, each), clock=time.time, finished=ended.set,
        )  # fmt: skip
        notes = Console(stderr=True, soft_wrap=True, highlight=False)
        try:
            asyncio.run(_serve(labelling, port, ended, open_it, notes))
        except OSError as error:
            fail(f"port {port} of this machine cannot be had: {error.strerror}")
        except KeyboardInterrupt:
            pass
        if as_json:
            done = {"rater": who, "pairs": len(pairs), "done": labelling.done, "file": str(path)}
            print(msgspec.json.encode(done).decode())
        else:
            notes.print(
                f"{labelling.done} of {len(pairs)} pairs are labelled by {who}, in {path}",
                style="bold",
                markup=False,
            )


def _user() -> str:
    """Who runs this; a user whom the system knows by number alone has to say."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        fail("this system has no name for you: say who labels with --rater NAME")


def _has_screen() -> bool:
    """Whether a browser can be opened; in a terminal alone one would take it over."""
    if sys.platform != "linux":
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def marked(folder: Path) -> dict[str, tuple[int, float]]:
    """By target how many cases people have said to be right or wrong, and how many of them right;
    where raters differ, a share. Without any, why not in red, with exit code 1."""
    from gateway.evals import labels
    from gateway.evals.agreement import shares
    from gateway.evals.runs import read

    try:
        found, _ = labels.read(folder / labels.FILE)
        found = labels.spread(found, read(folder)[1])
    except SwitchboardError as error:
        fail(str(error))
    rows = {target: (len(each), sum(each.values())) for target, each in shares(found).items()}
    if not rows:
        fail("nobody has said of its answers that they are right or wrong: switchboard eval label")
    return rows


async def _serve(
    labelling: "Labelling", port: int, ended: asyncio.Event, open_it: bool, notes: Console
) -> None:
    """Serves the page until it is finished, SIGINT or SIGTERM. Raises OSError for a port that
    cannot be had."""
    import socket
    import webbrowser

    import uvicorn

    with socket.socket() as own:
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(("127.0.0.1", port))
        actual = own.getsockname()[1]
        config = uvicorn.Config(
            labelling.app(actual),
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=2,
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        url = f"http://127.0.0.1:{actual}/{labelling.token}/"
        # uvicorn raises the signal again when its handlers are put back: all is kept by then.
        with server.capture_signals():
            await server.startup(sockets=[own])
            notes.print(f"label here, on this machine alone: {url}", style="bold", markup=False)
            notes.print("Finish on the page, or ctrl-C, ends it; all is kept.", style=ASIDE)
            if open_it and _has_screen():
                await asyncio.to_thread(webbrowser.open, url)
            loop = asyncio.create_task(server.main_loop())
            finishing = asyncio.create_task(ended.wait())
            await asyncio.wait({loop, finishing}, return_when=asyncio.FIRST_COMPLETED)
            server.should_exit = True
            finishing.cancel()
            await loop
            await server.shutdown(sockets=[own])
