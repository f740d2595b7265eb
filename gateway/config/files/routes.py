"""`routes/*.yaml`: how a kind of work is recognised, who could do it, what makes it right."""

from typing import Literal

from pydantic import Field

from gateway.config.fields import (
    HeaderName,
    HeaderValue,
    Money,
    Name,
    Pattern,
    Positive,
    RightWhen,
    Seconds,
    Share,
    TargetName,
    Text,
    Usd,
    Whole,
)
from gateway.config.files.experiments import ExperimentPart
from gateway.config.files.limits import QuotaPart
from gateway.config.files.part import Part


class MatchPart(Part):
    """How a route is recognised. All but the examples are certain."""

    headers: dict[HeaderName, HeaderValue] = Field(
        default={},
        description="The request has all of these headers.",
        examples=[{"x-workflow": "legal"}],
    )
    keywords: list[Text] = Field(
        default=[],
        description="One of these stands in the last user message as a whole word.",
        examples=[["clause", "lessee"]],
    )
    patterns: list[Pattern] = Field(
        default=[],
        description="One of these regular expressions is found in the last user message.",
        examples=[["(?i)section [0-9]+"]],
    )
    examples: list[Text] = Field(
        default=[],
        description="Messages of this kind; a classifier is learned from them.",
        examples=[["Summarise this clause in one sentence."]],
    )


class CandidatePart(Part):
    """A target that could do a route's work, and how well."""

    target: TargetName = Field(
        description="A declared target; `+{key.tenant}` is the adapter named by the caller's key.",
        examples=["local/qwen+contracts"],
    )
    quality: Share = Field(
        description="The share of its answers that are right.", examples=[0.97, "97 %"]
    )
    observations: Positive = Field(
        default=20.0, description="How many observations `quality` is worth.", examples=[200]
    )
    system: Text | None = Field(
        default=None,
        description="A file with a system prompt of this candidate's own, put before the"
        " application's messages; from the configuration's directory.",
        examples=["prompts/contracts-base.md"],
    )


class MetricPart(Part):
    """What is said of an answer, and when it makes the answer right."""

    type: Literal["boolean", "score"] = Field(
        default="boolean", description="Yes or no, or a number.", examples=["score"]
    )
    source: Literal["feedback", "judge", "check"] = Field(
        default="feedback",
        alias="from",
        description="Who says it: who got the answer, a model that judges, or a check by code.",
        examples=["judge"],
    )
    right_when: RightWhen | None = Field(
        default=None,
        description="When it makes the answer right: `true` or `false` for a boolean, a comparison"
        " for a score; left out, a boolean's `true` does, and a score only is reported.",
        examples=[True, ">= 4"],
    )
    within: Seconds | None = Field(
        default=None,
        description="How long after the answer it still counts; left out, for ever.",
        examples=["48 h"],
    )


class ShadowPart(Part):
    """A copy of a share of the answered requests, for a target whose answers nobody gets."""

    target: TargetName = Field(
        description="Who answers the copies; it need not be a candidate of the route.",
        examples=["local/qwen+contracts"],
    )
    traffic: Share = Field(
        description="What share of the answered requests is copied.", examples=["5 %"]
    )
    budget: Money = Field(
        description="The most that copies may cost in a day of UTC; it is no part of any other"
        " budget.",
        examples=["5 usd"],
    )
    concurrent: Whole = Field(
        default=2,
        description="The most that are asked at a time; what comes beyond is not copied.",
        examples=[2],
    )


class TrainPart(Part):
    """When what its answers tell is learned from anew."""

    every: Seconds = Field(
        ge=60.0,
        description="So long after the last version; one process does it, with low priority, as"
        " `switchboard train` would.",
        examples=["1 d"],
    )
    over: Literal["route", "all"] = Field(
        default="route",
        description="What is learned over: its own answers, or those of all routes, as by"
        " `switchboard train --over-all`.",
        examples=["all"],
    )


class RouteFile(Part):
    """`routes/*.yaml`: a kind of work, how to recognise it, who could do it."""

    name: Name = Field(description="What requests call it.", examples=["contract-summary"])
    description: str = Field(
        default="", description="What it is, for people.", examples=["Summarise a contract clause."]
    )
    value: Usd = Field(description="What one right answer is worth.", examples=["0.02 usd"])
    data: Literal["any", "internal"] = Field(
        default="any",
        description="`internal` never leaves self-hosted targets, whatever happens.",
        examples=["internal"],
    )
    keep: Literal["none", "features", "text"] = Field(
        default="none",
        description="What the store keeps of a request beside its figures: `features` are numbers"
        " that quality is learned by, some 300 to 430 bytes: hashed words, or an encoder's vector;"
        " only `text` keeps prompts and answers.",
        examples=["features"],
    )
    priority: Literal["low", "normal", "high"] = Field(
        default="normal",
        description="Who is served first where there is not enough for all: a key's requests have"
        " four times the share on a `high` route, and a quarter on a `low` one.",
        examples=["high"],
    )
    match: MatchPart | Literal["named"] = Field(
        default=MatchPart(),
        description="How it is recognised; `named` for a route that only its name leads to.",
        examples=[{"keywords": ["clause"]}, "named"],
    )
    candidates: list[CandidatePart] = Field(
        min_length=1,
        description="The targets that could do it.",
        examples=[[{"target": "local/qwen+contracts", "quality": 0.97}]],
    )
    policy: Name = Field(description="How to choose among them.", examples=["balanced"])
    limits: QuotaPart | None = Field(
        default=None,
        description="Limits and budgets of the route, whoever asks.",
        examples=[{"requests": "6000/min", "budget": {"day": "50 usd"}}],
    )
    shadow: ShadowPart | None = Field(
        default=None,
        description="A target that answers copies of requests, to be looked at later.",
        examples=[{"target": "local/qwen+contracts", "traffic": "5 %", "budget": "5 usd"}],
    )
    experiments: dict[Name, ExperimentPart] = Field(
        default={},
        description="Targets that are compared on a share of its traffic, by name; see"
        " [experiments.md](experiments.md). Put new ones last: users keep their places then.",
        examples=[
            {
                "lora-vs-commercial": {
                    "arms": {"commercial": "openai/mini", "lora": "local/qwen+contracts"},
                    "traffic": "20 %",
                }
            }
        ],
    )
    metrics: dict[Name, MetricPart] = Field(
        default={},
        description="What is said of its answers.",
        examples=[{"accepted": {"type": "boolean", "from": "feedback", "within": "48 h"}}],
    )
    right: Name | None = Field(
        default=None,
        description="The metric that says whether an answer is right; the others are reported.",
        examples=["accepted"],
    )
    half_life: Seconds = Field(
        default=30 * 86_400.0,
        description="After how long what was said of an answer counts half: what a provider changes"
        " without a word shows the sooner.",
        examples=["7 d"],
    )
    train: TrainPart | None = Field(
        default=None,
        description="When it is learned anew which candidate is right on which prompt; see"
        " [learned-routing.md](learned-routing.md).",
        examples=[{"every": "1 d"}],
    )
