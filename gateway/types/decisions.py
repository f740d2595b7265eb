"""One decision: what is asked, how every candidate does, what is chosen and why."""

from typing import Literal

import msgspec

from gateway.types.compositions import StepTaken
from gateway.types.requests import Caller, Needs


class Question(msgspec.Struct, frozen=True, gc=False):
    """What `decide` is asked: a recognised request without its transport.

    `only` names the single target that the client asked for, if it did, and `at` the replica that
    has what the request goes on with. `conversation` is the same
    number for requests of one conversation within this process, 0 where it has no beginning.
    `qualities` are P(right) on this very prompt, by index of the route's candidates, and below 0
    for one whose known quality is to count; None for all of them.
    """

    route: str
    policy: str
    needs: Needs
    caller: Caller
    only: str | None = None
    conversation: int = 0
    stream: bool = False
    qualities: tuple[float, ...] | None = None
    at: str | None = None


class Choice(msgspec.Struct, frozen=True, gc=False):
    """One (target, replica) with every term of the objective.

    net = value x quality - cost - waiting.first_token x (first_token_s + others_s)
          - waiting.whole x (total_s + others_s)

    `load_s` is the part of both times that is expected of loading the adapter, and `others_s` the
    seconds that others lose by it; less `load_s` itself under `on_cold: wait`. `further` is how
    often a composition has asked more than its first step, 0 before it was seen.
    """

    target: str
    replica: str
    candidate: int
    quality: float
    cost: float
    first_token_s: float
    total_s: float
    net: float
    propensity: float = 0.0
    verdict: str = ""
    load_s: float = 0.0
    others_s: float = 0.0
    further: float = 0.0


class RuledOut(msgspec.Struct, frozen=True, gc=False):
    """A candidate that could not be chosen, and why: a hard fact, a limit of the policy, or that
    it is away for now, such as an adapter that is being fetched.

    `choice` has the figures of its best replica where a limit ruled it out, and those of the one
    that is left alone for now because it fails; that one is asked when no other has answered.
    """

    target: str
    by: Literal["fact", "limit", "away"]
    reason: str
    choice: Choice | None = None


class Trial(msgspec.Struct, frozen=True, gc=False):
    """A request's part in an experiment: its arm, the probability of that, and a hash of what the
    arm sticks to."""

    experiment: str
    arm: str
    share: float
    unit: str


class Decision(msgspec.Struct, frozen=True, gc=False):
    """A ranked list, best first, with what produced it; enough to recompute it.

    `withheld` are the subjects that the draw left out, for they get but a share of their traffic.
    In a `trial` the arm's target stands first, whatever it is worth; and so does `pinned`, the
    target that an ended experiment left. `steps` are those of the composition that was asked last.
    """

    route: str
    policy: str
    snapshot: str
    ranked: tuple[Choice, ...]
    ruled_out: tuple[RuledOut, ...]
    draw: float
    explored: bool = False
    fits: bool = True
    withheld: tuple[str, ...] = ()
    trial: Trial | None = None
    pinned: str = ""
    steps: tuple[StepTaken, ...] = ()

    @property
    def last_resorts(self) -> tuple[Choice, ...]:
        """What is left alone for failing: asked when nobody else has answered."""
        return tuple(
            out.choice for out in self.ruled_out if out.by == "away" and out.choice is not None
        )
