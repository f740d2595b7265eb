"""A decision as a table that a person reads at 3 a.m., and as JSON."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from gateway.policy.words import explained, known_qualities, number, verdicts
from gateway.types.decisions import Choice, Decision
from gateway.types.requests import Recognition
from gateway.types.snapshot import Snapshot

CHOSEN = "bold green"
OVER_LIMIT = "yellow"
IMPOSSIBLE = "red"
ASIDE = "dim"
WIDE = 120
"""Columns of the terminal from which on the verdicts stand beside the figures."""
FIGURES = ("quality", "cost $", "first s", "whole s", "net $", "chance")

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
    decision: Decision,
    recognition: Recognition | None,
    snapshot: Snapshot,
    learned: Mapping[str, str] | None = None,
) -> RenderableType:
    """The route and why; what was chosen; then every candidate with its terms and verdict.

    `learned` is the version of learned quality that it went by, or why it did not.

    Green is chosen, yellow is over a limit of the policy, red is impossible. Where the terminal is
    too narrow for them beside the figures, the verdicts stand below the table.
    """
    return Group(
        _route(decision, recognition, learned),
        _choice(decision, snapshot),
        _Candidates(_lines(decision, snapshot)),
    )


def to_json(
    decision: Decision, recognition: Recognition | None, snapshot: Snapshot
) -> dict[str, Any]:
    """The same, ready for JSON: `recognition` (or null), and `decision` with every verdict."""
    return {
        "recognition": None if recognition is None else msgspec.to_builtins(recognition),
        "decision": msgspec.to_builtins(explained(decision, snapshot)),
        "qualities": known_qualities(decision.route, snapshot),
    }


def _route(
    decision: Decision, recognition: Recognition | None, learned: Mapping[str, str] | None
) -> Text:
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
    if learned is not None and "version" in learned:
        line.append(f"\nlearned {learned['version']}")
    elif learned is not None:
        line.append(f"\nlearned not gone by: {learned['why_not']}", OVER_LIMIT)
    return line


def _choice(decision: Decision, snapshot: Snapshot) -> Text:
    if not decision.ranked:
        by = {out.by for out in decision.ruled_out}
        why = (
            "refused: no candidate is within the limits of the policy"
            if "limit" in by
            else "impossible: no candidate is there now"
            if "away" in by
            else "impossible: hard facts rule every candidate out"
        )
        return Text.assemble("choice  ", (f"none; {why}\n", f"bold {IMPOSSIBLE}"))
    best = decision.ranked[0]
    line = Text.assemble("choice  ", (best.target, CHOSEN), f" at {best.replica}")
    line.append(f": {verdicts(decision, snapshot)[0]}\n", "" if decision.fits else OVER_LIMIT)
    for taken in decision.steps:
        line.append(f"step    {taken.step}  {taken.target}: {taken.came_to}\n")
    return line


class _Line(NamedTuple):
    """One candidate (or one of its replicas): a mark, its name, its figures, verdict, style."""

    mark: str
    name: str
    figures: list[str]
    verdict: str
    style: str


class _Candidates:
    """The table, with the verdicts in a column of it or, where that is too narrow, below it."""

    def __init__(self, lines: list[_Line]) -> None:
        self._lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        beside = options.max_width >= WIDE
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        table.add_column("", no_wrap=True)
        table.add_column("target", overflow="fold")
        for heading in FIGURES:
            table.add_column(heading, justify="right", no_wrap=True)
        if beside:
            table.add_column("verdict", overflow="fold", ratio=1)
        room = options.max_width if beside else self._room(options.max_width)
        for line in self._lines:
            verdict = [Text(line.verdict)] if beside else []
            name = Text("\n".join(_folded(part, room) for part in line.name.splitlines()))
            table.add_row(line.mark, name, *line.figures, *verdict, style=line.style)
        yield table
        if not beside:
            yield Text()
            for line in self._lines:
                yield Text(f"{line.mark} {line.name.split()[0]}: {line.verdict}", style=line.style)

    def _room(self, width: int) -> int:
        """Columns that the figures leave for the names, without the mark and what is between."""
        cells = [FIGURES, *(line.figures for line in self._lines)]
        return width - 3 - sum(2 + max(map(len, column)) for column in zip(*cells, strict=True))


def _folded(name: str, width: int) -> str:
    """A target's name on lines of that width, broken before its parts where there is room."""
    lines = [""]
    for part in _PARTS.split(name):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


