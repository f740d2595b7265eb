"""The coordination as a configuration asks for it: none where no coordinator is declared."""

import os
import secrets
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from gateway.errors import ConfigError, Problem
from gateway.types.snapshot import Server

if TYPE_CHECKING:
    from gateway.coordination.coordinator import Coordinator
    from gateway.coordination.together import Together


def open_coordinator(server: Server) -> "Coordinator | None":
    """Raises ConfigError where Redis is declared and its package is missing."""
    if server.coordinator is None:
        return None
    try:
        from gateway.coordination.coordinator import Coordinator  # one worker needs no Redis
    except ImportError as error:
        problem = Problem(
            "gateway.yaml",
            0,
            "coordinator",
            f"needs a package that is missing: {error}",
            "pip install 'switchboard[redis]'",
        )
        raise ConfigError([problem]) from error
    return Coordinator(server.coordinator, name=server.coordinator_name)


def open_together(
    coordinator: "Coordinator | None", *, first: bool, noticed: Callable[[], None]
) -> "Together | None":
    """This worker's part, as of `gateway.coordination.together`, under a name of its own."""
    if coordinator is None:
        return None
    from gateway.coordination.together import Together  # one worker needs no Redis

    me = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    return Together(coordinator, me, first=first, noticed=noticed)
