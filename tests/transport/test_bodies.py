"""Whole answers within a bound: endless ones and bombs are given up, with memory flat."""

import gzip
import tracemalloc
import zlib
from collections.abc import Callable, Sequence

import pytest

from gateway.errors import MalformedAnswer, UpstreamClosed
from gateway.transport.base import Sink
from gateway.transport.bodies import decoded, read_all


class Endless:
    """A reply that never ends, and says whether it was given up."""

    status = 200
    headers: Sequence[tuple[bytes, bytes]] = ()

    def __init__(self) -> None:
        self.aborted = False

    async def read(self) -> bytes:
        return bytes(1000)

    async def pump(self, sink: Sink) -> None:
        raise NotImplementedError

    def abort(self) -> None:
        self.aborted = True


async def test_an_answer_without_end_is_given_up() -> None:
    reply = Endless()
    with pytest.raises(MalformedAnswer, match="larger than 50,000 bytes"):
        await read_all(reply, 50_000)
    assert reply.aborted


@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_what_a_backend_packed_unasked_is_understood(pack: Callable[[bytes], bytes]) -> None:
    encoding = b"gzip" if pack is gzip.compress else b"Deflate "
    assert decoded(pack(b'{"id": 1}'), encoding, 9) == b'{"id": 1}'


@pytest.mark.parametrize("layers", [1, 2])
def test_a_bomb_is_given_up_before_it_goes_off(layers: int) -> None:
    bomb = bytes(100_000_000)
    for _ in range(layers):
        bomb = gzip.compress(bomb)
    tracemalloc.start()
    try:
        if layers == 1:
            with pytest.raises(MalformedAnswer, match="unpacks to more than"):
                decoded(bomb, b"gzip", 1_000_000)
        else:  # one layer is taken off, and no more
            assert len(decoded(bomb, b"gzip", 1_000_000)) < 200_000
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4_000_000


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"plain", b"gzip"),
        (gzip.compress(b"whole")[:-9], b"gzip"),
        (b"", b"gzip"),
        (b"x", b"br"),
        (b"x", b"gzip, gzip"),
        (b"x", b"\xff" * 1000),
    ],
)
def test_what_cannot_be_unpacked_is_a_broken_answer(body: bytes, encoding: bytes) -> None:
    with pytest.raises(UpstreamClosed):
        decoded(body, encoding)
