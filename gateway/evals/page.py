"""A run's report as one self-contained HTML page: no script, and nothing from anywhere else. Pure.

Whatever models said is text here, whatever it looks like.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from math import log10
from types import MappingProxyType

from gateway.evals import ranking, wins
from gateway.evals.agreement import Agreement, Labelled, ScorerAgreement
from gateway.evals.compare import Compared, Disagreement, Report, Standing
from gateway.evals.runs import lacking
from gateway.experiments.page import STYLE

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 320, 56, 150, 16, 40

OWN = """
.front{fill:var(--good)}.beaten{fill:var(--soft)}.axis{stroke:var(--line)}
.bar{stroke:var(--soft);stroke-width:1.5}polyline.front{fill:none;stroke:var(--good);opacity:.6}
td:not(:first-child){white-space:nowrap}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.2rem 0;font-size:.85rem}
.case{border-top:1px solid var(--line);padding:.6rem 0}
.side{display:grid;grid-template-columns:repeat(auto-fit,minmax(240px,1fr));gap:1rem}
.ok{border-left:3px solid var(--good);padding-left:.6rem}
.wrong{border-left:3px solid var(--bad);padding-left:.6rem}
"""
LONGEST = 2000


def page(
    found: Report,
    people: Labelled | None = None,
    preferred: Mapping[str, ranking.Preferred] = MappingProxyType({}),
) -> str:
    """The page, with what people said of the answers where they have, and which are `preferred` by
    scorers where none is right or wrong."""
    run = found.run
    parts = [
        f"<h1>{escape(run.suite)}</h1>",
        f'<p class="soft">run {escape(run.id)} · {_instant(run.started)} · {run.cases} cases'
        f" · {_times(run.repetitions)} · right by {escape(run.right or '–')}"
        f" · {_dollars(run.cost_usd)} for answers, {_dollars(run.judge_usd)} for judging</p>",
        f'<p class="breach">⚠ not complete: {escape(lacking(run))}</p>' if lacking(run) else "",
        "<h2>Quality against cost</h2>",
        plot(found.standings),
        '<p class="soft">Green: no other target is at once as good and as cheap. Bars: 95 % '
        "intervals of the share of right answers.</p>",
        table(found.standings),
        "<h2>Two by two</h2>",
        *(f"<p{_kind(each)}>{escape(words(each))}</p>" for each in found.compared),
        '<p class="soft">On the cases that both have answered; p-values by Holm for all of them '
        "together.</p>"
        if found.compared
        else ""
        if preferred
        else '<p class="soft">There is only one target.</p>',
        *_preferred(preferred),
        *_people(people),
        "<h2>Where they disagree</h2>" if found.disagreements else "",
        *(_case(each) for each in found.disagreements),
        f'<p class="soft">suite {escape(run.suite_hash[:12])}, data {escape(run.data_hash[:12])},'
        f" configuration {escape(run.snapshot[:12])}</p>",
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(run.suite)} · {escape(run.id)}</title><style>{STYLE}{OWN}</style>\n"
        + "\n".join(part for part in parts if part)
        + "</html>\n"
    )


def words(pair: Compared) -> str:
    """Two targets compared, in words."""
    points, low, high = (100 * value for value in (pair.difference, pair.low, pair.high))
    one, other = pair.one, pair.other
    if points < 0:
        one, other, points, low, high = other, one, -points, -high, -low
    chance = f"p {'< 0.001' if pair.p < 0.001 else f'= {pair.p:.3f}'}, {pair.test}"
    between = f"95 %: {low:+.1f} to {high:+.1f}"
    if pair.sure:
        return f"{one} is better than {other} by {points:.1f} points ({between}; {chance})"
    return (
        f"{pair.one} and {pair.other} cannot be told apart on {pair.cases} cases:"
        f" {points:.1f} points for {one} ({between}; {chance})"
    )


def label_words(people: Labelled) -> list[tuple[str, bool]]:
    """What labels say, a line each, and whether it is a preference that is sure."""
    raters = ", ".join(f"{name} {count}" for name, count in people.raters.items())
    lines = [(f"{people.labels} labels of pairs: {raters}", False)]
    if people.unread:
        lines.append((f"{people.unread} lines of the labels cannot be read", False))
    lines += [(said, False) for said in ranking.words(people.ranking)]
    lines += [(wins.words(each), each.sure) for each in people.preferences]
    lines += [
        (
            f"{each.target} is right in {100 * each.right:.1f} % of {each.cases} cases"
            f" (95 %: {100 * each.low:.1f} to {100 * each.high:.1f})",
            False,
        )
        for each in people.marks
    ]
    lines += [(_agreement(each), False) for each in people.agreements]
    return lines + [(_scorer(each), False) for each in people.scorers]


def _agreement(each: Agreement) -> str:
    if each.same is None:
        return f"raters on {each.on}: nothing was labelled by two"
    said = f"raters on {each.on}: {100 * each.same:.1f} % the same of {each.rated}"
    if each.alpha is None:
        return f"{said}; all said one thing, so there is no alpha"
    return f"{said}; alpha {each.alpha:.2f} (95 %: {each.low:.2f} to {each.high:.2f})"


def _scorer(each: ScorerAgreement) -> str:
    who = "the judge" if each.judge else "the scorer"
    said = f"{who} {each.scorer} with people on {each.on}: {100 * each.same:.1f} % the same"
    beyond = "" if each.kappa is None else f", kappa {each.kappa:.2f}"
    return f"{said} of {each.cases}{beyond}"


def _preferred(preferred: Mapping[str, ranking.Preferred]) -> list[str]:
    lines = [
        (f"by {scorer}: {said}", sure)
        for scorer, each in preferred.items()
        for said, sure in preferred_words(each)
    ]
    return [f"<p{' class=yes' if sure else ''}>{escape(said)}</p>" for said, sure in lines]


def preferred_words(each: ranking.Preferred) -> list[tuple[str, bool]]:
    """The order and the pairs, a line each, and whether it is a preference that is sure."""
    order = [(said, False) for said in ranking.words(each.ranking)]
    return order + [(wins.words(pair), pair.sure) for pair in each.pairs]


def _people(people: Labelled | None) -> list[str]:
    if people is None:
        return []
    lines = [
        f"<p{' class=yes' if sure else ''}>{escape(said)}</p>" for said, sure in label_words(people)
    ]
    note = (
        "A case counts once, by most of its raters. Alpha (Krippendorff) and kappa (Cohen): 1 is"
        " always the same, 0 as often as by chance."
    )
    return ["<h2>By people</h2>", *lines, f'<p class="soft">{note}</p>']


def table(standings: Sequence[Standing]) -> str:
    """Each target's figures; they are all that the plot shows, and more."""
    head = "".join(
        f"<th>{name}</th>"
        for name in (
            *("target", "right", "95 % between", "cases", "errors", "$ a thousand"),
            *("first s p50", "p95", "whole s p50", "p95"),
        )
    )
    rows = "".join(
        f"<tr><td>{'● ' if each.on_front else ''}{escape(each.target)}</td>"
        f"<td>{_share(each)}</td>"
        f"<td>{_between(each)}</td>"
        f"<td>{each.cases}</td><td>{each.errors}</td><td>{1000 * each.cost_usd:.5f}</td>"
        + "".join(
            f"<td>{_seconds(value)}</td>"
            for value in (each.first_p50, each.first_p95, each.whole_p50, each.whole_p95)
        )
        + "</tr>"
        for each in standings
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def plot(standings: Sequence[Standing]) -> str:
    """Share of right answers over dollars a thousand answers, the latter as powers of ten."""
    if not standings:
        return ""
    paid = [each.cost_usd for each in standings if each.cost_usd > 0]
    least, most = (min(paid), max(paid)) if paid else (1e-6, 1e-5)
    left, right = log10(least) - 0.15, log10(most) + 0.15
    low = max(0.0, min(each.low for each in standings) - 0.03)
    high = min(1.0, max(each.high for each in standings) + 0.02)

    def x(dollars: float) -> float:
        place = (log10(max(dollars, least)) - left) / max(right - left, 1e-9)
        return LEFT + place * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return TOP + (high - share) / max(high - low, 1e-9) * (HEIGHT - TOP - BOTTOM)

    marks = []
    for step in range(5):
        share = low + (high - low) * step / 4
        marks.append(
            f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(share):.1f}"'
            f' y2="{y(share):.1f}"/><text x="{LEFT - 8}" y="{y(share) + 4:.1f}"'
            f' text-anchor="end">{100 * share:.0f} %</text>'
        )
    for dollars in dict.fromkeys((least, (least * most) ** 0.5, most)):
        marks.append(
            f'<text x="{x(dollars):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">'
            f"${1000 * dollars:.3g}</text>"
        )
    front = sorted((each for each in standings if each.on_front), key=lambda each: each.cost_usd)
    line = " ".join(f"{x(each.cost_usd):.1f},{y(each.quality):.1f}" for each in front)
    dots = "".join(
        f'<line class="bar" x1="{x(each.cost_usd):.1f}" x2="{x(each.cost_usd):.1f}"'
        f' y1="{y(each.low):.1f}" y2="{y(each.high):.1f}"/>'
        f'<circle class="{"front" if each.on_front else "beaten"}" r="6"'
        f' cx="{x(each.cost_usd):.1f}" cy="{y(each.quality):.1f}"/>'
        f'<text x="{x(each.cost_usd) + 10:.1f}" y="{y(each.quality) + 4:.1f}">'
        f"{escape(each.target)}</text>"
        for each in standings
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Share of right answers over'
        f' dollars a thousand answers; the table below has the figures">{"".join(marks)}'
        f'<polyline class="front" points="{line}"/>{dots}'
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">'
        "dollars a thousand answers</text></svg>"
    )


def _case(each: Disagreement) -> str:
    sides = "".join(
        f'<div class="{"ok" if each.right[name] else "wrong"}"><strong>{escape(name)}</strong>'
        f" {'✓' if each.right[name] else '✗'}<pre>{_text(said)}</pre></div>"
        for name, said in each.said.items()
    )
    return (
        f'<div class="case"><p class="soft">case {escape(each.case)}</p>'
        f"<pre>{_text(each.input)}</pre>"
        f'<p class="soft">expected</p><pre>{_text(each.expected)}</pre>'
        f'<div class="side">{sides}</div></div>'
    )


def _text(text: str) -> str:
    return escape(text if len(text) <= LONGEST else text[:LONGEST] + " …")


def _kind(pair: Compared) -> str:
    return ' class="yes"' if pair.sure else ""


def _times(repetitions: int) -> str:
    return "once each" if repetitions == 1 else f"{repetitions} times each"


def _share(each: Standing) -> str:
    return f"{100 * each.quality:.1f} %" if each.cases else "–"


def _between(each: Standing) -> str:
    return f"{100 * each.low:.1f} and {100 * each.high:.1f}" if each.cases else "–"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _dollars(value: float) -> str:
    return f"${value:.4f}"


def _instant(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
