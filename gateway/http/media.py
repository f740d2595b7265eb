"""Pictures, sounds, videos and files that a request names by URL: whose hosts must be asked.

Whoever serves the request fetches them. A server of our own stands inside the network, so what it
may fetch is declared (`media_from`); a client's URL must not lead it elsewhere.
"""

import re

import msgspec

UNREADABLE = "?"
"""Stands for the host of a URL that is not plainly one: no list of hosts has it."""

_INLINE = re.compile(rb'\s*(?:\{\s*"url"\s*:\s*)?"data:', re.IGNORECASE)
"""A `data:` URL, written the usual ways; it can be megabytes long, and is not decoded to see it."""

_PLAIN = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?(?:[/?#]\S*)?")
"""No name and password, backslash or blank, which one parser reads in one way and another not."""


class _Named(msgspec.Struct):
    url: str | None = None


_decode = msgspec.json.Decoder(_Named | str | None)


def host_of(value: msgspec.Raw) -> str | None:
    """The host that is asked for it, in lower case; None for what stands in the request itself."""
    written = memoryview(value)
    if _INLINE.match(bytes(written[:64])):
        whole = bytes(written)
        # A key that stands twice, or in other letters, is read by its last.
        if whole.count(b'"url"') < 2 and b"\\" not in whole:
            return None
    try:
        named = _decode.decode(value)
    except msgspec.DecodeError:
        return UNREADABLE
    url = named.url if isinstance(named, _Named) else named
    if url is None or url[:5].lower() == "data:":
        return None
    found = _PLAIN.fullmatch(url)
    return found[1].strip("[]").lower() if found is not None else UNREADABLE