_PARTS = re.compile(r"(?<=[^/:]/)(?=[^/])|(?=[+@])")
"""Where a name may be broken: after its backend, before its adapter and before its version."""


def _lines(decision: Decision, snapshot: Snapshot) -> list[_Line]:
    """Every candidate: the ranked ones, then those over a limit, then the impossible."""
    ranked = decision.ranked
    over = {out.target: out for out in decision.ruled_out if out.by == "limit"}
    shown = [*ranked, *(out.choice for out in over.values() if out.choice is not None)]
    figures = _Figures(shown, decision, snapshot)
    replicas = len({choice.target for choice in ranked}) < len(ranked)
    lines = []
    for place, (choice, verdict) in enumerate(
        zip(ranked, verdicts(decision, snapshot), strict=True), 1
    ):
        out = over.pop(choice.target, None)
        said = verdict if out is None else f"{verdict}; {out.reason}"
        name = f"{choice.target}\n  {choice.replica}" if replicas else choice.target
        style = (CHOSEN if place == 1 else "") if decision.fits else OVER_LIMIT
        lines.append(_Line(str(place), name, figures.of(choice), said, style))
    for out in over.values():
        terms = figures.blank() if out.choice is None else figures.of(out.choice)
        lines.append(_Line("–", out.target, terms, out.reason, OVER_LIMIT))
    lines += [
        _Line("✗", out.target, figures.blank(), out.reason, IMPOSSIBLE)
        for out in decision.ruled_out
        if out.by != "limit"
    ]
    return lines


class _Figures:
    """Formats the terms of choices so that the decimals of each column stand below each other."""

    def __init__(self, choices: Sequence[Choice], decision: Decision, snapshot: Snapshot) -> None:
        self._cost = _decimals(choice.cost for choice in choices)
        self._net = max(self._cost, _decimals(choice.net for choice in choices))
        self._first = _decimals((choice.first_token_s for choice in choices), most=3)
        self._total = _decimals((choice.total_s for choice in choices), most=3)
        route = snapshot.routes.get(decision.route)
        self._candidates = () if route is None else route.candidates
        self._route = decision.route
        self._known = snapshot.qualities
        policy = snapshot.policies.get(decision.policy)
        self._learned = policy is not None and policy.learned

    def blank(self) -> list[str]:
        """The figures of what was never looked at."""
        return [""] * len(FIGURES)

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
        """P(right) with its standard error, sqrt(q (1 - q) / n) of n observations; the n of what
        was seen."""
        known = self._known.get((self._route, choice.target))
        if self._learned and choice.quality != self._plain(choice):
            return f"{choice.quality:.2f} learned"
        if known is not None:
            error = math.sqrt(known.mean * (1 - known.mean) / max(known.n, 1.0))
            return f"{known.mean:.2f} ±{error:.2f} n {known.n:.0f}"
        if not 0 <= choice.candidate < len(self._candidates):
            return f"{choice.quality:.2f}"
        observations = max(self._candidates[choice.candidate].quality_n, 1.0)
        error = math.sqrt(choice.quality * (1 - choice.quality) / observations)
        return f"{choice.quality:.2f} ±{error:.2f}"

    def _plain(self, choice: Choice) -> float:
        """Its quality on the route as a whole."""
        known = self._known.get((self._route, choice.target))
        if known is not None:
            return known.mean
        if 0 <= choice.candidate < len(self._candidates):
            return self._candidates[choice.candidate].quality
        return choice.quality


def _decimals(values: Iterable[float], most: int = 7) -> int:
    """So many decimals that the smallest of `values` shows two figures, within 1 and `most`."""
    smallest = min((abs(value) for value in values if value), default=1.0)
    return min(most, max(1, 1 - math.floor(math.log10(smallest))))
