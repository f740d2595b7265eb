"""The objective in words: what a policy trades for what, and why each loser of a decision lost."""

import math

import msgspec

from gateway.types.decisions import Choice, Decision
from gateway.types.policies import Limits, Policy
from gateway.types.routes import Route
from gateway.types.snapshot import Snapshot

REFERENCE_VALUE = 0.01
"""What a right answer is taken to be worth, in dollars, when no route says so."""

_SMALL = 0.05
"""A term that makes up less than this share of a difference is not worth a word."""


_TELLING = 0.25
"""The share of the first-token time from which on loading is worth a word."""

_ON_COLD = {
    "wait": "the request waits for it",
    "base": "the base answers",
    "external": "an external target answers",
}


def dollars(amount: float, digits: int = 2) -> str:
    """An amount of dollars with `digits` significant figures and never an exponent: `$0.0021`."""
    return f"{'-' if amount < 0 else ''}${number(abs(amount), digits)}"


def number(value: float, digits: int = 2) -> str:
    """`value` with about `digits` significant figures, never an exponent, no trailing zeros."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(share: float) -> str:
    """A share as a percentage: `5 %`."""
    return f"{number(100 * share, 3)} %"


# ---------------------------------------------------------------- a policy


def describe(policy: Policy, route: Route | None = None) -> str:
    """The policy's trade-off in words and figures, for a route's value if one is given."""
    value = REFERENCE_VALUE if route is None else route.value
    of_route = "" if route is None else f" ({route.name})"
    lines = [
        f"{policy.name}: the greatest net value in dollars wins.",
        "",
        "  " + _formula(policy),
        "",
        f"With an answer worth {dollars(value)}{of_route}: {_exchange(policy, value)}.",
        _limits(policy.limits),
    ]
    if policy.limits != Limits():
        lines.append(
            "If nothing is within the limits, the least bad is taken."
            if policy.if_none_fits == "best"
            else "If nothing is within the limits, the request is refused (503)."
        )
    if policy.switch_margin:
        lines.append(
            "Another target takes over only when it is better by more than"
            f" {percent(policy.switch_margin)}."
        )
    if policy.on_cold is not None:
        lines.append(f"Where the best target's adapter is not loaded, {_ON_COLD[policy.on_cold]}.")
    lines.append(
        f"{percent(policy.explore)} of the requests explore: any candidate that fits, at random."
        if policy.explore
        else "Nothing is explored: the best is always taken."
    )
    lines.append(_on_failure(policy))
    return "\n".join(lines)


_AGAIN = {
    "cheaper": "where that is cheaper than the next",
    "first": "before the next",
    "last": "after all others",
}


def _on_failure(policy: Policy) -> str:
    """What is done where a backend fails."""
    candidates = "candidate is" if policy.tries == 1 else "candidates are"
    said = f"Where one fails, at most {policy.tries} {candidates} asked"
    if policy.retries:
        times = "once" if policy.retries == 1 else f"{policy.retries} times"
        said += (
            f", and one again {_AGAIN[policy.again]}, {times} at most,"
            f" after {number(policy.backoff_first_s)} s to {number(policy.backoff_most_s)} s"
        )
    if policy.hedge:
        said += f"; {percent(policy.hedge)} ask a second beside one that is late, where that pays"
    if policy.carry_on:
        said += "; text that breaks off is gone on with by another"
    if policy.first_token_s is not None:
        said += f"; a first token may take {number(policy.first_token_s)} s"
    if policy.total_s is not None:
        said += f"; all of it may take {number(policy.total_s)} s"
    return said + "."


def _formula(policy: Policy) -> str:
    """The objective with the policy's own figures, without what counts for nothing."""
    parts = []
    if policy.value_weight:
        parts.append(f"{_weight(policy.value_weight)}value x P(right)")
    if policy.price_weight:
        parts.append(f"- {_weight(policy.price_weight)}price")
    if policy.waiting_first_token:
        parts.append(f"- {dollars(policy.waiting_first_token)} x seconds to the first token")
    if policy.waiting_whole:
        parts.append(f"- {dollars(policy.waiting_whole)} x seconds in all")
    return f"net = {' '.join(parts) or '0'}"


def _weight(weight: float) -> str:
    return "" if weight == 1.0 else f"{number(weight, 3)} x "


