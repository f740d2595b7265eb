"""A decision with the arm's target first. Pure.

The objective's ranking stays as it is behind it: what follows when the arm fails. A request is in
an experiment only if each of its arms could be asked for it, whichever it gets: else an arm that
takes longer texts, say, would be compared on other requests than the others.
"""

from collections.abc import Callable, Sequence

import msgspec

from gateway.experiments.assignment import Assigned
from gateway.types.decisions import Choice, Decision, Question

Named = Callable[[str], Sequence[Choice]]
"""The choices of one target for the request, best first; empty where facts rule it out."""


def with_arm_first(
    question: Question, decision: Decision, assigned: Assigned, named: Named
) -> Decision:
    """The decision as the request's arm changes it; as it was where there is nothing to change."""
    if question.only is not None or not decision.ranked:
        return decision
    trial = assigned.trial
    if trial is None:
        return _pinned(decision, assigned.target, named)
    shares: dict[str, float] = {}
    ranked = list(decision.ranked)
    for target, share in assigned.arms:
        found = _of(ranked, target)
        if not found:
            found = list(named(target))
            ranked += found
        if not found:
            return decision
        shares[target] = share
    best = _of(ranked, assigned.target)[0]
    first = [best, *(choice for choice in ranked if choice is not best)]
    told = []
    for choice in first:
        told.append(_chance(choice, shares.pop(choice.target, 0.0)))
    return msgspec.structs.replace(decision, ranked=tuple(told), explored=False, trial=trial)


def _pinned(decision: Decision, target: str, named: Named) -> Decision:
    """The target takes the place of the best; what is explored is explored all the same."""
    ranked = list(decision.ranked)
    found = _of(ranked, target) or list(named(target))
    if not found:
        return decision
    best = found[0]
    likely = max(ranked, key=lambda choice: choice.propensity)
    mine, others = likely.propensity, best.propensity if best in ranked else 0.0
    changed = [
        _chance(
            choice, mine if choice is best else others if choice is likely else choice.propensity
        )
        for choice in (ranked if best in ranked else [*ranked, best])
    ]
    if not decision.explored:
        changed.sort(key=lambda choice: choice.target != target or choice.replica != best.replica)
    return msgspec.structs.replace(decision, ranked=tuple(changed), pinned=target)


def _of(ranked: Sequence[Choice], target: str) -> list[Choice]:
    return [choice for choice in ranked if choice.target == target]


def _chance(choice: Choice, propensity: float) -> Choice:
    if choice.propensity == propensity:
        return choice
    return msgspec.structs.replace(choice, propensity=propensity)
