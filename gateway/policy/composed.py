"""Compositions as targets: what one can take, and is expected to cost and to last. Pure.

Until something was measured, what is declared of its steps is put together. Of a cascade the step
n (from 0) is asked with the probability escalates^n:

    E[dollars] = sum over calls of E[calls] x (input price x input + output price x usual output)

How long it takes, on the mean and in 95 of 100 cases, `gateway.policy.lasting` works out: all but
the last step are waited for whole, and of what is asked at the same time the slowest.

The prices of the composed target are such that its usual answer costs just that. From then on its
times are measured as any target's, from what clients waited for, and so is what it costs, as a
multiple of that expectation (`Spent`): whatever a request's length, and however often it escalates.
The whole time's 95th percentile is measured as a multiple, too, since how long the last step goes
on says nothing of requests that others have answered.
What its steps are like now is in it beyond that (`decide`): the load of an adapter; and until it
was measured itself, what was measured of them.
"""

from collections.abc import Mapping, Sequence
from functools import reduce

import msgspec

from gateway.types.backends import Capabilities, Price, Shaping, Target
from gateway.types.compositions import BACKEND, Call, Composition
from gateway.types.snapshot import Snapshot

INSTANT = 1e6
"""Tokens a second of an answer that is there as a whole."""

CHAT = frozenset({"chat/completions"})
"""What a composition serves."""


def with_compositions(snapshot: Snapshot) -> Snapshot:
    """The snapshot with each composition's target as its steps' targets are in it."""
    if not snapshot.compositions:
        return snapshot
    targets = dict(snapshot.targets)
    for name, composition in snapshot.compositions.items():
        targets[name] = composed(composition, targets)
    return msgspec.structs.replace(snapshot, targets=targets)


def composed(composition: Composition, targets: Mapping[str, Target]) -> Target:
    """The target of a composition whose steps' targets are declared."""
    # It brings numpy, which a command that meets no composition need not wait for.
    from gateway.policy.lasting import lasts

    calls = [(call, targets[call.target]) for call in composition.calls()]
    used = [each for _, each in calls]
    last = targets[composition.steps[-1].target]
    output = last.output_tokens
    times = lasts(composition, targets)
    told = times.whole_s - times.first_s
    return Target(
        name=composition.target,
        backend=BACKEND,
        model=composition.name,
        adapter=None,
        served=composition.target,
        internal=all(each.internal for each in used),
        price=_price(calls, output),
        capabilities=reduce(_both, (targets[s.target].capabilities for s in composition.steps)),
        shaping=Shaping(),
        replicas=(composition.replica,),
        first_token_s=times.first_s,
        tokens_per_s=output / told if told > output / INSTANT else INSTANT,
        output_tokens=output,
        priced=all(each.priced for each in used),
        steps=tuple((call.waited, each) for call, each in calls),
        first_tail=times.first_tail,
        whole_tail=times.whole_tail,
    )


def _price(calls: Sequence[tuple[Call, Target]], output: float) -> Price:
    paid = sum(call.expected * each.price.input for call, each in calls)
    said = sum(call.expected * each.price.output * each.output_tokens for call, each in calls)
    return Price(
        input=paid,
        cached_input=paid,  # what a provider has cached is in what the whole has cost so far
        output=said / output,
    )


def _both(one: Capabilities, other: Capabilities) -> Capabilities:
    """What both can take."""
    contexts = [each for each in (one.context, other.context) if each is not None]
    return Capabilities(
        context=min(contexts, default=None),
        tools=one.tools and other.tools,
        vision=one.vision and other.vision,
        audio=one.audio and other.audio,
        json_schema=one.json_schema and other.json_schema,
        endpoints=one.endpoints & other.endpoints & CHAT,
        media_from=_hosts(one.media_from, other.media_from),
    )


def _hosts(one: frozenset[str] | None, other: frozenset[str] | None) -> frozenset[str] | None:
    """The hosts that both may fetch from; None is any."""
    if one is None or other is None:
        return other if one is None else one
    return one & other
