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
            Path, typer.Option(help="Directory of gateway.yaml, routes/ and policies/.")
        ] = Path(),
        listen: Annotated[
            str | None, typer.Option(help="HOST:PORT instead of the file's; port 0 takes any.")
        ] = None,
        store: Annotated[
            str | None, typer.Option(help="Store's URL instead of the file's.")
        ] = None,
        watch: Annotated[bool, typer.Option(help="Follow the files while serving.")] = False,
    ) -> None:
        """Serve the configuration in a directory."""
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
