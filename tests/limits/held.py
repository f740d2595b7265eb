"""A request that was let in, settled at an instant that the test says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gateway.limits.accounts import Account, Hold
from gateway.types.limits import NANO


@dataclass
class At:
    """A keeper of accounts, for whom it is one instant."""

    now: Callable[[], float]
    alerted = False

    def alert(self, accounts: Sequence[Account]) -> None:
        """Notes that somebody is to be told."""
        self.alerted = True


def settle(
    accounts: Sequence[Account],
    at: float,
    back: int,
    nano: int,
    spent: int,
    now: float,
    wall: Callable[[], float],
) -> bool:
    """A request that was let in `at` an instant ends `now`: of its tokens it gives so many `back`,
    had reserved `nano`, and spent this many nanodollars. Whether somebody is alerted."""
    keeper = At(wall)
    Hold(keeper, tuple(accounts), back, nano, at, 0.0, []).settle(0, spent / NANO, now)
    return keeper.alerted
