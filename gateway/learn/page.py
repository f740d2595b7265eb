"""Accuracy against cost as one self-contained HTML page: no script, nothing from afar. Pure."""

from collections.abc import Mapping
from html import escape

import msgspec

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 420, 60, 46, 14
_COLOURS = ("#2f5d8c", "#b3261e", "#1a7f37", "#8a5a00", "#7b3fa0", "#00707c", "#667788")


class Curves(msgspec.Struct, frozen=True):
    """`x` is dollars an answer, or a share of strong calls in 0..1 if not `costs`; for each router
    what it gets at each; `models` are the single models' places."""

    x: tuple[float, ...]
    routers: Mapping[str, tuple[float, ...]]
    models: Mapping[str, tuple[float, float]]
    costs: bool


def page(pools: Mapping[str, Curves]) -> str:
    """The page, with one plot a pool."""
    parts = [f"<h2>{escape(name)}</h2>{_plot(curves)}" for name, curves in pools.items()]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Routing</title><style>'
        "body{font:15px/1.5 system-ui,sans-serif;max-width:820px;margin:2rem auto;padding:0 1rem;"
        "color:#1b1f24;background:#fff}svg{width:100%;height:auto}text{font-size:12px}"
        "</style>\n<h1>What a router gets for its money</h1>"
        "<p>Means over all draws, on prompts that nothing was learned from. Squares are the models"
        " by themselves.</p>\n" + "\n".join(parts) + "</html>\n"
    )


def _plot(curves: Curves) -> str:
    spots = list(curves.models.values())
    xs = [*curves.x, *(x for x, _ in spots)]
    ys = [y for each in curves.routers.values() for y in each] + [y for _, y in spots]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)
    across, up = max(right - left, 1e-12), max(high - low, 1e-12)

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (WIDTH - LEFT - 20) * (x - left) / across,
            TOP + (HEIGHT - TOP - BOTTOM) * (1 - (y - low) / up),
        )

    base = HEIGHT - BOTTOM
    axis = "dollars an answer" if curves.costs else "share of answers from the strong model"
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Quality over {axis}">',
        f'<path d="M{LEFT} {TOP}V{base}H{WIDTH - 20}" fill="none" stroke="#99a"/>',
        f'<text x="{(LEFT + WIDTH) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{axis}</text>',
    ]
    for part in (0.0, 0.5, 1.0):
        x, y = left + part * across, low + part * up
        parts.append(
            f'<text x="{at(x, y)[0]:.1f}" y="{base + 16}" text-anchor="middle">{x:.3g}</text>'
            f'<text x="{LEFT - 6}" y="{at(x, y)[1]:.1f}" text-anchor="end">{y:.3g}</text>'
        )
    for place, (name, values) in enumerate(curves.routers.items()):
        colour = _COLOURS[place % len(_COLOURS)]
        line = " ".join("{:.1f},{:.1f}".format(*at(*p)) for p in zip(curves.x, values, strict=True))
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>'
            f'<text x="{WIDTH - 130}" y="{base - 12 - 16 * place}" fill="{colour}">'
            f"{escape(name)}</text>"
        )
    for name, spot in curves.models.items():
        x, y = at(*spot)
        end = "end" if x > WIDTH / 2 else "start"
        parts.append(
            f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
            f'<text x="{x:.1f}" y="{y - 8:.1f}" text-anchor="{end}">{escape(name)}</text>'
        )
    return "".join(parts) + "</svg>"
