"""Thompson sampling on net value in dollars: which share of the traffic each arm gets. Pure.

An arm's mean reward has a normal posterior: that of a normal likelihood with the variance seen so
far and a prior worth PRIOR_N observations at the mean of all arms. Its weight is the probability
that its mean is the highest (Thompson 1933), by drawing from the posteriors; never under FLOOR, so
that every arm stays measured and no propensity is near 0.
"""

from collections.abc import Mapping

import msgspec
import numpy as np

PRIOR_N = 4.0
FLOOR = 0.05
DRAWS = 4000


def least_share(arms: int) -> float:
    """What every one of so many arms gets at least, once shares move."""
    return min(FLOOR, 1.0 / arms)


class Rewards(msgspec.Struct, frozen=True):
    """What an arm's units brought in dollars: how many, the sums of these and of their squares."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def with_(self, reward: float) -> "Rewards":
        """One more."""
        return Rewards(self.n + 1, self.total + reward, self.squares + reward * reward)


def weights(
    rewards: Mapping[str, Rewards], rng: np.random.Generator, floor: float = FLOOR
) -> dict[str, float]:
    """Each arm's share; equal ones while there is nothing to tell arms apart."""
    arms = list(rewards)
    n = sum(each.n for each in rewards.values())
    if n < 2:
        return {arm: 1.0 / len(arms) for arm in arms}
    mean = sum(each.total for each in rewards.values()) / n
    # The variance of all rewards, so arms' own differences make it a little too wide: cautious.
    spread = sum(each.squares for each in rewards.values()) / n - mean * mean
    if spread <= 0.0:
        return {arm: 1.0 / len(arms) for arm in arms}
    means = np.array(
        [(each.total + PRIOR_N * mean) / (each.n + PRIOR_N) for each in rewards.values()]
    )
    widths = np.sqrt([spread / (each.n + PRIOR_N) for each in rewards.values()])
    best = rng.normal(means, widths, size=(DRAWS, len(arms))).argmax(axis=1)
    shares = np.bincount(best, minlength=len(arms)) / DRAWS
    floor = min(floor, 1.0 / len(arms))
    shares = floor + (1.0 - floor * len(arms)) * shares
    return {arm: float(share) for arm, share in zip(arms, shares, strict=True)}
