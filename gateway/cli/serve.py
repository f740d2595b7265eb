"""`switchboard serve`: runs a configuration."""

import asyncio
import functools
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.opening import EnvironmentOption, StoreOption, address_of


def register(app: typer.Typer) -> None:
    """Adds `serve`."""

    @app.command()
    def serve(
        config: Annotated[
            Path,
            typer.Option(metavar="DIR", help="Directory of gateway.yaml, routes/ and policies/."),
        ] = Path(),
        listen: Annotated[
            str | None,
            typer.Option(
                metavar="HOST:PORT", help="Instead of the file's address; port 0 takes a free one."
            ),
        ] = None,
        store: StoreOption = None,
        watch: Annotated[
            bool, typer.Option(help="Serve changed files as soon as they are right.")
        ] = False,
        environment: EnvironmentOption = None,
        workers: Annotated[
            int | None,
            typer.Option(
                min=1, metavar="N", help="Processes on one port, instead of `server.workers`."
            ),
        ] = None,
    ) -> None:
        """Serve the store's last revision until ctrl-C or SIGTERM; at first, the files.

        Changed files are served by `switchboard apply`, or, with `--watch`, by themselves.
        """
        import uvloop

        from gateway.revisions.opening import Home
        from gateway.serving import run
        from gateway.workers.link import Link, place

        if listen is not None:
            address_of(listen)
        here = place(os.environ)
        who = "" if here is None else f" worker {here.number}"
        logging.basicConfig(
            format=f"%(levelname)s %(name)s{who}: %(message)s", level=logging.WARNING
        )
        logging.getLogger("switchboard").setLevel(logging.INFO)
        said = functools.partial(print, file=sys.stderr, flush=True)
        try:
            alone = here is None or here.number == 0
            job = run(
                Home(config, os.environ, environment, watch and alone),
                listen=listen,
                store_url=store,
                say=said if here is None else _nothing,
                workers=workers,
                command=(sys.executable, "-P", "-m", "gateway.cli", *sys.argv[1:]),
                link=None if here is None else Link(here),
            )
            uvloop.run(job)
        except (KeyboardInterrupt, asyncio.CancelledError):
            sys.exit(130)


def _nothing(line: str) -> None:
    """What a worker would say, its supervisor has said once for all."""
