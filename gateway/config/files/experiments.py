"""`routes/*.yaml`: the experiments of a route."""

from typing import Literal

from pydantic import Field

from gateway.config.fields import Name, Points, Positive, Seconds, Share, StickTo, TargetName, Usd
from gateway.config.files.part import Part


class QuestionPart(Part):
    """What an experiment is to answer: whether an arm is better or no worse than another, which one
    of `better_than` and `no_worse_than` names; or, without any arm, which of all is best."""

    arm: Name | None = Field(
        default=None,
        description="The arm that it is about; left out, the question is which of all is best.",
        examples=["lora"],
    )
    metric: Name = Field(
        description="The metric of the route that is compared.", examples=["accepted"]
    )
    better_than: Name | None = Field(
        default=None,
        description="Is it better than that arm, by more than `margin`?",
        examples=["commercial"],
    )
    no_worse_than: Name | None = Field(
        default=None,
        description="Is it not worse than that arm, by more than `margin`?",
        examples=["commercial"],
    )
    margin: Points = Field(
        default=0.0,
        description="By how much. For `no_worse_than` what a cheaper or faster arm may be worse;"
        " for the best arm, what another may be better, so that of two alike ones one is found.",
        examples=["2 points"],
    )


class GuardsPart(Part):
    """What stops an experiment at once, its traffic going to the control. They are for the arms
    other than the control, and speak when the limit is surely passed."""

    first_token_p95: Seconds | None = Field(
        default=None, description="95 of 100 first tokens come within this.", examples=["2 s"]
    )
    errors: Share | None = Field(
        default=None,
        description="Most of its requests that an arm may fail, be it that another target answered"
        " in its place.",
        examples=["1 %"],
    )


class StopPart(Part):
    """When it ends, answered or not."""

    spend: Usd | None = Field(
        default=None, description="Its requests have cost that.", examples=["500 usd"]
    )
    days: Positive | None = Field(default=None, description="It is that old.", examples=[30])


class ExperimentPart(Part):
    """Arms that get traffic by chance, so that they can be compared."""

    arms: dict[Name, TargetName] = Field(
        min_length=2,
        description="The targets that are compared, by names of their own. They need not be"
        " candidates of the route.",
        examples=[{"commercial": "openai/mini", "lora": "local/qwen+contracts"}],
    )
    traffic: Share = Field(
        description="What share of the route's users, conversations or keys take part.",
        examples=["20 %"],
    )
    shares: dict[Name, Share] | None = Field(
        default=None,
        description="What each arm gets of that; the same if not given. A bandit begins with it.",
        examples=[{"commercial": "50 %", "lora": "50 %"}],
    )
    stick_to: StickTo = Field(
        default="user",
        description="Whose requests keep their arm: `user` (`safety_identifier` or `user` in the"
        " body; where there is none, the conversation), `conversation`, `key`, or a header.",
        examples=["user", "header:x-workspace"],
    )
    mode: Literal["fixed", "bandit"] = Field(
        default="fixed",
        description="Whether shares stay, or follow what arms are worth in dollars (Thompson"
        " sampling).",
        examples=["bandit"],
    )
    question: QuestionPart | None = Field(
        default=None,
        description="What is to be answered.",
        examples=[{"arm": "lora", "metric": "accepted", "better_than": "commercial"}],
    )
    guards: GuardsPart = Field(
        default=GuardsPart(),
        description="What stops it at once.",
        examples=[{"first_token_p95": "2 s", "errors": "1 %"}],
    )
    confidence: Share = Field(
        default=0.95, description="How sure the answer is to be.", examples=["95 %"]
    )
    stop_at: StopPart = Field(
        default=StopPart(),
        description="When it ends in any case.",
        examples=[{"spend": "500 usd", "days": 30}],
    )
    when_answered: Literal["promote", "report"] = Field(
        default="report",
        description="`promote` makes a revision with the `winner`; `report` ends it and says so.",
        examples=["promote"],
    )
    latency: Literal["as_it_comes", "switchback"] = Field(
        default="as_it_comes",
        description="`switchback` gives whole slots of time to one arm: for arms that share"
        " replicas, where each slows the other.",
        examples=["switchback"],
    )
    slot: Seconds = Field(default=600.0, description="How long such a slot is.", examples=["10 m"])
    winner: Name | None = Field(
        default=None,
        description="The experiment is over: all of the route's requests go to this arm first.",
        examples=["lora"],
    )
