"""Learning over all routes, and each by itself, where the truth is known.

    python -m benchmarks.pooled [--write]

Three routes ask prompts of two kinds, and two targets answer them: how often each is right on which
kind is drawn from. Told is by how much P(right) of new prompts is off that, for the model that is
learned over all routes, the one that a route's own answers teach, and its shares of right answers.
"""

import argparse
import random
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from benchmarks import quality
from gateway.classify.softmax import Floats
from gateway.learn.features import Features
from gateway.learn.kinds import WORDS
from gateway.learn.model import Matrix, Model
from gateway.learn.pooled import over_own, train_together
from gateway.learn.rows import FEWEST, Answer, rows_of
from gateway.learn.training import train

TARGETS = ("cheap", "dear")
COST = {"cheap": 0.0005, "dear": 0.002}
VALUE = 0.01
KINDS = ("add up the figures of invoice", "prove the theorem about lattices")
DEAR, CHEAP = 0.8, 0.6
LIKE, UNLIKE, FLAT = (0.3, -0.3), (-0.3, 0.3), (0.0, 0.0)
"""By how much the cheap target is better than CHEAP on the first kind of prompt, and the second."""
SIZES = (24, 90, 240)
WORLDS: Mapping[str, tuple[tuple[float, float], ...]] = {
    "all routes alike": (LIKE, LIKE, LIKE),
    "all routes unlike, one without any structure": (UNLIKE, LIKE, FLAT),
    "no structure anywhere": (FLAT, FLAT, FLAT),
}
DRAWS, NEW = 24, 200

Off = tuple[float, float, float, float]
"""Mean squares, of what is learned over all, of its own, of the shares, and of what is used."""


def chances(beyond: tuple[float, float]) -> Matrix:
    """P(right) [kinds, targets]."""
    return np.array([[CHEAP + each, DEAR] for each in beyond])


def asked(route: int, count: int, seed: int) -> list[str]:
    """So many prompts of a route, of both kinds in turn."""
    draw = random.Random(f"{route} {seed}")
    return [f"{KINDS[at % 2]} {draw.randint(0, 999)} of {route}, {at}" for at in range(count)]


def answered(texts: Sequence[str], right: Matrix, draw: random.Random) -> list[Answer]:
    """What both targets made of each."""
    return [
        Answer(text, target, float(draw.random() < right[at % 2, of]), COST[target])
        for at, text in enumerate(texts)
        for of, target in enumerate(TARGETS)
    ]


def off(score: Callable[[Features], Floats], texts: Sequence[str], right: Matrix) -> float:
    """The mean square by which P(right) of new prompts is off the truth."""
    said = np.array([score(WORDS.of(text)) for text in texts])
    truth = right[np.arange(len(texts)) % 2]
    return float(((said - truth) ** 2).mean())


def one_draw(world: Sequence[tuple[float, float]], seed: int) -> list[Off]:
    """Of each route, in one draw of all answers."""
    draw = random.Random(seed)
    rows = {
        str(route): rows_of(
            answered(asked(route, SIZES[route], seed), chances(beyond), draw),
            TARGETS,
            WORDS,
            fewest=10,
        )
        for route, beyond in enumerate(world)
    }
    together = train_together(rows, dict.fromkeys(rows, VALUE))
    found = []
    for route, beyond in enumerate(world):
        part, right = rows[str(route)], chances(beyond)
        texts = asked(route, NEW, 10_000 + seed)
        by_all, own = together.trained[str(route)], train(part, VALUE)
        shares: Floats = part.right.mean(axis=0).astype(np.float32)
        better = SIZES[route] < FEWEST or over_own(part, own, part, by_all).gain_low > 0.0
        squares = [off(partial(_scored, each.model), texts, right) for each in (by_all, own)]
        known = off(lambda _, of=shares: of, texts, right)  # type: ignore[misc]
        found.append((squares[0], squares[1], known, squares[0] if better else squares[1]))
    return found


def _scored(model: Model, read: Features) -> Floats:
    return model.score(*read)


def measured(draws: int, say: Callable[[str], None]) -> str:
    """The table, as Markdown."""
    lines = [
        "By `python -m benchmarks.pooled --write`: three routes with so many answered prompts of "
        "two kinds and two targets. The mean square by which P(right) of new prompts is off the "
        f"truth, x 10⁻⁴, means of {draws} seeded draws: of what is learned over all routes / of "
        "its own answers / of its shares of right answers; and, with its standard error, of the "
        f"one that the route then goes by: over all where it knows less than {FEWEST} answers of "
        "each target, or where that is surely better on rows held out.",
        "",
        "| | " + " | ".join(f"{size} prompts" for size in SIZES) + " |",
        "|---" * (len(SIZES) + 1) + "|",
    ]
    for name, world in WORLDS.items():
        found = 1e4 * np.array([one_draw(world, seed) for seed in range(draws)])
        mean, error = found.mean(axis=0), found.std(axis=0, ddof=1) / np.sqrt(draws)
        cells = [
            " / ".join(f"{mean[n, of]:.0f}" for of in range(3))
            + f"; **{mean[n, 3]:.0f}** (± {error[n, 3]:.0f})"
            for n in range(len(SIZES))
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        say(lines[-1])
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--write", action="store_true", help="write it into docs/quality.md")
    options = parser.parse_args()
    table = measured(options.draws, lambda line: print(line, file=sys.stderr, flush=True))
    print(table)
    if options.write:
        quality.write("pooled", table)


if __name__ == "__main__":
    main()
