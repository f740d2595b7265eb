"""`switchboard serve`: runs a configuration."""

import asyncio
import functools
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from gateway.cli.opening import StoreOption, print_problems
from gateway.errors import ConfigError


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
    ) -> None:
        """Serve the configuration in a directory until ctrl-C or SIGTERM."""
        import uvloop

        from gateway.app import run

        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
        logging.getLogger("switchboard").setLevel(logging.INFO)
        try:
            say = functools.partial(print, file=sys.stderr, flush=True)
            job = run(config, os.environ, listen=listen, store_url=store, watch=watch, say=say)
            uvloop.run(job)
        except ConfigError as error:
            print_problems(Console(stderr=True, soft_wrap=True, highlight=False), error.problems)
            raise typer.Exit(1) from None
        except (KeyboardInterrupt, asyncio.CancelledError):
            sys.exit(130)
