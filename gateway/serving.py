"""Serving a gateway on sockets: alone, as one of several workers, or as what starts those."""

import contextlib
import gc
import ipaddress
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import uvicorn

from gateway.app import Gateway
from gateway.errors import ConfigError, SwitchboardError
from gateway.http.protocol import limited
from gateway.revisions.opening import Home, Opening, open_home
from gateway.store.keys import Keyring
from gateway.store.store import Store
from gateway.types.snapshot import Server, Snapshot
from gateway.workers.link import Link
from gateway.workers.needs import lacking
from gateway.workers.supervisor import Supervisor, url_of

PATIENCE_S = 10.0
"""How long PostgreSQL may take to answer one statement."""

YOUNG = 20_000
"""Objects more than were freed at which Python looks through the young ones for cycles."""


@contextlib.asynccontextmanager
async def listening(gateway: Gateway, host: str, port: int, limits: Server) -> AsyncIterator[int]:
    """The started gateway on a socket; the port that it listens on."""
    server = uvicorn.Server(_uvicorn(gateway, host, port, limits))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    await server.startup()
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        await server.shutdown()


async def run(
    home: Home,
    *,
    listen: str | None,
    store_url: str | None,
    say: Callable[[str], None],
    workers: int | None = None,
    command: Sequence[str] = (),
    link: Link | None = None,
) -> None:
    """Serves a configuration until SIGINT or SIGTERM.

    With more than one of `workers` (in the place of what is declared) each is begun by `command`,
    and has a `link`. Raises ConfigError, StoreError, WorkersFailed, and SwitchboardError where the
    address cannot be listened on.
    """

    def wanted(snapshot: Snapshot) -> int:
        if link is not None:
            return 1  # this process is one of them
        return snapshot.server.workers if workers is None else workers

    def suits(snapshot: Snapshot, store: str) -> None:
        if problems := list(lacking(snapshot, store, wanted(snapshot))):
            raise ConfigError(problems)

    store, opening = open_home(home, store_url, patience_s=PATIENCE_S, suits=suits)
    for line in opening.said:
        say(line)
    limits = opening.snapshot.server
    count = wanted(opening.snapshot)
    if count > 1:
        with contextlib.closing(store):
            suits(opening.snapshot, store.name)
            supervisor = _supervisor(opening, store, count, listen, command, home.env, say)
        await supervisor.run()
        return
    gateway = Gateway(
        opening.snapshot,
        store,
        cache=home.cache,
        litellm_python=litellm_python(home.directory, home.env),
        agent_key=home.env.get("SWITCHBOARD_AGENT_KEY") or None,
        home=home,
        opening=opening,
        link=link,
        workers=1 if link is None else link.count,
    )
    await gateway.start()
    if link is None:
        host, port = _address(listen, limits)
        host, sockets = safe_host(host, gateway.keyring.empty, say), None
    else:
        sockets = [link.listen]
        host, port = link.listen.getsockname()[:2]
    server = uvicorn.Server(_uvicorn(gateway, host, port, limits))
    server.config.load()
    server.lifespan = server.config.lifespan_class(server.config)
    # uvicorn raises the signal again when its handlers are put back: every row is written by then.
    with server.capture_signals():
        try:
            try:
                await server.startup(sockets=sockets)
            except SystemExit:  # uvicorn's way to say so; it has logged why
                raise SwitchboardError(
                    f"{url_of(host, port)} cannot be listened on: stop what does, or name another"
                    " address with --listen"
                ) from None
            if link is None:
                actual = server.servers[0].sockets[0].getsockname()[1]
                say(f"Switchboard serves {url_of(host, actual)} ({_named(opening.snapshot)})")
            else:
                link.serves(opening.snapshot.hash)
            _collect_less()
            await server.main_loop()
            await server.shutdown()
        finally:
            await gateway.stop()


def _collect_less() -> None:
    """Spares requests the search for cycles: they leave none behind, and what was made to start
    with, which stays, is looked through no more."""
    gc.collect()
    gc.freeze()
    _, older, oldest = gc.get_threshold()
    gc.set_threshold(YOUNG, older, oldest)


def _supervisor(
    opening: Opening,
    store: Store,
    count: int,
    listen: str | None,
    command: Sequence[str],
    env: Mapping[str, str],
    say: Callable[[str], None],
) -> Supervisor:
    """The workers, not begun yet."""
    keyring = Keyring(store)
    if opening.known is not None:
        keyring.know(opening.known.keys)
    else:
        keyring.refresh()
    host, port = _address(listen, opening.snapshot.server)
    host = safe_host(host, keyring.empty, say)
    return Supervisor(command, count, host, port, env=env, say=say)


def _named(snapshot: Snapshot) -> str:
    return f"snapshot {snapshot.hash[:12]}"


def _uvicorn(gateway: Gateway, host: str, port: int, limits: Server) -> uvicorn.Config:
    return uvicorn.Config(
        gateway.asgi,
        host=host,
        port=port,
        http=limited(limits, gateway.pressure),
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=30,
        backlog=4096,
    )


def litellm_python(directory: Path, env: Mapping[str, str]) -> str:
    """The Python that has litellm: as told, or of an environment beside the configuration."""
    beside = directory / ".litellm" / "bin" / "python"
    told = env.get("SWITCHBOARD_LITELLM_PYTHON")
    return told or (str(beside) if beside.exists() else sys.executable)


def _address(listen: str | None, limits: Server) -> tuple[str, int]:
    if listen is None:
        return limits.host, limits.port
    host, _, port = listen.rpartition(":")
    return host.strip("[]") or "127.0.0.1", int(port)


def safe_host(host: str, open_to_all: bool, say: Callable[[str], None]) -> str:
    """Without a key in the store only this machine may ask."""
    if not open_to_all:
        return host
    if host == "localhost" or (_is_ip(host) and ipaddress.ip_address(host).is_loopback):
        say("warning: there is no key yet, so every request from this machine is answered")
        return host
    say(
        f"warning: there is no key yet, so 127.0.0.1 is served instead of {host}; "
        "make one with: switchboard keys create --name NAME"
    )
    return "127.0.0.1"


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