def _exchange(policy: Policy, value: float) -> str:
    """What one point of quality buys; or, where quality counts for nothing, one cent."""
    point = policy.value_weight * value / 100
    seconds = [
        f"{number(point / rate)} s {what}"
        for rate, what in (
            (policy.waiting_first_token, "to the first token"),
            (policy.waiting_whole, "of the whole answer"),
        )
        if rate and point
    ]
    if not point:
        return _without_quality(policy)
    if not policy.price_weight:
        said = f"one point of quality counts {dollars(point)}, and the price for nothing"
        return f"{said}; it is worth as much as {' or '.join(seconds)}" if seconds else said
    worth = f"one point of quality is worth {dollars(point / policy.price_weight)}"
    if not seconds:
        return f"{worth}, and waiting costs nothing"
    return f"{worth}, as much as {' or '.join(seconds)}"


def _without_quality(policy: Policy) -> str:
    seconds = [
        f"{number(0.01 * policy.price_weight / rate)} s {what}"
        for rate, what in (
            (policy.waiting_first_token, "to the first token"),
            (policy.waiting_whole, "of the whole answer"),
        )
        if rate and policy.price_weight
    ]
    if seconds:
        return f"quality counts for nothing, and one cent buys {' or '.join(seconds)}"
    if policy.price_weight:
        return "quality and waiting count for nothing, only the price"
    return "quality and the price count for nothing, only waiting"


def _limits(limits: Limits) -> str:
    parts = []
    if limits.cost is not None:
        parts.append(f"a price of at most {dollars(limits.cost)}")
    if limits.first_token_p95 is not None:
        parts.append(f"the first token within {number(limits.first_token_p95)} s (95 of 100 times)")
    if limits.whole_p95 is not None:
        parts.append(f"the whole answer within {number(limits.whole_p95)} s (95 of 100 times)")
    if limits.quality is not None:
        parts.append(f"a quality of at least {number(limits.quality)}")
    return f"Limits: {', '.join(parts)}." if parts else "No limits."


# ---------------------------------------------------------------- a decision


def verdicts(decision: Decision, snapshot: Snapshot) -> tuple[str, ...]:
    """For each of `decision.ranked`, in a few words, why it won or lost.

    `snapshot` should be the one that decided; where it has no such route or policy any more, the
    parts of a difference are left out.
    """
    if not decision.ranked:
        return ()
    winner, *losers = decision.ranked
    policy = snapshot.policies.get(decision.policy)
    route = snapshot.routes.get(decision.route)
    said = [_why_first(decision, policy, route) + _besides(winner, snapshot)]
    for choice in losers:
        lost = winner.net - choice.net
        if lost < 0:
            why = _passed_over(decision, choice, -lost, policy)
        else:
            why = _why_lost(winner, choice, policy, route)
        said.append(why + _besides(choice, snapshot))
    return tuple(said)


def _besides(choice: Choice, snapshot: Snapshot) -> str:
    """What there is to say of a choice whether it won or lost."""
    return _loading(choice) + _further(choice, snapshot)


def _further(choice: Choice, snapshot: Snapshot) -> str:
    """How often a cascade asks more than its first step."""
    if choice.further:
        return f"; asks a further step in {percent(choice.further)}"
    composition = snapshot.compositions.get(choice.target)
    if composition is None or composition.kind != "cascade":
        return ""
    return f"; asks a further step in {percent(composition.escalates)}, as declared"


def _loading(choice: Choice) -> str:
    """What part of the time is expected of loading the adapter, or of waking the model."""
    if choice.load_s < _TELLING * choice.first_token_s:
        return ""
    others = f", holding others up {number(choice.others_s, 2)} s" if choice.others_s > 0 else ""
    what = "load the adapter" if "+" in choice.target else "wake the model"
    return f"; {number(choice.load_s, 2)} s of it to {what}{others}"


def _why_first(decision: Decision, policy: Policy | None, route: Route | None) -> str:
    winner = decision.ranked[0]
    if decision.trial is not None:
        trial = decision.trial
        return f"arm {trial.arm} of experiment {trial.experiment}, which has {percent(trial.share)}"
    if decision.pinned and not decision.explored:
        return "the winner of an experiment"
    if route is not None and _was_named(decision, route):
        return "the target that was asked for"
    if decision.explored:
        share = "" if policy is None else f", under {number(policy.explore, 3)}"
        return f"explored (the draw was {number(decision.draw, 3)}{share})"
    if not decision.fits:
        return "the least bad: none is within the limits"
    if all(choice.target == winner.target for choice in decision.ranked):
        return "the only one left"
    instead = [each for each in decision.ranked if each.net > winner.net and each.load_s]
    if policy is not None and policy.on_cold in ("base", "external") and instead:
        return f"on_cold: {policy.on_cold}, since {instead[0].target} is not loaded"
    passed = [choice for choice in decision.ranked if choice.net > winner.net]
    if passed and all(_left_out(decision, choice) for choice in passed):
        return "the greatest net value of what its share of the traffic lets in"
    if passed:
        margin = "the margin" if policy is None else percent(policy.switch_margin)
        return f"kept: the best is not better by more than {margin}"
    return "the greatest net value"


