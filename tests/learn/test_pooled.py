"""Learning over all routes, where the truth is known: they share structure, or do not."""

import random

import numpy as np
import pytest

from gateway.classify.softmax import Floats
from gateway.learn.kinds import WORDS
from gateway.learn.model import Matrix, fit_each
from gateway.learn.pooled import Together, over_own, train_together
from gateway.learn.rows import Answer, Rows, rows_of
from gateway.learn.training import Trained, train

TARGETS = ("cheap", "dear")
VALUE = 0.01
COST = {"cheap": 0.0005, "dear": 0.002}
SAYS = ("add up the figures of invoice", "prove the theorem about lattices")
LIKE, UNLIKE = (0.3, -0.3), (-0.3, 0.3)
"""By how much the cheap one is better than its mean on the first kind of prompt, and the second."""
SIZES = {"small": 24, "middle": 90, "big": 240}


def truth(beyond: tuple[float, float], level: float) -> Matrix:
    """P(right) [kinds, targets]."""
    return np.array([[level + each, 0.8] for each in beyond])


def answers(route: str, n: int, chances: Matrix, seed: int) -> list[Answer]:
    draw = random.Random(f"{route} {seed}")
    found = []
    for at in range(n):
        kind = at % 2
        text = f"{SAYS[kind]} {draw.randint(0, 99)} of {route} number {at}"
        for target, chance in zip(TARGETS, chances[kind], strict=True):
            found.append(Answer(text, target, float(draw.random() < chance), COST[target]))
    return found


def learned(beyond: dict[str, tuple[float, float]], seed: int) -> Together:
    rows = {
        route: rows_of(
            answers(route, n, truth(beyond[route], 0.6), seed), TARGETS, WORDS, fewest=10
        )
        for route, n in SIZES.items()
    }
    return train_together(rows, dict.fromkeys(rows, VALUE))


def off(together: Together, route: str, chances: Matrix) -> tuple[float, float]:
    """The mean square by which the model is off the truth of new prompts, and the levels are."""
    texts = dict.fromkeys(each.text for each in answers(route, 200, chances, 1000))
    read = [WORDS.of(text) for text in texts]
    said = np.array([together.trained[route].model.score(*each) for each in read])
    rows = together.rows[route]
    level: Floats = rows.right.mean(axis=0)
    right = np.tile(chances, (100, 1))
    return float(((said - right) ** 2).mean()), float(((level - right) ** 2).mean())


def test_a_route_with_few_answers_borrows_how_prompts_differ_and_keeps_its_level() -> None:
    found = []
    for seed in range(3):
        together = learned(dict.fromkeys(SIZES, LIKE), seed)
        found.append(off(together, "small", truth(LIKE, 0.6)))
    model, levels = np.mean(found, axis=0)
    assert model < 0.5 * levels


def test_routes_that_share_nothing_are_not_hurt() -> None:
    found = []
    for seed in range(3):
        together = learned({"small": UNLIKE, "middle": LIKE, "big": (0.0, 0.0)}, seed)
        found.append([off(together, route, truth(beyond, 0.6)) for route, beyond in
                      (("small", UNLIKE), ("middle", LIKE), ("big", (0.0, 0.0)))])  # fmt: skip
    for model, levels in np.mean(found, axis=0):
        assert model < levels + 0.004


def test_it_takes_the_place_of_a_routes_own_only_where_it_is_surely_better() -> None:
    together = learned({"small": UNLIKE, "middle": UNLIKE, "big": LIKE}, 1)
    part = together.rows["big"]
    own = train(part, VALUE)
    assert over_own(part, own, part, together.trained["big"]).gain_low <= 0.0
    ignorant = Trained(
        own.model, own.report, np.tile(part.right.mean(axis=0), (len(part.keys), 1)), own.cost,
        VALUE,
    )  # fmt: skip
    lead = over_own(part, ignorant, part, together.trained["big"])
    assert (lead.prompts, lead.gain_low > 0.0) == (240, True)


def test_routes_may_have_other_targets_and_each_is_told_of_its_own() -> None:
    chances = truth(LIKE, 0.6)
    some = [
        Answer(each.text, "own" if each.target == "dear" else "cheap", each.right, each.cost)
        for each in answers("other", 40, chances, 0)
    ]
    rows = {
        "other": rows_of(some, ("own", "cheap"), WORDS, fewest=10),
        "big": rows_of(answers("big", 120, chances, 0), TARGETS, WORDS, fewest=10),
    }
    together = train_together(rows, {"other": VALUE, "big": 2 * VALUE})
    other, big = together.trained["other"], together.trained["big"]
    assert (other.report.targets, big.report.targets) == (("own", "cheap"), TARGETS)
    assert (other.report.prompts, big.report.prompts) == (40, 120)
    assert (other.value, big.value) == (VALUE, 2 * VALUE)
    model, levels = off(together, "other", chances[:, ::-1])
    assert model < 0.7 * levels


def test_a_level_is_the_mean_of_what_is_said_in_its_group() -> None:
    rows: Rows = rows_of(answers("big", 80, truth(LIKE, 0.6), 3), TARGETS, WORDS)
    group = np.arange(80) // 40
    right = rows.right * np.where(group == 0, 1.0, 0.5)[:, None]
    found = fit_each(rows.vectors, rows.plain, right, rows.known, group, 2)
    ones = np.ones(2)
    for at in range(2):
        model = found.of(at, ones, [0, 1])
        said = found.beyond(rows.vectors, rows.plain, group)[group == at]
        assert said.mean(axis=0) == pytest.approx(np.zeros(2), abs=1e-9)
        mean = right[group == at].mean(axis=0)
        assert found.levels[at] == pytest.approx(mean, abs=0.04)
        scores = model.scores(rows.vectors[group == at], rows.plain[group == at])
        assert scores.mean(axis=0) == pytest.approx(found.levels[at], abs=0.03)
