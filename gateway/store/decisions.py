"""Decisions as the store writes them: JSON, with each choice as a row of values.

Names would be half of the text, and writing it is the dearest part of keeping a request. Values
stand in the order of the fields of `Choice` and `RuledOut`: that order is a format on disk, to
which fields may only be appended.
"""

import math
from typing import Any

import msgspec
from msgspec.structs import astuple

from gateway.types.compositions import StepTaken
from gateway.types.decisions import Choice, Decision, RuledOut, Trial

_encode = msgspec.json.Encoder().encode
_CHOICE = Choice.__struct_fields__
_RULED_OUT = RuledOut.__struct_fields__


class _Stored(msgspec.Struct):
    ranked: list[list[Any]]
    ruled_out: list[list[Any]]
    draw: float
    explored: bool
    fits: bool
    withheld: tuple[str, ...] = ()
    trial: Trial | None = None
    pinned: str = ""
    steps: tuple[StepTaken, ...] = ()


_decode = msgspec.json.Decoder(_Stored).decode


def encoded(decision: Decision) -> str:
    """The decision as text. Route, policy and snapshot are columns of their own."""
    told: dict[str, Any] = {
        "ranked": [astuple(choice) for choice in decision.ranked],
        "ruled_out": [_ruled_out(out) for out in decision.ruled_out],
        "draw": decision.draw,
        "explored": decision.explored,
        "fits": decision.fits,
    }
    if decision.withheld:
        told["withheld"] = decision.withheld
    if decision.trial is not None:
        told["trial"] = decision.trial
    if decision.pinned:
        told["pinned"] = decision.pinned
    if decision.steps:
        told["steps"] = decision.steps
    return _encode(told).decode()


def decoded(text: str, route: str, policy: str, snapshot: str) -> Decision:
    """The decision again. Raises msgspec.DecodeError for what `encoded` did not write."""
    stored = _decode(text)
    return Decision(
        route=route,
        policy=policy,
        snapshot=snapshot,
        ranked=tuple(_choice(values) for values in stored.ranked),
        ruled_out=tuple(_ruled_out_again(values) for values in stored.ruled_out),
        draw=stored.draw,
        explored=stored.explored,
        fits=stored.fits,
        withheld=stored.withheld,
        trial=stored.trial,
        pinned=stored.pinned,
        steps=stored.steps,
    )


def _ruled_out(out: RuledOut) -> tuple[Any, ...]:
    return (out.target, out.by, out.reason, None if out.choice is None else astuple(out.choice))


def _choice(values: list[Any]) -> Choice:
    """Older rows are shorter: the fields appended since have their defaults.

    JSON has no infinity: such a figure was written as null, and is NaN here.
    """
    known = (math.nan if value is None else value for value in values)
    return msgspec.convert(dict(zip(_CHOICE, known, strict=False)), Choice)


def _ruled_out_again(values: list[Any]) -> RuledOut:
    fields = dict(zip(_RULED_OUT, values, strict=False))
    if fields["choice"] is not None:
        fields["choice"] = _choice(fields["choice"])
    return RuledOut(**fields)
