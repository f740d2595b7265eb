"""What a client is told of its limits."""

from gateway.limits.accounts import Account, enter
from gateway.limits.refusing import fewest, room_lines, room_lines_of_all
from gateway.types.limits import Quota, Rate

MINUTE = 60.0
NOW = 1000.0


def accounts(*quotas: Quota) -> list[Account]:
    return [Account(f"key:{n}", f"key '{n}'", quota) for n, quota in enumerate(quotas)]


def entered(these: list[Account], tokens: int) -> dict[str, str]:
    """The headers of a request that was let in just now."""
    assert enter(these, tokens, 0, NOW, lambda: 0.0) is None
    return told(room_lines(*fewest(these), NOW))


def told(lines: list[bytes]) -> dict[str, str]:
    headers = dict(line.decode().split(": ") for line in lines)
    return {name.removeprefix("x-ratelimit-"): value for name, value in headers.items()}


def test_each_header_is_of_the_account_that_has_least_left() -> None:
    few, small = Quota(Rate(5, 1.0), Rate(900, 3600.0)), Quota(Rate(70, MINUTE), Rate(80, MINUTE))
    for these in (accounts(few, small), accounts(small, few)):
        assert entered(these, 30) == {
            "limit-requests": "5",
            "remaining-requests": "4",
            "reset-requests": "2s",
            "limit-tokens": "80",
            "remaining-tokens": "50",
            "reset-tokens": "1m2s",
        }


def test_with_all_workers_together_it_is_by_what_all_have_taken() -> None:
    few, many = Quota(Rate(50, MINUTE), Rate(100, MINUTE)), Quota(Rate(90, MINUTE))
    these = accounts(few, many)
    entered(these, 10)
    headers = told(room_lines_of_all(these, NOW, [20, 70, 0, 0, 0, 80, 0, 0, 0, 0]))
    assert (headers["limit-requests"], headers["remaining-requests"]) == ("90", "10")
    assert (headers["limit-tokens"], headers["remaining-tokens"]) == ("100", "30")
    headers = told(room_lines_of_all(these, NOW, [60, 170, 0, 0, 0, 80, 0, 0, 0, 0]))
    assert (headers["remaining-requests"], headers["remaining-tokens"]) == ("0", "0")


def test_what_nobody_has_taken_of_is_free_at_once() -> None:
    headers = entered(accounts(Quota(Rate(5, MINUTE), Rate(100, MINUTE))), 0)
    assert headers["reset-requests"] == "1m2s"
    assert headers["reset-tokens"] == "0s"


def test_when_it_is_free_again_comes_nearer_each_second() -> None:
    these = accounts(Quota(Rate(5, MINUTE)))
    entered(these, 0)
    resets = [
        told(room_lines(*fewest(these), NOW + s))["reset-requests"] for s in (0.0, 0.5, 1.5, 40.0)
    ]
    assert resets == ["1m2s", "1m2s", "1m1s", "22s"]


def test_nothing_is_told_of_what_is_not_limited() -> None:
    assert entered(accounts(Quota(concurrent=3, day=1.0)), 10) == {}
