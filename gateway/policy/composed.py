"""Compositions as targets: what one can take, and is expected to cost and to last. Pure.

Until something was measured, what is declared of its steps is put together. Of a cascade the step
n (from 0) is asked with the probability escalates^n; all but the last are waited for whole:

    E[dollars] = sum over steps of P(asked) x (input price x input + output price x usual output)
    E[s in all] = sum over steps of P(asked) x (first token s + usual output / tokens a second)
    E[s to first token] = E[s in all] - P(last asked) x its output / tokens a second

The prices of the composed target are such that its usual answer costs just that. From then on its
times are measured as any target's, from what clients waited for, and so is what it costs, as a
multiple of that expectation (`Spent`): whatever a request's length, and however often it escalates.
"""

from collections.abc import Mapping, Sequence
from functools import reduce

import msgspec

from gateway.types.backends import Capabilities, Price, Shaping, Target
from gateway.types.compositions import BACKEND, Composition
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
    used = [targets[step.target] for step in composition.steps]
    asked = [composition.escalates**n for n in range(len(used))]
    output = used[0].output_tokens
    total = sum(p * _whole_s(each) for p, each in zip(asked, used, strict=True))
    told = asked[-1] * (_whole_s(used[-1]) - used[-1].first_token_s)
    return Target(
        name=composition.target,
        backend=BACKEND,
        model=composition.name,
        adapter=None,
        served=composition.target,
        internal=all(each.internal for each in used),
        price=_price(asked, used, output),
        capabilities=reduce(_both, (each.capabilities for each in used)),
        shaping=Shaping(),
        replicas=(composition.replica,),
        first_token_s=total - told,
        tokens_per_s=output / told if told > output / INSTANT else INSTANT,
        output_tokens=output,
        priced=all(each.priced for each in used),
    )


def _price(asked: Sequence[float], used: Sequence[Target], output: float) -> Price:
    parts = list(zip(asked, used, strict=True))
    paid = sum(p * each.price.input for p, each in parts)
    return Price(
        input=paid,
        cached_input=paid,  # what a provider has cached is in what the whole has cost so far
        output=sum(p * each.price.output * each.output_tokens for p, each in parts) / output,
    )


def _whole_s(target: Target) -> float:
    return target.first_token_s + target.output_tokens / target.tokens_per_s


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
