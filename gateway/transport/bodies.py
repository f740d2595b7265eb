"""Whole bodies of answers, read within a bound and decoded within one.

A backend is not trusted with our memory: an answer that never ends, or one that unpacks to a
thousand times its size, is a malformed one.
"""

import zlib

from gateway.errors import MalformedAnswer, UpstreamClosed
from gateway.transport.base import Reply

PIECE = 1024 * 1024
"""Bytes that are unpacked at once."""

MAX_BODY = 128 * 1024 * 1024
"""Bytes of one plain answer, and of what it unpacks to: 2,048 embeddings of 3,072 numbers each,
as text, are half of it."""


async def read_all(reply: Reply, limit: int = MAX_BODY) -> bytes:
    """A plain answer's whole body. Raises MalformedAnswer, and gives up, beyond `limit` bytes."""
    piece = await reply.read()
    if not piece:
        return b""
    pieces = [piece]
    size = len(piece)
    while piece := await reply.read():
        size += len(piece)
        if size > limit:
            reply.abort()
            raise MalformedAnswer(f"the answer is larger than {limit:,} bytes")
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def decoded(body: bytes, encoding: bytes, limit: int = MAX_BODY) -> bytes:
    """A backend that compresses unasked is still understood; the header is never passed on.

    Raises UpstreamClosed for what is not the encoding that it says, or one that we do not know, and
    MalformedAnswer for what would be more than `limit` bytes.
    """
    encoding = encoding.strip().lower()
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"x-gzip", b"deflate"):
        named = encoding[:40].decode("latin-1")
        raise UpstreamClosed(f"the body is in an encoding not asked for: {named}")
    unpacking = zlib.decompressobj(wbits=47)
    pieces, room = [], limit
    try:
        # In pieces: what is too much is seen before all of it is there.
        while not unpacking.eof:
            piece = unpacking.decompress(body, PIECE)
            body, room = unpacking.unconsumed_tail, room - len(piece)
            if not piece and not body:
                break
            pieces.append(piece)
            if room < 0:
                pieces.clear()
                raise MalformedAnswer(f"the answer unpacks to more than {limit:,} bytes")
    except zlib.error as error:
        raise UpstreamClosed(f"the body is not the {encoding.decode()} that it says") from error
    if not unpacking.eof:
        raise UpstreamClosed(f"the {encoding.decode()} of the body breaks off")
    return b"".join(pieces)
