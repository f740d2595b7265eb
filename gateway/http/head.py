"""What a request's head may be: judged before anything is waited for or held on its account.

The parser refuses most of what is no HTTP/1.1: two lengths, a length beside chunks, folded lines,
bare line feeds. What it lets pass that another server on the way may read differently is refused
here, so that no two of them can disagree where a request ends.
"""

from collections.abc import Sequence

from gateway.errors import ApiError, BadRequest, TooLarge
from gateway.transport.base import size_of
from gateway.types.snapshot import Server

_VERSIONS = frozenset({"1.1", "1.0"})
_LOOKED_AT = frozenset({b"content-length", b"host", b"transfer-encoding", b"content-encoding"})


def judge(
    url: bytes, headers: Sequence[tuple[bytes, bytes]], version: str, limits: Server
) -> ApiError | None:
    """What is wrong with a head that has been read, if anything."""
    if version not in _VERSIONS:
        return BadRequest("Only HTTP/1.1 and HTTP/1.0 are spoken here.", code="invalid_http")
    if b"%00" in url:
        return BadRequest("A NUL (%00) is part of no address here.", code="invalid_url")
    hosts = 0
    for name, value in headers:
        if name in _LOOKED_AT:
            if name == b"host":
                hosts += 1
            elif name == b"content-length":
                if int(value) > limits.max_body:
                    return body_too_large(limits)
            elif name == b"transfer-encoding":
                if version != "1.1" or value.lower() != b"chunked":
                    return BadRequest(
                        "The only transfer-encoding is 'chunked', in HTTP/1.1.",
                        code="invalid_transfer_encoding",
                    )
            elif value.lower() != b"identity":
                return _compressed(value)
    if len(url) + size_of(headers) > limits.max_head:
        return head_too_large(limits)
    if hosts > 1 or (not hosts and version == "1.1"):
        return BadRequest(
            "There is more than one Host header." if hosts else "The Host header is missing.",
            code="invalid_host" if hosts else "missing_host",
        )
    return None


def head_too_large(limits: Server) -> ApiError:
    """431: head, trailers or what stands between chunks."""
    return ApiError(
        f"The request's head is larger than {limits.max_head} bytes.",
        status=431,
        type="invalid_request_error",
        code="head_too_large",
    )


def body_too_large(limits: Server) -> ApiError:
    """413, from the declared length or from what has come."""
    return TooLarge(
        f"The request's body is larger than {limits.max_body} bytes.", code="body_too_large"
    )


def _compressed(encoding: bytes) -> ApiError:
    """415. A few kilobytes can unpack to gigabytes, and no client of OpenAI's API compresses."""
    return ApiError(
        f"A body in the content-encoding '{encoding[:40].decode('latin-1')}' is not taken; "
        "send it as it is.",
        status=415,
        type="invalid_request_error",
        code="unsupported_content_encoding",
        headers=((b"accept-encoding", b"identity"),),
    )
