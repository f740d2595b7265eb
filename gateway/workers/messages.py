"""What a worker and its supervisor say to each other, over a pair of sockets that both inherit.

A frame is its length in 4 bytes, little-endian, and a message in MessagePack.
"""

import asyncio
import struct

import msgspec

_LENGTH = struct.Struct("<I")


class Serves(msgspec.Struct, frozen=True, tag=True):
    """A worker takes requests, or has gone over to another snapshot."""

    snapshot: str


class Numbers(msgspec.Struct, frozen=True, tag=True):
    """A worker's own metrics, as it was asked for them."""

    asked: int
    page: str


class WantPage(msgspec.Struct, frozen=True, tag=True):
    """Somebody asked a worker for the metrics of all."""

    asked: int


class WantNumbers(msgspec.Struct, frozen=True, tag=True):
    """The supervisor asks a worker for its own metrics."""

    asked: int


class Page(msgspec.Struct, frozen=True, tag=True):
    """The metrics of all workers, for the worker that wanted them."""

    asked: int
    page: str


class Sibling(msgspec.Struct, frozen=True):
    """One worker as its supervisor sees it."""

    number: int
    pid: int | None
    serves: bool
    snapshot: str
    restarts: int


class Siblings(msgspec.Struct, frozen=True, tag=True):
    """All workers, whenever one of them has changed."""

    workers: tuple[Sibling, ...]


FromWorker = Serves | Numbers | WantPage
ToWorker = WantNumbers | Page | Siblings

_encode = msgspec.msgpack.Encoder().encode
from_worker = msgspec.msgpack.Decoder(FromWorker).decode
to_worker = msgspec.msgpack.Decoder(ToWorker).decode


def send(writer: asyncio.StreamWriter, message: FromWorker | ToWorker) -> None:
    """Queues a frame; what is queued for a side that has gone is dropped."""
    if writer.is_closing():
        return
    data = _encode(message)
    writer.write(_LENGTH.pack(len(data)) + data)


async def received(reader: asyncio.StreamReader) -> bytes | None:
    """The next message; None when the other side has gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
