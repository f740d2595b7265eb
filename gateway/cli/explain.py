"""A decision as a table that a person reads at 3 a.m., and as JSON."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gateway.policy.words import explained, number, verdicts
from gateway.types import Choice, Decision, Recognition, RuledOut, Snapshot

CHOSEN = "bold green"
OVER_LIMIT = "yellow"
IMPOSSIBLE = "red"
ASIDE = "dim"

_WAYS = {
    "named": "the model names it",
    "alias": "an alias names it",
    "header": "by a header",
    "keyword": "by keyword",
    "pattern": "by pattern",
    "classifier": "by the classifier",
    "conversation": "by an earlier turn",
    "default": "the default route",
}


def render(
    decision: Decision, recognition: Recognition | None, snapshot: Snapshot
) -> RenderableType:
    """The route and why; what was chosen; then every candidate with its terms and verdict.

    Green is chosen, yellow is over a limit of the policy, red is impossible.
    """
    return Group(
        _route(decision, recognition), _choice(decision, snapshot), _candidates(decision, snapshot)
    )


def to_json(
    decision: Decision, recognition: Recognition | None, snapshot: Snapshot
) -> dict[str, Any]:
    """The same, ready for JSON: `recognition` (or null), and `decision` with every verdict."""
    return {
        "recognition": None if recognition is None else msgspec.to_builtins(recognition),
        "decision": msgspec.to_builtins(explained(decision, snapshot)),
    }


def _route(decision: Decision, recognition: Recognition | None) -> Text:
    line = Text.assemble("route   ", (decision.route, "bold"))
    if recognition is not None:
        line.append(f"  {_WAYS[recognition.by]}")
        if recognition.detail:
            line.append(f": {recognition.detail}")
        if recognition.by in ("classifier", "conversation", "default"):
            line.append(f"  (confidence {recognition.confidence:.2f})")
        else:
            line.append("  (certain)", ASIDE)
    line.append(f"\npolicy  {decision.policy}")
    line.append(f"  draw {number(decision.draw, 3)}, snapshot {decision.snapshot[:12]}", ASIDE)
    return line


def _choice(decision: Decision, snapshot: Snapshot) -> Text:
    if not decision.ranked:
        by_limit = any(out.by == "limit" for out in decision.ruled_out)
        why = (
            "refused: no candidate is within the limits of the policy"
            if by_limit
            else "impossible: hard facts rule every candidate out"
        )
        return Text.assemble("choice  ", (f"none; {why}\n", f"bold {IMPOSSIBLE}"))
    best = decision.ranked[0]
    line = Text.assemble("choice  ", (best.target, CHOSEN), f" at {best.replica}")
    line.append(f": {verdicts(decision, snapshot)[0]}\n", "" if decision.fits else OVER_LIMIT)
    return line


def _candidates(decision: Decision, snapshot: Snapshot) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    table.add_column("target", overflow="fold", min_width=12)
    for heading in ("quality", "cost $", "first s", "whole s", "net $", "chance"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("verdict", overflow="fold", min_width=20, ratio=1)
    listed = {choice.target for choice in decision.ranked}
    shown = list(decision.ranked)
    shown += [out.choice for out in decision.ruled_out if out.choice is not None]
    figures = _Figures(shown, decision, snapshot)
    repeated = len(listed) < len(decision.ranked)
    for place, (choice, verdict) in enumerate(
        zip(decision.ranked, verdicts(decision, snapshot), strict=True), 1
    ):
        name = f"{choice.target}\n  {choice.replica}" if repeated else choice.target
        style = CHOSEN if place == 1 else ""
        table.add_row(str(place), Text(name), *figures.of(choice), Text(verdict), style=style)
    for out in decision.ruled_out:
        blank = [""] * 6
        terms = blank if out.choice is None else [*figures.of(out.choice)[:-1], ""]
        style = OVER_LIMIT if out.by == "limit" else IMPOSSIBLE
        if out.target in listed:
            terms = blank
        table.add_row(_mark(out), Text(out.target), *terms, Text(out.reason), style=style)
    return table


def _mark(out: RuledOut) -> str:
    """Says without colour what the colour says."""
    return "–" if out.by == "limit" else "✗"


class _Figures:
    """Formats the terms of choices so that the decimals of each column stand below each other."""

    def __init__(self, choices: Sequence[Choice], decision: Decision, snapshot: Snapshot) -> None:
        self._cost = _decimals(choice.cost for choice in choices)
        self._net = max(self._cost, _decimals(choice.net for choice in choices))
        self._first = _decimals((choice.first_token_s for choice in choices), most=3)
        self._total = _decimals((choice.total_s for choice in choices), most=3)
        route = snapshot.routes.get(decision.route)
        self._candidates = () if route is None else route.candidates

    def of(self, choice: Choice) -> list[str]:
        """Quality, cost, seconds to the first token and in all, net, and the propensity."""
        return [
            self._quality(choice),
            f"{choice.cost:.{self._cost}f}",
            f"{choice.first_token_s:.{self._first}f}",
            f"{choice.total_s:.{self._total}f}",
            f"{choice.net:.{self._net}f}",
            f"{100 * choice.propensity:.1f} %" if choice.propensity else "–",
        ]

    def _quality(self, choice: Choice) -> str:
        """P(right) with its standard error, sqrt(q (1 - q) / n) of n observations."""
        if not 0 <= choice.candidate < len(self._candidates):
            return f"{choice.quality:.2f}"
        observations = max(self._candidates[choice.candidate].quality_n, 1.0)
        error = math.sqrt(choice.quality * (1 - choice.quality) / observations)
        return f"{choice.quality:.2f} ±{error:.2f}"


def _decimals(values: Iterable[float], most: int = 7) -> int:
    """So many decimals that the smallest of `values` shows two figures, within 1 and `most`."""
    smallest = min((abs(value) for value in values if value), default=1.0)
    return min(most, max(1, 1 - math.floor(math.log10(smallest))))
