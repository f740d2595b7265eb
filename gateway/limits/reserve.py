"""The most that a request may use and cost, before anything is sent. Pure.

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
    needs = request.needs
    output = needs.max_output
    if output is None:
        ranked = decision.ranked
        output = usual_output(live, decision.route, snapshot.targets[ranked[0].target])
    return needs.input_tokens + output * request.choices


def nano_of(request: Request, decision: Decision, snapshot: Snapshot, live: Live) -> int:
    """What to reserve of a budget, in nanodollars, rounded up."""
    needs, targets, route = request.needs, snapshot.targets, decision.route
    unseen = needs.vision or needs.audio or request.previous is not None
    dearest = beside = 0.0
    choices = decision.ranked
    if decision.ruled_out:
        choices += decision.last_resorts
    for choice in choices:
        target = targets[choice.target]
        output = needs.max_output
        if output is None:
            output = usual_output(live, route, target)
        size, context = request.size, target.capabilities.context
        if choice.candidate >= 0:
            system = snapshot.routes[route].candidates[choice.candidate].system
            if system is not None:
                size += _bytes(system)
        if context is not None and (unseen or size > context):
            size = context
        price = target.price
        dollars = size * price.input + output * request.choices * price.output
        if dollars > dearest:
            dearest, beside = dollars, dearest
        elif dollars > beside:
            beside = dollars
    policy = snapshot.policies[decision.policy]
    if policy.hedge or (policy.carry_on and request.stream):
        dearest += beside
    return ceil(dearest * NANO)


def usual_output(live: Live, route: str, target: Target) -> int:
    """Tokens that 95 of 100 answers do not pass; twice the declared usual before one was seen."""
    seen = live.outputs.get((route, target.name))
    return ceil(seen.p95 if seen is not None else TAIL * target.output_tokens)


def _bytes(text: str) -> int:
    """A bound that costs nothing."""
    return len(text) if text.isascii() else 4 * len(text)
