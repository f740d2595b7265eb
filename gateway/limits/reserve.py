"""The most that a request may use and cost, before anything is sent. Pure.

A composition may use, and cost, what all of its steps may together, each bounded as below; of
dollars no more than its `max_cost`.

Tokens of a rate: the input as it is estimated, and `max_tokens` for each answer that is written (to
each prompt `n`, or `best_of`); where the request bounds none, the 99th percentile of what the
target says on this route.

Dollars: at the dearest candidate that may still be asked. A tokenizer that works on bytes makes at
most a token of each byte, so the input counts as many tokens as the body has bytes, up to the
context that the target declares, for each prompt. What does not go by bytes, pictures, sounds and
what a response continues, counts as the whole context where one is declared. The output is as
above. Where a policy asks a second candidate beside a late one, or lets one go on with what another
began, and where a composition may fail half done, the two dearest count.
"""

from math import ceil, inf
from typing import NamedTuple

from gateway.metering.prices import BYTES_PER_TOKEN
from gateway.policy.estimates import LONG_TAIL
from gateway.policy.live import Live
from gateway.types.backends import Target
from gateway.types.decisions import Decision
from gateway.types.limits import NANO
from gateway.types.requests import Request
from gateway.types.snapshot import Snapshot

TOLD = 1024
"""Bytes that a step is told around another's answer: a template, or a judge's instructions."""


def tokens_of(request: Request, decision: Decision, snapshot: Snapshot, live: Live) -> int:
    """What to reserve of a rate of tokens."""
    needs, route, first = request.needs, decision.route, decision.ranked[0].target
    composition = snapshot.compositions.get(first)
    if composition is None:
        output = needs.max_output
        if output is None:
            output = usual_output(live, route, snapshot.targets[first])
        return needs.input_tokens + output * request.written
    tokens = 0
    for call in composition.calls():
        output = _output(request, snapshot.targets[call.target], live, route, call.output)
        tokens += call.most * (needs.input_tokens + (1 + call.answers) * output)
    return tokens


class Fare(NamedTuple):
    """What a call to a candidate that is one target costs: nanodollars a token read and written,
    the tokens that its context holds, and the bytes that it is told besides."""

    name: str
    target: Target
    read: float
    written: float
    context: float
    more: int


class Plain(NamedTuple):
    """What most requests of a route may cost: those by its own `policy`, where that asks one
    candidate at a time and the one at `place` is never cheaper than any other, if all read a text
    and write equally much. Its fare is in nanodollars a token."""

    policy: str
    place: int
    read: float
    written: float
    context: float
    more: int


class Fares(NamedTuple):
    """Those of a route's candidates by place, None for one that is made of others; and what is
    plain of them."""

    by_place: tuple[Fare | None, ...]
    plain: Plain | None


def fares_of(route: str, snapshot: Snapshot) -> Fares:
    """They are the same for all requests of a route under one snapshot."""
    declared = snapshot.routes[route]
    fares = tuple(
        _fare(snapshot.targets[candidate.target], candidate.system)
        if candidate.target not in snapshot.compositions
        else None
        for candidate in declared.candidates
    )
    known = [fare for fare in fares if fare is not None]
    policy = snapshot.policies[declared.policy]
    if len(known) == len(fares) and not policy.hedge and not policy.carry_on:
        for place, fare in enumerate(known):
            if all(_no_less(fare, other) for other in known):
                _, _, read, written, context, more = fare
                plain = Plain(declared.policy, place, read, written, context, more)
                return Fares(fares, plain)
    return Fares(fares, None)


def _no_less(one: Fare, other: Fare) -> bool:
    """Whether one call is never cheaper than the other."""
    return all(mine >= its for mine, its in zip(one[2:], other[2:], strict=True))


def _fare(target: Target, system: str | None) -> Fare:
    price, context = target.price, target.capabilities.context
    return Fare(
        target.name,
        target,
        price.input * NANO,
        price.output * NANO,
        inf if context is None else context,
        0 if system is None else _bytes(system),
    )


