"""`switchboard eval report` and `eval diff`: what runs say, and how sure that is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console

from gateway.cli.opening import ConfigOption, JsonOption, fail
from gateway.cli.records import ASIDE, Cell, Lines
from gateway.errors import SwitchboardError

if TYPE_CHECKING:
    from gateway.evals.agreement import Labelled
    from gateway.evals.compare import Changed, Report
    from gateway.evals.ranking import Preferred
    from gateway.evals.runs import Result, Run

HEAD = (
    *("", "target", "right", "95 % between", "cases", "usd each"),
    *("first p50", "p95", "whole p50", "p95"),
)
SHOWN = 5
"""Cases that the terminal shows; the page and the JSON have all."""

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="SUITE for its latest, SUITE/RUN, or a directory.")
]


def register(evals: typer.Typer) -> None:
    """Adds both to `eval`."""

    @evals.command("report")
    def report(
        run: RunArgument,
        html: Annotated[
            Path | None, typer.Option(metavar="FILE", help="Write a page of it, by itself.")
        ] = None,
        config: ConfigOption = Path(),
        as_json: JsonOption = False,
    ) -> None:
        """Show each target's quality, cost and speed, and which is surely better.

        Where people have labelled its answers: what they prefer, how far they agree, and how far
        scorers agree with them. ● marks those that no other is at once as good and as cheap as.
        """
        from gateway.evals import compare, labels
        from gateway.evals.agreement import labelled
        from gateway.evals.page import page

        folder, told, results = read_run(run, config)
        found = compare.report(told, results)
        try:
            people = labelled(told, results, *labels.read(folder / labels.FILE))
        except SwitchboardError as error:
            fail(str(error))
        preferred = _preferences(told, results)
        if html is not None:
            html.write_text(page(found, people, preferred), "utf-8")
        if as_json:
            both = {
                **msgspec.to_builtins(found),
                "preferences": {
                    scorer: msgspec.to_builtins(each.pairs) for scorer, each in preferred.items()
                },
                "rankings": {
                    scorer: msgspec.to_builtins(each.ranking) for scorer, each in preferred.items()
                },
                "labels": msgspec.to_builtins(people),
            }
            print(msgspec.json.encode(both).decode())
        else:
            _print(found, people, preferred, html)

    @evals.command("diff")
    def diff(
        before: Annotated[str, typer.Argument(metavar="BEFORE", help="A run.")],
        after: Annotated[str, typer.Argument(metavar="AFTER", help="A later one.")],
        config: ConfigOption = Path(),
        markdown: Annotated[
            bool, typer.Option("--markdown", help="Print Markdown, for a review.")
        ] = False,
        as_json: JsonOption = False,
    ) -> None:
        """Show what has become worse or better between two runs of a suite.

        Exits with 2 where a target is surely worse.
        """
        from gateway.evals import compare

        old, new = read_run(before, config)[1:], read_run(after, config)[1:]
        if old[0].suite != new[0].suite:
            fail(f"these are runs of two suites: {old[0].suite} and {new[0].suite}")
        found = compare.changed(old[1], new[1])
        if not found:
            fail("the two runs have no target and case in common")
        if as_json:
            told = [{**msgspec.to_builtins(each), "worse": each.worse} for each in found]
            print(msgspec.json.encode({"targets": told}).decode())
        elif markdown:
            print(_markdown(found))
        else:
            _print_changes(found)
        if any(each.worse for each in found):
            raise typer.Exit(2)


def read_run(run: str, config: Path) -> "tuple[Path, Run, list[Result]]":
    """A run's directory and what it found; what is wrong with it in red, with exit code 1."""
    from gateway.evals.runs import HOME, found, read

    try:
        folder = found(config / HOME, run)
        return folder, *read(folder)
    except SwitchboardError as error:
        fail(str(error))


# ---------------------------------------------------------------- one run


