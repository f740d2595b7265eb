"""How a limit is told to a client: OpenAI's headers and errors. Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from math import ceil
from operator import itemgetter

from gateway.errors import LimitReached
from gateway.limits.accounts import SLICES, Account, Refusal, Window

Lines = list[bytes]

_PERIODS = {1.0: "second", 60.0: "minute", 3600.0: "hour", 86_400.0: "day"}
_AT_ONCE = {"requests": "requests", "tokens": "tokens"}


def fewest(accounts: Sequence[Account]) -> tuple[Account, Account]:
    """The account that has the fewest requests left, and the one that has the fewest tokens."""
    requests = tokens = accounts[0]
    for account in accounts:
        if account.requests_left < requests.requests_left:
            requests = account
        if account.tokens_left < tokens.tokens_left:
            tokens = account
    return requests, tokens


def room_lines(requests: Account, tokens: Account, now: float) -> Lines:
    """OpenAI's `x-ratelimit-` headers, of the accounts that have least left of each."""
    lines: Lines = []
    if requests.requests is not None:
        lines += _of(requests.requests, b"requests", requests.requests_left, now)
    if tokens.tokens is not None:
        lines += _of(tokens.tokens, b"tokens", tokens.tokens_left, now)
    return lines


def room_lines_of_all(accounts: Sequence[Account], now: float, told: Sequence[int]) -> Lines:
    """The same by the totals of all workers, as Redis has `told` them: five numbers for each
    account, requests and tokens first."""
    requests = [
        (account.requests.limit - told[5 * n], account.requests)
        for n, account in enumerate(accounts)
        if account.requests is not None
    ]
    tokens = [
        (account.tokens.limit - told[5 * n + 1], account.tokens)
        for n, account in enumerate(accounts)
        if account.tokens is not None
    ]
    lines: Lines = []
    if requests:
        left, window = min(requests, key=itemgetter(0))
        lines += _of(window, b"requests", left, now)
    if tokens:
        left, window = min(tokens, key=itemgetter(0))
        lines += _of(window, b"tokens", left, now)
    return lines


def _of(window: Window, what: bytes, left: int, now: float) -> tuple[bytes, bytes, bytes]:
    if now >= window.written_until:
        _write(window, now, what)
    return (
        window.limit_line,
        window.left_line % (left if left > 0 else 0),
        window.reset_line if left < window.limit else b"x-ratelimit-reset-%b: 0s" % what,
    )


def _write(window: Window, now: float, what: bytes) -> None:
    """What stays the same for a second: the limit, and when it is free again if nothing else
    comes."""
    free_at = (window.at + SLICES + 1) * window.step
    seconds = ceil(free_at - now)
    window.limit_line = b"x-ratelimit-limit-%b: %d" % (what, window.limit)
    window.left_line = b"x-ratelimit-remaining-%b: %%d" % what
    window.reset_line = b"x-ratelimit-reset-%b: %b" % (what, span(seconds))
    window.written_until = free_at - seconds + 1


@lru_cache(256)
def span(seconds: int) -> bytes:
    """A time as OpenAI writes it: `12s`, `1m2s`."""
    return b"%ds" % seconds if seconds < 60 else b"%dm%ds" % divmod(seconds, 60)


def refused(
    refusal: Refusal, account: Account, lines: Lines, wall: float, workers: int = 1
) -> LimitReached:
    """The 429 that names the limit, whose it is, and when it is free again.

    With more `workers` than one each decides within its share, as nobody watches the whole.
    """
    what = refusal.what
    headers = [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]
    money = what in ("day", "month")
    if refusal.wait_s is None or (money and refusal.wait_s > 60):
        # The SDKs would try again at once, twice, and be refused twice.
        headers.append((b"x-should-retry", b"false"))
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
