"""Experiments on a route, and what has become of them."""

from collections.abc import Mapping
from typing import Literal

import msgspec


class Asked(msgspec.Struct, frozen=True):
    """What an experiment is to answer: whether `arm` is better than the arm `than` by more than
    `margin`, or, with `no_worse`, that it is not worse by more; with `best`, which of all arms is
    not worse than any other by more, and then it names none. In shares of `metric`."""

    arm: str
    than: str
    metric: str
    no_worse: bool
    margin: float = 0.0
    best: bool = False


class Experiment(msgspec.Struct, frozen=True):
    """Arms of a route that get traffic by chance, so that they can be compared.

    `arms` are targets by name; `shares` what each gets of `traffic`, at the start of a bandit too.
    `stick_to` says whose requests keep their arm. Guards: the 95th percentile of the time to the
    first token in seconds, and the share of requests that an arm fails. It stops after so many
    dollars or seconds. With `slot_s` whole stretches of time have one arm. `winner` is the arm that
    all of the route's requests go to from now on.
    """

    name: str
    arms: Mapping[str, str]
    shares: Mapping[str, float]
    traffic: float
    stick_to: str = "user"
    bandit: bool = False
    asked: Asked | None = None
    first_token_p95: float | None = None
    errors: float | None = None
    confidence: float = 0.95
    most_usd: float | None = None
    most_s: float | None = None
    promote: bool = False
    slot_s: float | None = None
    winner: str | None = None

    @property
    def control(self) -> str:
        """The arm that the others are compared with: the question's, or the first."""
        asked = self.asked
        return next(iter(self.arms)) if asked is None or asked.best else asked.than


class Standing(msgspec.Struct, frozen=True):
    """What has become of an experiment. `shares` are those that a bandit has come to.

    `guarded` where a guard has stopped it: its traffic goes to the control. `of` is a hash of what
    was declared, `since` when that began, and `why` is a sentence for people.
    """

    of: str
    since: float
    state: Literal["running", "stopped", "answered", "promoted"] = "running"
    guarded: bool = False
    why: str = ""
    shares: Mapping[str, float] = {}
    answer: bool | None = None
