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
        store: Annotated[
            str | None, typer.Option(metavar="URL", help="The store's URL instead of the file's.")
        ] = None,
        watch: Annotated[
            bool, typer.Option(help="Serve changed files as soon as they are right.")
        ] = False,
    ) -> None:
        """Serve the configuration in a directory until ctrl-C or SIGTERM."""
        import uvloop

        from gateway.app import run

        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
        logging.getLogger("switchboard").setLevel(logging.INFO)
        console = Console(stderr=True)
        try:
            say = functools.partial(print, file=sys.stderr, flush=True)
            job = run(config, os.environ, listen=listen, store_url=store, watch=watch, say=say)
            uvloop.run(job)
        except ConfigError as error:
            for problem in error.problems:
                console.print(f"[red]{problem}[/red]", highlight=False, soft_wrap=True)
            raise typer.Exit(1) from None
        except (KeyboardInterrupt, asyncio.CancelledError):
            sys.exit(130)
