"""`policies/*.yaml`: how quality, money and time are traded, and what is done about failures."""

from typing import Literal

from pydantic import Field

from gateway.config.fields import Index, Name, Number, Seconds, Share, Switch, Usd, Waiting, Whole
from gateway.config.files.part import Part
from gateway.types.policies import Breaking, Policy

_POLICY, _BREAKING = Policy(""), Breaking()


class WaitingPart(Part):
    """What a second of waiting costs us."""

    first_token: Waiting = Field(
        default=_POLICY.waiting_first_token,
        description="To the first token.",
        examples=["0.002 usd/s"],
    )
    whole: Waiting = Field(
        default=_POLICY.waiting_whole,
        description="For the whole answer.",
        examples=["0.0005 usd/s"],
    )


class LimitsPart(Part):
    """What rules a candidate out."""

    cost: Usd | None = Field(
        default=None, description="Most that a request may cost.", examples=["0.01 usd"]
    )
    first_token_p95: Seconds | None = Field(
        default=None, description="95 of 100 first tokens come within this.", examples=["1.5 s"]
    )
    whole_p95: Seconds | None = Field(
        default=None, description="95 of 100 answers are whole within this.", examples=["20 s"]
    )
    quality: Share | None = Field(
        default=None, description="Least share of right answers.", examples=[0.8]
    )


class WeighPart(Part):
    """How much two of the objective's terms count; 1 is their worth in dollars, 0 nothing."""

    quality: Number = Field(
        default=_POLICY.value_weight, description="What a right answer is worth.", examples=[1]
    )
    price: Number = Field(default=_POLICY.price_weight, description="What it costs.", examples=[1])


class BackoffPart(Part):
    """How long is waited before the same is asked again; a random part of it is left out."""

    first: Seconds = Field(
        default=_POLICY.backoff_first_s,
        description="Before the first time; twice as long before each further one.",
        examples=["200 ms"],
    )
    most: Seconds = Field(
        default=_POLICY.backoff_most_s,
        description="Never longer. A backend that wants to be left alone for longer (`retry-after`)"
        " is not waited for.",
        examples=["5 s"],
    )


class BreakerPart(Part):
    """When a target that fails is left alone, at the replica where it does."""

    failures: Whole = Field(
        default=_BREAKING.failures, description="After so many in a row.", examples=[5]
    )
    share: Share = Field(
        default=_BREAKING.share,
        description="Or when so many of the last requests failed, of ten at least.",
        examples=["50 %"],
    )
    window: Seconds = Field(
        default=_BREAKING.window_s,
        description="How long a failure counts for that share.",
        examples=["30 s"],
    )
    pause: Seconds = Field(
        default=_BREAKING.first_s,
        description="How long it is left alone before one request tries it again; twice as long"
        " each time that this fails, too.",
        examples=["2 s"],
    )
    most: Seconds = Field(
        default=_BREAKING.most_s, description="Never for longer.", examples=["1 m"]
    )


class OnFailurePart(Part):
    """What is done about failures."""

    tries: Whole = Field(
        default=_POLICY.tries,
        description="How many candidates are asked at most, one after the other, while nothing was"
        " sent to the client.",
        examples=[3],
    )
    retries: Index = Field(
        default=_POLICY.retries,
        description="How many times a candidate is asked again at most, where what failed may pass:"
        " it was busy or broken, or took no connection.",
        examples=[2],
    )
    again: Literal["cheaper", "first", "last"] = Field(
        default=_POLICY.again,
        description="When a candidate is asked again: `first`, before another one is asked; `last`,"
        " after all others have failed; or whichever is `cheaper` by this policy: waiting, or the"
        " next candidate.",
        examples=["last"],
    )
    backoff: BackoffPart = Field(
        default=BackoffPart(),
        description="How long is waited before it is asked again.",
        examples=[{"first": "200 ms", "most": "5 s"}],
    )
    hedge: Share = Field(
        default=_POLICY.hedge,
        description="Share of the requests for which a second candidate may be asked when the first"
        " is later than 95 of 100 times, where waiting costs more than asking twice. The one that"
        " is later is cancelled.",
        examples=["5 %"],
    )
    continue_: Switch = Field(
        default=_POLICY.carry_on,
        alias="continue",
        description="Whether a stream that breaks off is gone on with by the next candidate, from"
        " the text that was sent. Chat text only: no tools, one choice, no format.",
        examples=[True],
    )
    breaker: BreakerPart = Field(
        default=BreakerPart(),
        description="When a target is left alone because it fails.",
        examples=[{"failures": 5, "pause": "2 s"}],
    )
    first_token: Seconds | None = Field(
        default=None,
        description="How long the first token of a stream may take; then the next candidate is"
        " asked.",
        examples=["10 s"],
    )
    total: Seconds | None = Field(
        default=None,
        description="What the whole answer may take, all tries together. A client may give less"
        " with the header `x-request-timeout`.",
        examples=["2 m"],
    )


class PolicyFile(Part):
    """`policies/*.yaml`: how to trade quality, money and time."""

    name: Name = Field(description="What routes call it.", examples=["balanced"])
    waiting: WaitingPart = Field(
        default=WaitingPart(),
        description="What a second of waiting costs us.",
        examples=[{"first_token": "0.002 usd/s", "whole": "0.0005 usd/s"}],
    )
    limits: LimitsPart = Field(
        default=LimitsPart(),
        description="What rules a candidate out.",
        examples=[{"cost": "0.01 usd", "quality": 0.8}],
    )
    if_none_fits: Literal["best", "refuse"] = Field(
        default=_POLICY.if_none_fits,
        description="When limits leave nothing: `best` takes the least bad, `refuse` answers 503.",
        examples=["best"],
    )
    quality: Literal["known", "learned"] = Field(
        default="known",
        description="P(right) of a candidate: as it is `known` of the whole route, or as `learned`"
        " by `switchboard train` for prompts such as the one asked, where that is sure.",
        examples=["learned"],
    )
    switch_if_better_by: Share = Field(
        default=_POLICY.switch_margin,
        description="Another target takes over only if it is better by more than this.",
        examples=["5 %"],
    )
    explore: Share = Field(
        default=_POLICY.explore,
        description="Share of requests that go to any fitting candidate, to learn from.",
        examples=["2 %"],
    )
    on_cold: Literal["wait", "base", "external"] | None = Field(
        default=_POLICY.on_cold,
        description="When the best target's adapter is not loaded: `wait` for it, take its `base`,"
        " or an `external` target. Left out, the seconds of loading count like any others.",
        examples=["base"],
    )
    weigh: WeighPart = Field(
        default=WeighPart(),
        description="How much quality and price count: `{price: 0}` makes `best`,"
        " `{quality: 0}` makes `cheapest`.",
        examples=[{"quality": 1, "price": 1}],
    )
    on_failure: OnFailurePart = Field(
        default=OnFailurePart(),
        description="What is done where a backend fails.",
        examples=[{"tries": 3, "total": "2 m"}],
    )
