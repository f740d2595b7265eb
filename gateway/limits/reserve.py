"""The most that a request may use and cost, before anything is sent. Pure.

A composition may use, and cost, what all of its steps may together, each bounded as below; of
dollars no more than its `max_cost`.

Tokens of a rate: the input as it is estimated, and `max_tokens` for each answer that is asked for;
where the request bounds none, the 95th percentile of what the target says on this route.

Dollars: at the dearest candidate that may still be asked. A tokenizer that works on bytes makes at
most a token of each byte, so the input counts as many tokens as the body has bytes, up to the
context that the target declares. What does not go by bytes, pictures, sounds and what a response
continues, counts as the whole context where one is declared. The output is as above. Where a policy
asks a second candidate beside a late one, or lets one go on with what another began, the two
dearest count.
"""

from math import ceil

from gateway.limits.accounts import NANO
from gateway.policy.estimates import TAIL
from gateway.policy.live import Live
from gateway.types.backends import Target
from gateway.types.decisions import Decision
from gateway.types.requests import Request
from gateway.types.snapshot import Snapshot


def tokens_of(request: Request, decision: Decision, snapshot: Snapshot, live: Live) -> int:
    """What to reserve of a rate of tokens."""
    needs, route, first = request.needs, decision.route, decision.ranked[0].target
    composition = snapshot.compositions.get(first)
    asked = (first,) if composition is None else [step.target for step in composition.steps]
    tokens = 0
    for name in asked:
        output = needs.max_output
        if output is None:
            output = usual_output(live, route, snapshot.targets[name])
        tokens += needs.input_tokens + output * request.choices
    return tokens


def nano_of(request: Request, decision: Decision, snapshot: Snapshot, live: Live) -> int:
    """What to reserve of a budget, in nanodollars, rounded up."""
    route = decision.route
    dearest = beside = 0.0
    choices = decision.ranked
    if decision.ruled_out:
        choices += decision.last_resorts
    for choice in choices:
        more = 0
        if choice.candidate >= 0:
            system = snapshot.routes[route].candidates[choice.candidate].system
            more = 0 if system is None else _bytes(system)
        dollars = _most(request, choice.target, snapshot, live, route, more)
        if dollars > dearest:
            dearest, beside = dollars, dearest
        elif dollars > beside:
            beside = dollars
    policy = snapshot.policies[decision.policy]
    if policy.hedge or (policy.carry_on and request.stream):
        dearest += beside
    return ceil(dearest * NANO)


def most_of(request: Request, target: Target, live: Live, route: str, more: int = 0) -> float:
    """The dollars that one call to a target may cost, asked `more` bytes than the request has."""
    needs = request.needs
    output = needs.max_output
    if output is None:
        output = usual_output(live, route, target)
    size, context = request.size + more, target.capabilities.context
    unseen = needs.vision or needs.audio or request.previous is not None
    if context is not None and (unseen or size > context):
        size = context
    price = target.price
    return size * price.input + output * request.choices * price.output


def _most(
    request: Request, target: str, snapshot: Snapshot, live: Live, route: str, more: int
) -> float:
    composition = snapshot.compositions.get(target)
    if composition is None:
        return most_of(request, snapshot.targets[target], live, route, more)
    dollars = sum(
        most_of(
            request,
            snapshot.targets[step.target],
            live,
            route,
            more + (0 if step.system is None else _bytes(step.system)),
        )
        for step in composition.steps
    )
    most = composition.max_cost
    return dollars if most is None else min(dollars, most)


def usual_output(live: Live, route: str, target: Target) -> int:
    """Tokens that 95 of 100 answers do not pass; twice the declared usual before one was seen."""
    seen = live.outputs.get((route, target.name))
    return ceil(seen.p95 if seen is not None else TAIL * target.output_tokens)


def _bytes(text: str) -> int:
    """A bound that costs nothing."""
    return len(text) if text.isascii() else 4 * len(text)