def _was_named(decision: Decision, route: Route) -> bool:
    """Whether only one target was looked at, because the client named it."""
    candidates = {choice.candidate for choice in decision.ranked}
    if -1 in candidates:
        return True
    looked_at = len(candidates) + (len(decision.ruled_out) if decision.fits else 0)
    return decision.fits and looked_at < len(route.candidates)


def _left_out(decision: Decision, choice: Choice) -> str:
    """What of a choice the draw left out by its share."""
    backend, _, model = choice.target.partition("/")
    own = f"{backend}:{model.partition('+')[0]}"
    among = (choice.target, choice.replica, backend, own)
    return next((each for each in decision.withheld if each in among), "")


def _passed_over(decision: Decision, choice: Choice, more: float, policy: Policy | None) -> str:
    if decision.trial is not None or decision.pinned:
        return f"{dollars(more)} more, but an experiment decides"
    if decision.explored:
        return f"{dollars(more)} more, but this request explored"
    if behind := _left_out(decision, choice):
        return f"{dollars(more)} more, but {behind} gets a share, and not this request"
    margin = "the margin" if policy is None else percent(policy.switch_margin)
    return f"{dollars(more)} more, not enough to switch ({margin})"


def _why_lost(winner: Choice, choice: Choice, policy: Policy | None, route: Route | None) -> str:
    lost = winner.net - choice.net
    where = "another replica: " if choice.target == winner.target else ""
    if lost == 0:
        return f"{where}as good, but slower or declared later"
    said = f"{where}{dollars(lost)} less"
    if policy is None or route is None:
        return said
    parts = _differences(winner, choice, policy, route)
    against = [text for worth, text in parts if worth > 0]
    favour = [text for worth, text in reversed(parts) if worth < 0]
    if not against:
        return said
    though = f", though {', '.join(favour)}" if favour else ""
    return f"{said}: {', '.join(against)}{though}"


def _differences(
    winner: Choice, choice: Choice, policy: Policy, route: Route
) -> list[tuple[float, str]]:
    """(dollars, words) of each term that differs; what speaks most against `choice` first."""
    worse = winner.quality - choice.quality
    dearer = choice.cost - winner.cost
    later = choice.first_token_s - winner.first_token_s
    longer = choice.total_s - winner.total_s
    terms = [
        (
            policy.value_weight * route.value * worse,
            f"right {'less' if worse > 0 else 'more'} often"
            f" ({_apart(choice.quality, winner.quality)})",
        ),
        (
            policy.price_weight * dearer,
            f"{'dearer' if dearer > 0 else 'cheaper'} by {dollars(abs(dearer))}",
        ),
        (
            policy.waiting_first_token * later,
            f"first token {number(abs(later))} s {'later' if later > 0 else 'sooner'}",
        ),
        (
            policy.waiting_whole * longer,
            f"{number(abs(longer))} s {'slower' if longer > 0 else 'faster'} in all",
        ),
    ]
    floor = _SMALL * sum(abs(worth) for worth, _ in terms)
    return sorted((term for term in terms if abs(term[0]) > floor), reverse=True)


def _apart(one: float, other: float) -> str:
    """Two numbers with two decimals, or with as many as it takes to see that they differ."""
    digits = next((n for n in range(2, 9) if f"{one:.{n}f}" != f"{other:.{n}f}"), 9)
    return f"{one:.{digits}f}, not {other:.{digits}f}"


def explained(decision: Decision, snapshot: Snapshot) -> Decision:
    """The same decision with the verdict of each choice filled in."""
    said = verdicts(decision, snapshot)
    ranked = tuple(
        msgspec.structs.replace(choice, verdict=verdict)
        for choice, verdict in zip(decision.ranked, said, strict=True)
    )
    return msgspec.structs.replace(decision, ranked=ranked)


def known_qualities(route: str, snapshot: Snapshot) -> dict[str, dict[str, float]]:
    """What is known of P(right) on a route beyond what is declared, by target."""
    return {
        target: msgspec.structs.asdict(known)
        for (name, target), known in snapshot.qualities.items()
        if name == route
    }
