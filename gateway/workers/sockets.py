"""Where workers listen: a socket each, all on one port.

With SO_REUSEPORT the kernel spreads connections over the sockets evenly; one shared socket would
give a burst of them to whichever worker wakes first. The supervisor keeps each socket open as well,
so that connections to a worker that has died wait in its queue for the next one. It does not listen
itself: before the first worker serves, connections are refused.
"""

import socket
import sys
from typing import Any

BALANCED = sys.platform == "linux"
"""Elsewhere SO_REUSEPORT spreads nothing: all workers share one socket."""


def bound(host: str, port: int, count: int) -> list[socket.socket]:
    """One socket for each worker, at the same port; port 0 takes a free one. Raises OSError."""
    family, kind, proto, _, found = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # Alone first: beside SO_REUSEPORT a second gateway on the same port would go unnoticed.
    with socket.socket(family, kind, proto) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(found)
        address = probe.getsockname()
    first = _bound(family, address)
    return [first, *(_bound(family, address) if BALANCED else first for _ in range(count - 1))]


def again(old: socket.socket) -> socket.socket:
    """A new socket in place of one whose worker does not come back; what waited there is reset."""
    if not BALANCED:
        return old
    address, family = old.getsockname(), old.family
    old.close()
    return _bound(family, address)


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if BALANCED:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind(address)
        made.set_inheritable(True)
    except OSError:
        made.close()
        raise
    return made
