"""The demo's tables, and the arithmetic in them. Pure."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from demo.questions import Asked

WIDTH = 100
"""Columns that the tables fit in, where the terminal does not say how many it has."""


class Got(NamedTuple):
    """What came back: the answer, and what the gateway's row of the request says."""

    answer: str
    route: str
    target: str
    cost_usd: float
    ms: float
    escalated: bool = False


class Total(NamedTuple):
    """One way of sending everything: how many were right, dollars for all, mean milliseconds, and
    how many a cascade's first step could not answer."""

    right: int
    of: int
    cost_usd: float
    mean_ms: float
    escalated: int = 0


def is_right(asked: Asked, got: Got) -> bool:
    """True when the answer is exactly the right one, white space around it apart."""
    return got.answer.strip() == asked.right


def total(asked: Sequence[Asked], got: Sequence[Got]) -> Total:
    """The sum over one run. Raises ValueError when an answer is missing."""
    return Total(
        right=sum(is_right(question, one) for question, one in zip(asked, got, strict=True)),
        of=len(got),
        cost_usd=sum(one.cost_usd for one in got),
        mean_ms=fmean(one.ms for one in got),
        escalated=sum(one.escalated for one in got),
    )


def recognised(asked: Sequence[Asked], got: Sequence[Got]) -> int:
    """How many were taken for the kind of work that they are."""
    return sum(question.route == one.route for question, one in zip(asked, got, strict=True))


def results(asked: Sequence[Asked], got: Sequence[Got]) -> Table:
    """What became of each request; a route that was not meant is marked with `!`."""
    table = Table(box=None, header_style="bold", pad_edge=False, collapse_padding=True, expand=True)
    table.add_column("text", no_wrap=True, ratio=1)  # what the others leave
    table.add_column("route", no_wrap=True)
    table.add_column("target", no_wrap=True, style="cyan")
    table.add_column("answer", no_wrap=True, max_width=19)
    table.add_column("", no_wrap=True)
    table.add_column("usd/1k", justify="right", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    for question, one in zip(asked, got, strict=True):
        right = is_right(question, one)
        table.add_row(
            Text(question.text),
            Text(one.route if one.route == question.route else f"{one.route} !"),
            Text(one.target),
            Text(one.answer.strip().split("\n")[0]),
            Text("right", "green") if right else Text("wrong", "red"),
            f"{one.cost_usd * 1000:.4f}",
            f"{one.ms:.0f}",
        )
    return table


def totals(runs: Mapping[str, Total]) -> Table:
    """The ways side by side, each against the first."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("everything sent to")
    for name in ("right", "usd for 1,000", "× auto", "mean ms"):
        table.add_column(name, justify="right")
    first = next(iter(runs.values()))
    for name, one in runs.items():
        table.add_row(
            name,
            f"{one.right} of {one.of} ({one.right / one.of:.0%})",
            f"{one.cost_usd / one.of * 1000:.4f}",
            f"{one.cost_usd / first.cost_usd:.1f}" if first.cost_usd else "–",
            f"{one.mean_ms:.0f}",
        )
    return table


def shares(runs: Mapping[str, Total], whole: str) -> Table:
    """The ways side by side, each cost as a share of that of the one named `whole`."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("freight notes sent to")
    for name in ("right", "usd for 1,000", f"of {whole}'s", "escalated", "mean ms"):
        table.add_column(name, justify="right")
    for name, one in runs.items():
        table.add_row(
            name,
            f"{one.right} of {one.of} ({one.right / one.of:.0%})",
            f"{one.cost_usd / one.of * 1000:.4f}",
            f"{one.cost_usd / runs[whole].cost_usd:.1%}" if runs[whole].cost_usd else "–",
            f"{one.escalated / one.of:.0%}",
            f"{one.mean_ms:.0f}",
        )
    return table