def plainly(request: Request, decision: Decision, plain: Plain) -> tuple[int, int] | None:
    """`tokens_of` and `nano_of` of most requests in one: that are text, whose answers are bounded,
    and of whose candidates the one that `plain` names may be asked. None for others.

    It calls nothing, as most requests come through here.
    """
    policy, dearest, read, written, context, more = plain
    needs = request.needs
    output = needs.max_output
    if output is None or decision.policy != policy:
        return None
    if needs.vision or needs.audio or request.previous is not None:
        return None
    if decision.trial is not None or decision.pinned:
        return None  # there may be a target among the candidates that is none
    # What is left alone for failing is a candidate too, so never dearer than the one looked for.
    for choice in decision.ranked:
        if choice.candidate == dearest:
            break
    else:
        return None
    output *= request.written
    tokens: float = request.size + more
    context *= needs.prompts
    if tokens > context:
        tokens = context
    return needs.input_tokens + output, ceil(tokens * read + output * written)


def nano_of(
    request: Request, decision: Decision, snapshot: Snapshot, live: Live, fares: Fares
) -> int:
    """What to reserve of a budget, in nanodollars, rounded up; `fares` are the route's."""
    route, bound, times = decision.route, request.needs.max_output, request.written
    dearest = beside = 0.0  # nanodollars
    choices = decision.ranked
    if decision.ruled_out:
        choices += decision.last_resorts
    for choice in choices:
        place = choice.candidate
        fare = fares.by_place[place] if place >= 0 else None
        if fare is None or fare.name != choice.target:
            told = _told(decision, place, snapshot)
            most = _most(request, choice.target, snapshot, live, route, told) * NANO
        else:
            output = usual_output(live, route, fare.target) if bound is None else bound
            most = _paid(request, fare, output * times)
        if most > dearest:
            dearest, beside = most, dearest
        elif most > beside:
            beside = most
    policy = snapshot.policies[decision.policy]
    twice = policy.hedge or (policy.carry_on and request.stream)
    composed = snapshot.compositions and any(c.target in snapshot.compositions for c in choices)
    if twice or composed:
        dearest += beside
    return ceil(dearest)


def _paid(request: Request, fare: Fare, output: int) -> float:
    """The nanodollars of one call whose answers have `output` tokens together."""
    _, _, read, written, context, more = fare
    context *= request.needs.prompts
    tokens: float = request.size + more
    if tokens > context or (context != inf and _unread(request)):
        tokens = context
    return tokens * read + output * written


def _unread(request: Request) -> bool:
    """Whether it holds what does not go by bytes."""
    needs = request.needs
    return needs.vision or needs.audio or request.previous is not None


def _told(decision: Decision, place: int, snapshot: Snapshot) -> int:
    """Bytes of the system prompt that a candidate has; a target that was named has none."""
    if place < 0:
        return 0
    system = snapshot.routes[decision.route].candidates[place].system
    return 0 if system is None else _bytes(system)


def most_of(request: Request, target: Target, live: Live, route: str, more: int = 0) -> float:
    """The dollars that one call to a target may cost, asked `more` bytes than the request has."""
    return _dollars(request, target, more, _output(request, target, live, route))


def _output(
    request: Request, target: Target, live: Live, route: str, most: int | None = None
) -> int:
    """Tokens that all choices of an answer have at most, as far as is known."""
    output = request.needs.max_output
    if output is None:
        output = usual_output(live, route, target)
    return (output if most is None else most) * request.written


def _dollars(request: Request, target: Target, more: int, output: int) -> float:
    size, context = request.size + more, target.capabilities.context
    if context is not None:
        context *= request.needs.prompts
        if size > context or _unread(request):
            size = context
    return size * target.price.input + output * target.price.output


def _most(
    request: Request, target: str, snapshot: Snapshot, live: Live, route: str, more: int
) -> float:
    composition = snapshot.compositions.get(target)
    if composition is None:
        return most_of(request, snapshot.targets[target], live, route, more)
    dollars, said = 0.0, 0
    for call in composition.calls():
        called = snapshot.targets[call.target]
        output = _output(request, called, live, route, call.output)
        said = max(said, output)
        own = more + (0 if call.system is None else _bytes(call.system))
        own += call.answers * (said * BYTES_PER_TOKEN + TOLD)
        dollars += call.most * _dollars(request, called, own, output)
    most = composition.max_cost
    return dollars if most is None else min(dollars, most)


def usual_output(live: Live, route: str, target: Target) -> int:
    """Tokens that 99 of 100 answers do not pass; before one was seen, of the declared usual."""
    seen = live.outputs.get((route, target.name))
    return ceil(seen.p99 if seen is not None else LONG_TAIL * target.output_tokens)


def _bytes(text: str) -> int:
    """A bound that costs nothing."""
    return len(text) if text.isascii() else 4 * len(text)