def _preferences(run: "Run", results: "list[Result]") -> "dict[str, Preferred]":
    """By scorer, where nothing is right or wrong and only one can be better than another."""
    from gateway.evals.ranking import by_score

    return {name: by_score(results, name) for name in run.scorers} if run.right is None else {}


def _print(
    found: "Report",
    people: "Labelled | None",
    preferred: "dict[str, Preferred]",
    html: Path | None,
) -> None:
    from gateway.evals.page import label_words, preferred_words, words
    from gateway.evals.runs import lacking, named

    out = Console(soft_wrap=True, highlight=False)
    rows = [
        [
            Cell("●" if each.on_front else " ", "green"),
            Cell(each.target),
            Cell(f"{100 * each.quality:.1f} %" if each.cases else "–", "bold", figure=True),
            Cell(
                f"{100 * each.low:.1f} and {100 * each.high:.1f}" if each.cases else "–",
                figure=True,
            ),
            Cell(str(each.cases), figure=True),
            Cell(f"{each.cost_usd:.7f}", figure=True),
            *(
                Cell("–" if value is None else f"{value:.3f}", figure=True)
                for value in (each.first_p50, each.first_p95, each.whole_p50, each.whole_p95)
            ),
        ]
        for each in found.standings
    ]
    Lines(out, HEAD).print(rows)
    if why := lacking(found.run):
        out.print(f"not complete: {why}", style="yellow", markup=False)
    for pair in found.compared:
        out.print(words(pair), style="green" if pair.sure else ASIDE)
    for scorer, each in preferred.items():
        for said, sure in preferred_words(each):
            out.print(f"by {scorer}: {said}", style="green" if sure else ASIDE, markup=False)
    if people is not None:
        out.print("\nby people", style="bold")
        for said, sure in label_words(people):
            out.print(said, style="green" if sure else ASIDE, markup=False)
    for case in found.disagreements[:SHOWN]:
        out.print(f"\ncase {case.case}: {_short(case.input)}", style="bold")
        out.print(f"  expected  {_short(case.expected)}", style=ASIDE, markup=False)
        for target, said in case.said.items():
            colour = "green" if case.right[target] else "red"
            out.print(f"  {target}  {_short(said)}", style=colour, markup=False)
    out.print(f"\n{named(found.run)}" + (f"; the page is {html}" if html else ""), style=ASIDE)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 100 else line[:99] + "…"


# ---------------------------------------------------------------- two runs


def _said(change: "Changed") -> str:
    pair = change.compared
    verdict = "worse" if change.worse else "better" if pair.sure else "not surely different"
    points, low, high = (100 * value for value in (pair.difference, pair.low, pair.high))
    return (
        f"{change.target}: {verdict}, {points:+.1f} points (95 %: {low:+.1f} to {high:+.1f};"
        f" p = {pair.p:.3g}); {len(change.regressions)} cases worse, {change.improvements} better,"
        f" of {pair.cases}"
    )


def _print_changes(found: "tuple[Changed, ...]") -> None:
    out = Console(soft_wrap=True, highlight=False)
    for change in found:
        style = "red" if change.worse else "green" if change.compared.sure else ""
        out.print(_said(change), style=style, markup=False)
        for case in change.regressions[:SHOWN]:
            out.print(f"  case {case.case}: {_short(case.input)}", markup=False)
            for when, said in case.said.items():
                out.print(f"    {when:6}  {_short(said)}", style=ASIDE, markup=False)


def _markdown(found: "tuple[Changed, ...]") -> str:
    lines: list[Any] = ["| target | points | 95 % between | p | worse | better | of |"]
    lines.append("|---|--:|--:|--:|--:|--:|--:|")
    for change in found:
        pair = change.compared
        mark = "❌ " if change.worse else "✅ " if pair.sure else ""
        lines.append(
            f"| {mark}{change.target} | {100 * pair.difference:+.1f} |"
            f" {100 * pair.low:+.1f} and {100 * pair.high:+.1f} | {pair.p:.3g} |"
            f" {len(change.regressions)} | {change.improvements} | {pair.cases} |"
        )
    return "\n".join(lines)
