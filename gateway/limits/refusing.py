"""How a limit is told to a client: OpenAI's headers and errors. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from math import ceil

from gateway.errors import LimitReached
from gateway.limits.accounts import PLENTY, SLICES, Account, Refusal, Window

Pair = tuple[bytes, bytes]
Headers = list[Pair]

_PERIODS = {1.0: "second", 60.0: "minute", 3600.0: "hour", 86_400.0: "day"}
_AT_ONCE = {"requests": "requests", "tokens": "tokens"}


def room_headers(accounts: Sequence[Account], now: float, told: Sequence[int] | None) -> Headers:
    """OpenAI's `x-ratelimit-` headers, each of the account that has least left.

    `told` are Redis' totals where it was asked: five numbers for each account, requests and tokens
    first.
    """
    requests = tokens = None
    requests_left = tokens_left = PLENTY
    for n, account in enumerate(accounts):
        left, window = account.requests_left, account.requests
        if told is not None and window is not None:
            left = window.limit - told[5 * n]
        if left < requests_left:
            requests, requests_left = window, left
        left, window = account.tokens_left, account.tokens
        if told is not None and window is not None:
            left = window.limit - told[5 * n + 1]
        if left < tokens_left:
            tokens, tokens_left = window, left
    headers: Headers = []
    if requests is not None:
        headers += _told(requests, requests_left, now, _REQUESTS)
    if tokens is not None:
        headers += _told(tokens, tokens_left, now, _TOKENS)
    return headers


_REQUESTS = tuple(b"x-ratelimit-%b-requests" % what for what in (b"limit", b"remaining", b"reset"))
_TOKENS = tuple(b"x-ratelimit-%b-tokens" % what for what in (b"limit", b"remaining", b"reset"))


def _told(window: Window, left: int, now: float, names: Sequence[bytes]) -> tuple[Pair, ...]:
    """The limit, what remains, and when it is free again if nothing else comes; what stays the
    same for a second is written once in it."""
    if now >= window.reset_until:
        _write(window, now, names)
    reset = window.reset_pair if left < window.limit else (names[2], b"0s")
    return window.limit_pair, (names[1], b"%d" % (left if left > 0 else 0)), reset


def _write(window: Window, now: float, names: Sequence[bytes]) -> None:
    free_at = (window.at + SLICES + 1) * window.step
    seconds = ceil(free_at - now)
    window.limit_pair = (names[0], b"%d" % window.limit)
    window.reset_pair = (names[2], span(seconds))
    window.reset_until = free_at - seconds + 1


@lru_cache(256)
def span(seconds: int) -> bytes:
    """A time as OpenAI writes it: `12s`, `1m2s`."""
    return b"%ds" % seconds if seconds < 60 else b"%dm%ds" % divmod(seconds, 60)


def refused(
    refusal: Refusal, account: Account, headers: Headers, wall: float, workers: int = 1
) -> LimitReached:
    """The 429 that names the limit, whose it is, and when it is free again.

    With more `workers` than one each decides within its share, as nobody watches the whole.
    """
    what = refusal.what
    money = what in ("day", "month")
    if refusal.wait_s is None or (money and refusal.wait_s > 60):
        # The SDKs would try again at once, twice, and be refused twice.
        headers = [*headers, (b"x-should-retry", b"false")]
    share = f" Of what is left this worker may use 1/{workers} for now." if workers > 1 else ""
    return LimitReached(
        f"{_said(refusal, account)}{share} {_when(refusal, wall)}",
        type="insufficient_quota" if money else _AT_ONCE.get(what, "rate_limit_error"),
        code="insufficient_quota" if money else "rate_limit_exceeded",
        retry_after=refusal.wait_s,
        headers=headers,
    )


def _said(refusal: Refusal, account: Account) -> str:
    limit, used, asked = refusal.limit, refusal.used, refusal.asked
    match refusal.what:
        case "requests":
            return (
                f"Rate limit reached for {refusal.account}: {limit:.0f} requests"
                f" per {_period(account.requests)}, {used:.0f} made."
            )
        case "tokens":
            return (
                f"Rate limit reached for {refusal.account}: {limit:.0f} tokens"
                f" per {_period(account.tokens)}, {used:.0f} used or reserved, and this request"
                f" may take {asked:.0f}."
            )
        case "concurrent":
            return (
                f"Limit reached for {refusal.account}: {limit:.0f} requests at once,"
                f" {used:.0f} under way."
            )
        case _:
            return (
                f"Budget reached for {refusal.account}: ${limit:.6g} a {refusal.what},"
                f" ${used:.6g} spent or reserved, and this request may cost ${asked:.6g}."
            )


def _when(refusal: Refusal, wall: float) -> str:
    if refusal.wait_s is None:
        return "It is more than the whole limit: send less, or set a smaller `max_tokens`."
    if refusal.what == "concurrent":
        return "Try again when one of them has ended."
    if refusal.what in ("day", "month") and refusal.wait_s > 60:
        free = datetime.fromtimestamp(wall + refusal.wait_s, UTC)
        return f"The next {refusal.what}'s budget begins at {free:%Y-%m-%d %H:%M} UTC."
    return f"Try again in {max(1, ceil(refusal.wait_s))} s."


def _period(window: Window | None) -> str:
    seconds = window.per_s if window is not None else 60.0
    return _PERIODS.get(seconds, f"{seconds:g} s")
