"""The ways of dealing with failures, put together as each policy says."""

from collections.abc import Awaitable, Callable, Mapping

from gateway.policy.live import Live
from gateway.resilience.base import Once, Opener
from gateway.resilience.breaker import Breakers, Broken
from gateway.resilience.deadline import Deadline
from gateway.resilience.fallback import Fallback
from gateway.resilience.hedge import Hedge
from gateway.resilience.retry import Retry
from gateway.types.policies import Policy


class Resilience:
    """What all requests of one gateway share; it stays when the configuration changes."""

    def __init__(
        self,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        draw: Callable[[], float],
        live: Live,
    ) -> None:
        """`draw` is uniform in [0, 1)."""
        self.breakers = Breakers(live, draw)
        self._live = live
        self._clock = clock
        self._sleep = sleep
        self._draw = draw

    def ways(self, policies: Mapping[str, Policy]) -> dict[str, Opener]:
        """By policy what opens its replies."""
        return {name: self._way(policy) for name, policy in policies.items()}

    def _way(self, policy: Policy) -> Opener:
        """From the outside: deadline, retry, fallback, hedge, retry, breaker, one call; what a
        policy leaves out is not there."""
        opener: Opener = Broken(Once(), lambda: self._live.estimates, self._clock)
        if policy.again == "first":
            opener = self._retry(policy, opener)
        elif policy.again == "cheaper" and (per_second := _per_second(policy)) > 0.0:
            opener = self._retry(policy, opener, per_second)
        if policy.hedge:
            opener = Hedge(opener, policy, lambda: self._live.estimates)
        opener = Fallback(opener, policy.tries)
        if policy.again != "first":
            opener = self._retry(policy, opener)
        return Deadline(opener, policy.total_s, policy.first_token_s)

    def _retry(self, policy: Policy, inner: Opener, per_second: float | None = None) -> Opener:
        if policy.retries == 0:
            return inner
        return Retry(
            inner,
            retries=policy.retries,
            first_s=policy.backoff_first_s,
            most_s=policy.backoff_most_s,
            clock=self._clock,
            sleep=self._sleep,
            draw=self._draw,
            per_second=per_second,
        )


def _per_second(policy: Policy) -> float:
    """What a second of waiting costs, in dollars. At none nobody has said what time is worth, and
    another candidate is asked at once."""
    return policy.waiting_first_token + policy.waiting_whole
