"""`switchboard serve`: runs a configuration."""

import asyncio
import functools
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.opening import EnvironmentOption, StoreOption, tell_problems
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
        environment: EnvironmentOption = None,
    ) -> None:
        """Serve the store's last revision until ctrl-C or SIGTERM; at first, the files.

        Changed files are served by `switchboard apply`, or, with `--watch`, by themselves.
        """
        import uvloop

        from gateway.app import run
        from gateway.revisions.opening import Home

        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
        logging.getLogger("switchboard").setLevel(logging.INFO)
        try:
            say = functools.partial(print, file=sys.stderr, flush=True)
            home = Home(config, os.environ, environment, watch)
            job = run(home, listen=listen, store_url=store, say=say)
            uvloop.run(job)
        except ConfigError as error:
            tell_problems(error.problems)
        except (KeyboardInterrupt, asyncio.CancelledError):
            sys.exit(130)
