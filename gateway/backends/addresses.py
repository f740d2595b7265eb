"""Replicas behind a name: `dns://vllm.ml.svc:8000` is each address that the name has now."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from gateway.types.snapshot import Snapshot

log = logging.getLogger("switchboard.names")

DNS = "dns://"

Addresses = Mapping[str, tuple[str, ...]]
"""The base URLs behind each `dns://` URL."""


Resolve = Callable[[str, int], Awaitable[set[str]]]
"""The addresses of a host. Raises OSError."""


class Names:
    """What names led to when they were asked for last."""

    def __init__(self, resolve: Resolve | None = None) -> None:
        self.known: Addresses = {}
        self._resolve = resolve or _resolved

    async def look(self, snapshot: Snapshot) -> Addresses:
        """Asks for every name of the snapshot. One that leads nowhere keeps the addresses it had:
        a resolver that is away says nothing about the replicas."""
        names = {
            url
            for backend in snapshot.backends.values()
            for url in backend.replicas
            if url.startswith(DNS)
        }
        found = await asyncio.gather(*(self._addresses(name) for name in sorted(names)))
        self.known = dict(zip(sorted(names), found, strict=True))
        return self.known

    async def _addresses(self, name: str) -> tuple[str, ...]:
        host, _, port = name.removeprefix(DNS).rpartition(":")
        try:
            hosts = await self._resolve(host, int(port))
        except OSError as error:
            log.warning("%s leads nowhere now: %s", name, error)
            return self.known.get(name, ())
        return tuple(sorted(f"http://{_bracketed(each)}:{port}" for each in hosts))


async def _resolved(host: str, port: int) -> set[str]:
    loop = asyncio.get_running_loop()
    infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return {str(info[4][0]) for info in infos}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def with_addresses(snapshot: Snapshot, known: Addresses) -> Snapshot:
    """The snapshot with addresses in the place of names."""
    if not known:
        return snapshot
    backends = {
        name: msgspec.structs.replace(backend, replicas=_put_in(backend.replicas, known))
        for name, backend in snapshot.backends.items()
    }
    targets = {
        name: msgspec.structs.replace(target, replicas=_put_in(target.replicas, known))
        for name, target in snapshot.targets.items()
    }
    return msgspec.structs.replace(snapshot, backends=backends, targets=targets)


def _put_in(replicas: tuple[str, ...], known: Addresses) -> tuple[str, ...]:
    return tuple(dict.fromkeys(each for url in replicas for each in known.get(url, (url,))))
