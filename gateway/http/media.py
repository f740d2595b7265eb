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


class _File(msgspec.Struct):
    file_id: str | None = None
    file_data: str | None = None


_decode = msgspec.json.Decoder(_Named | str | None)
_decode_text = msgspec.json.Decoder(str | None)
_decode_file = msgspec.json.Decoder(_File | None)


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
    return _host(named.url if isinstance(named, _Named) else named)


def host_of_text(value: msgspec.Raw) -> str | None:
    """The same of a file's id or data, in the place of which some take a URL."""
    try:
        text = _decode_text.decode(value)
    except msgspec.DecodeError:
        return UNREADABLE
    return _host_of_either(text)


def hosts_of_file(value: msgspec.Raw) -> set[str | None]:
    """The same of a file with its id, or its data."""
    try:
        file = _decode_file.decode(value) or _File()
    except msgspec.DecodeError:
        return {UNREADABLE}
    return {_host_of_either(file.file_id), _host_of_either(file.file_data)}


def _host_of_either(text: str | None) -> str | None:
    # Neither an id nor base64 has a colon, and no URL is without.
    return _host(text) if text is not None and ":" in text else None


def _host(url: str | None) -> str | None:
    if url is None or url[:5].lower() == "data:":
        return None
    found = _PLAIN.fullmatch(url)
    return found[1].strip("[]").lower() if found is not None else UNREADABLE
