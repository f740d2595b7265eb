"""Findings as one self-contained HTML page: no script, and nothing from anywhere else. Pure."""

from datetime import UTC, datetime
from html import escape

from gateway.experiments.answers import Look, Versus
from gateway.experiments.findings import ArmSeen, Findings, Guard, Times
from gateway.experiments.slots import Ratio

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 260, 56, 36, 12

STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#667;--line:#d5d9e0;--band:#4c78a833;
--mean:#2f5d8c;--bad:#b3261e;--good:#1a7f37;--paper:#fff}
@media(prefers-color-scheme:dark){:root{--ink:#e6e6e6;--soft:#9aa;--line:#3a3f46;--band:#7aa7d855;
--mean:#9cc3ee;--bad:#ff8a80;--good:#7ee787;--paper:#15181c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:820px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.4rem;margin-bottom:0}h2{font-size:1.05rem;margin-top:2rem}
p.soft,td.soft,caption{color:var(--soft)}p.said{font-size:1.15rem}
.yes{color:var(--good)}.no,.breach{color:var(--bad)}
table{border-collapse:collapse;width:100%}
th,td{text-align:right;padding:.25rem .5rem;border-bottom:1px solid var(--line)}
th:first-child,td:first-child{text-align:left}svg{width:100%;height:auto}
svg text{fill:var(--soft);font:12px system-ui,sans-serif}
"""


def page(found: Findings, null: float | None) -> str:
    """The page; `null` is the difference that the question is about, where there is one."""
    kind = {True: "yes", False: "no", None: "open"}[found.answer]
    parts = [
        f"<h1>Experiment {escape(found.experiment)}</h1>",
        f'<p class="soft">route {escape(found.route)} · {escape(found.state)} · '
        f"{_instant(found.since)} to {_instant(found.until)}</p>",
        f"<p>{escape(found.asked)}</p>" if found.asked else "",
        f'<p class="said {kind}"><strong>{escape(found.said)}</strong></p>',
        f'<p class="soft">{escape(found.why)}</p>' if found.why else "",
        *(f'<p class="breach">⚠ {escape(each)}</p>' for each in found.warnings),
        "<h2>The difference, and its interval, as outcomes came</h2>" if found.course else "",
        plot(found.course, null),
        '<p class="soft">The interval holds at every moment at once, so it may be read, and the '
        "experiment ended, whenever one likes. Each user, conversation or slot counts once.</p>",
        *(f"<p>{escape(each)}</p>" for each in map(_versus, found.versus)),
        _arms(found.arms),
        _ratio("first token", found.first_token_ratio),
        _ratio("whole answer", found.whole_ratio),
        _guards(found.guards),
        f"<h2>Money</h2><p>So far {_dollars(found.cost)}.{_saved(found.saved_a_month)}</p>",
        _shares(found),
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{escape(found.experiment)}</title><style>{STYLE}</style>\n"
        + "\n".join(part for part in parts if part)
        + "</html>\n"
    )


def plot(course: tuple[Look, ...], null: float | None) -> str:
    """The estimate and its interval over the number of units, as SVG."""
    if not course:
        return ""
    shown = [look for look in course if look.high - look.low < 1.0] or list(course)
    low = min([each.low for each in shown] + ([null] if null is not None else [0.0]))
    high = max([each.high for each in shown] + ([null] if null is not None else [0.0]))
    most, spread = course[-1].units, max(high - low, 1e-6)

    def x(units: float) -> float:
        return LEFT + (WIDTH - LEFT - 8) * units / most

    def y(value: float) -> float:
        inside = HEIGHT - BOTTOM - TOP
        return TOP + inside * (1.0 - (min(max(value, low), high) - low) / spread)

    def points(values: list[tuple[int, float]]) -> str:
        return " ".join(f"{x(n):.1f},{y(value):.1f}" for n, value in values)

    band = [(each.units, each.high) for each in course]
    band += [(each.units, each.low) for each in reversed(course)]
    mean = [(each.units, each.estimate) for each in course]
    lines = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="difference over units">',
        f'<polygon points="{points(band)}" fill="var(--band)"/>',
        f'<polyline points="{points(mean)}" fill="none" stroke="var(--mean)" stroke-width="2"/>',
        _level(y(0.0), "var(--line)", "") if low <= 0.0 <= high else "",
        _level(y(null), "var(--bad)", "4 4") if null is not None else "",
    ]
    for step in range(5):
        value = low + spread * step / 4
        lines.append(f'<text x="4" y="{y(value) + 4:.1f}">{100 * value:+.1f}</text>')
        units = most * step // 4
        lines.append(
            f'<text x="{x(units):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{units:,}</text>'
        )
    lines.append("</svg>")
    said = "points of difference over units with an outcome"
    if null is not None:
        said += f"; dashed: {100 * null:+.3g}, which the question is about"
    return "".join(lines) + f'<p class="soft">{said}</p>'


def _level(at: float, colour: str, dashes: str) -> str:
    return (
        f'<line x1="{LEFT}" x2="{WIDTH - 8}" y1="{at:.1f}" y2="{at:.1f}" stroke="{colour}" '
        f'stroke-dasharray="{dashes}"/>'
    )


def _versus(each: Versus) -> str:
    points, low, high = (100 * value for value in (each.estimate, each.low, each.high))
    return f"{each.arm} less {each.than}: {points:+.1f} points, between {low:+.1f} and {high:+.1f}"


def _arms(arms: tuple[ArmSeen, ...]) -> str:
    rows = [
        f"<tr><td>{escape(each.arm)} <span class=soft>{escape(each.target)}</span></td>"
        f"<td>{100 * each.share:.0f} %</td><td>{each.requests:,}</td><td>{each.units:,}</td>"
        f"<td>{each.scored:,}</td><td>{_percent(each.mean)}</td><td>{_dollars(each.per_request)}"
        f"</td><td>{_percent(each.failed)}</td><td>{_times(each.first_token)}</td>"
        f"<td>{_times(each.whole)}</td></tr>"
        for each in arms
    ]
    return (
        "<h2>Arms</h2><table><tr><th>arm<th>share<th>requests<th>units<th>outcomes<th>mean"
        "<th>a request<th>failed<th>first token<th>whole</tr>" + "".join(rows) + "</table>"
        '<p class="soft">Times: median, and 95 of 100 within.</p>'
    )


def _guards(guards: tuple[Guard, ...]) -> str:
    if not guards:
        return ""
    rows = []
    for each in guards:

        def shown(value: float | None, what: str = each.what) -> str:
            return _percent(value) if what == "errors" else _seconds(value)

        state = '<td class="breach">breached' if each.breached else "<td>kept"
        if each.seen is None:
            state = "<td>nothing seen yet"
        rows.append(
            f"<tr><td>{escape(each.arm)}</td><td>{escape(each.what)}</td>"
            f"<td>{shown(each.seen)}</td><td>{shown(each.limit)}</td>{state}</td></tr>"
        )
    head = "<tr><th>arm<th>guard<th>seen<th>limit<th></tr>"
    return f"<h2>Guards</h2><table>{head}{''.join(rows)}</table>"


def _ratio(what: str, ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    return (
        f"<p>The {what} takes {ratio.mean:.2f} times as long, between {ratio.low:.2f} and "
        f"{ratio.high:.2f}, by {ratio.slots} slots of time.</p>"
    )


def _shares(found: Findings) -> str:
    if found.ratio_p is None:
        return '<p class="soft">The shares move, so they are not tested.</p>'
    return f'<p class="soft">Shares as declared: p = {found.ratio_p:.3g}.</p>'


def _saved(saved: float | None) -> str:
    if saved is None:
        return ""
    what = "saved" if saved >= 0 else "spent more"
    return f" If all of the route went to the arm: {_dollars(abs(saved))} {what} a month."


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _dollars(amount: float | None) -> str:
    if amount is None:
        return "–"
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.3g}"


def _seconds(seconds: float | None) -> str:
    return "–" if seconds is None else f"{seconds:.3g} s"


def _times(times: Times) -> str:
    return f"{_seconds(times.p50)}, {_seconds(times.p95)}"


def _instant(at: float | None) -> str:
    return "–" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"
