"""The most that a request may use and cost, before anything is sent. Pure.

Tokens of a rate: the input as it is estimated, and `max_tokens` for each answer that is asked for;
where the request bounds none, the 95th percentile of what the target says on this route.

Dollars: at the dearest candidate that may still be asked. A tokenizer that works on bytes makes at
most a token of each byte, so the input counts as many tokens as the body has bytes, up to the
context that the target declares; pictures and sounds, whose tokens do not go by bytes, count as the
whole context where one is declared. Where the request bounds its output, so does this.
"""

from collections.abc import Mapping
from math import ceil

from gateway.limits.accounts import NANO
from gateway.policy.live import TAIL, Live
from gateway.types import Choice, Decision, Request, Snapshot, Target


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
    targets, route = snapshot.targets, decision.route
    input_bytes = sum(len(memoryview(each)) for each in request.fields.values())
    dearest = 0.0
    for name, system in _asked(decision.ranked, route, snapshot).items():
        target = targets[name]
        output = request.needs.max_output
        if output is None:
            output = usual_output(live, route, target)
        price = target.price
        dollars = (
            _input(request, target, input_bytes + system) * price.input
            + output * request.choices * price.output
        )
        dearest = max(dearest, dollars)
    return ceil(dearest * NANO)


def usual_output(live: Live, route: str, target: Target) -> int:
    """Tokens that 95 of 100 answers do not pass; twice the declared usual before one was seen."""
    seen = live.outputs.get((route, target.name))
    return ceil(seen.p95 if seen is not None else TAIL * target.output_tokens)


def _asked(ranked: tuple[Choice, ...], route: str, snapshot: Snapshot) -> Mapping[str, int]:
    """The targets that may be asked, and the bytes of the system prompt that each is given."""
    found: dict[str, int] = {}
    for choice in ranked:
        system = 0
        if choice.candidate >= 0:
            text = snapshot.routes[route].candidates[choice.candidate].system
            system = len(text.encode()) if text is not None else 0
        found[choice.target] = max(system, found.get(choice.target, 0))
    return found


def _input(request: Request, target: Target, size: int) -> int:
    context = target.capabilities.context
    if context is None:
        return size
    if request.needs.vision or request.needs.audio:
        return context
    return min(size, context)
