"""`switchboard agent`: puts the gateway's adapters onto a vLLM server's own machine."""

import asyncio
import functools
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from gateway.cli.opening import address_of, fail, url_of


def register(app: typer.Typer) -> None:
    """Adds `agent`."""

    @app.command()
    def agent(
        directory: Annotated[
            Path,
            typer.Option(
                "--dir", metavar="DIR", help="Where adapters are put; vLLM sees the same path."
            ),
        ],
        gateway: Annotated[
            str, typer.Option(metavar="URL", help="The gateway that adapters are fetched from.")
        ],
        listen: Annotated[
            str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
        ] = "127.0.0.1:8081",
        tls_cert: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Serve HTTPS with this certificate chain (PEM)."),
        ] = None,
        tls_key: Annotated[
            Path | None, typer.Option(metavar="FILE", help="The certificate's private key (PEM).")
        ] = None,
    ) -> None:
        """Keep adapters beside vLLM where no directory is shared, until ctrl-C or SIGTERM.

        The key that the gateway and its agents share is read from SWITCHBOARD_AGENT_KEY.
        """
        import uvloop

        from gateway.adapters.agent import KEY

        host, port = address_of(listen, "127.0.0.1:8081")
        key = os.environ.get(KEY)
        if not key:
            fail(f"{KEY} is not set; make a key with: openssl rand -hex 32")
        if (tls_cert is None) != (tls_key is None):
            raise typer.BadParameter("--tls-cert and --tls-key go together")
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.WARNING)
        logging.getLogger("switchboard").setLevel(logging.INFO)
        try:
            say = functools.partial(print, file=sys.stderr, flush=True)
            root = Path(os.path.abspath(directory))
            job = _serve(root, url_of(gateway), key, _Listen(host, port, tls_cert, tls_key), say)
            uvloop.run(job)
        except (ValueError, OSError) as error:
            fail(str(error))
        except (KeyboardInterrupt, asyncio.CancelledError):
            sys.exit(130)


class _Listen(NamedTuple):
    host: str
    port: int
    tls_cert: Path | None
    tls_key: Path | None

    def url(self, port: int) -> str:
        """Where it is, when `port` is the one that was given."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert is not None else 'http'}://{name}:{port}"


async def _serve(
    root: Path, gateway: str, key: str, listen: _Listen, say: Callable[[str], None]
) -> None:
    """Runs the agent until SIGINT or SIGTERM. Raises ValueError for a key that can be guessed."""
    import ssl
    import time

    import httpx
    import uvicorn

    from gateway.adapters.agent import Agent
    from gateway.adapters.shelf import Shelf

    shelf = Shelf(root)
    await asyncio.to_thread(lambda: shelf.clean(shelf.digests(), 0, time.time()))
    async with httpx.AsyncClient(verify=ssl.create_default_context(), trust_env=False) as http:
        agent = Agent(shelf, gateway, key, http)
        config = uvicorn.Config(
            agent.app(),
            host=listen.host,
            port=listen.port,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            ssl_certfile=listen.tls_cert,
            ssl_keyfile=str(listen.tls_key) if listen.tls_key is not None else None,
            timeout_graceful_shutdown=30,
        )
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        # uvicorn raises the signal again when its handlers are put back.
        with server.capture_signals():
            try:
                await server.startup()
                actual = server.servers[0].sockets[0].getsockname()[1]
                say(f"The agent for {gateway} serves {listen.url(actual)}, and fills {root}")
                await server.main_loop()
                await server.shutdown()
            finally:
                await agent.stop()
