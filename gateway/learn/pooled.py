"""One fit over the prompts of several routes, and what each of them has of it. Pure.

    P_rj(x) = level_rj + slope_rj x (k(x) - mean of k in r)' (a + b_j)

A route has its own level of each target, so what is learned over all is only how prompts differ
from the mean of their route (`model.fit_each`). A slope says how much of that holds in a route, as
least squares find it on rows left out, drawn towards the mean of all routes' slopes:

    slope = (along + t mean) / (size + t),   t = noise / 0.25

It is the mode where slopes of routes have a standard deviation of a half: few answers of a route
say little against the others, and many go their own way. A route that is like no other so comes to
its levels, the surer the more is known of it.

The report is by five folds around all of that. A prompt that several routes have is in one fold.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from gateway.learn.model import Ints, Matrix, Model, Vector, fit_each
from gateway.learn.rows import Rows
from gateway.learn.training import (
    FOLDS,
    Trained,
    Versus,
    dealt,
    gained,
    means,
    net,
    reported,
    some_of,
)

LEAST = 10
"""Answers of each of two targets below which a route has no part in it."""
MOST = 20_000
"""Prompts with answers that one fit is of: of each route as many at most, evenly taken, but never
below `MOST_EACH`."""
MOST_EACH = 1000
_SPREAD = 0.25
"""The variance of slopes between routes."""
_TINY = 1e-9


class Together(msgspec.Struct, frozen=True):
    """Of each route: what was learned from, and its model with the report."""

    rows: Mapping[str, Rows]
    trained: Mapping[str, Trained]


def train_together(
    each: Mapping[str, Rows],
    values: Mapping[str, float],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Together:
    """A model of each route, and what one made so is worth there. `values` are dollars a right
    answer."""
    parts = list(each.values())
    rows, route = _joined(parts)
    folds = _dealt(rows.keys)
    columns = [[rows.targets.index(target) for target in part.targets] for part in parts]
    predicted = np.zeros_like(rows.right)
    for fold in range(FOLDS):
        held = folds == fold
        models = _models(some_of(rows, ~held), route[~held], columns)
        for n, model in enumerate(models):
            at = np.flatnonzero(held & (route == n))
            predicted[at[:, None], np.array(columns[n])] = model.scores(
                rows.vectors[at], rows.plain[at]
            )
        progress(fold + 1, FOLDS + 1)
    models = _models(rows, route, columns)
    progress(FOLDS + 1, FOLDS + 1)
    found = {}
    for n, (name, part) in enumerate(each.items()):
        at = route == n
        said = predicted[at][:, columns[n]]
        shares, cost = _by_shares(part, folds[at])
        report = reported(part, said, shares, cost, values[name])
        found[name] = Trained(models[n], report, said, cost, values[name])
    return Together(each, found)


def over_own(rows: Rows, own: Trained, part: Rows, together: Trained) -> Versus:
    """`together`, which has learned from `part`, against the route's `own`, which has from `rows`:
    on all rows that the latter is judged by, held out from both."""
    place = {key: at for at, key in enumerate(part.keys)}
    at = np.array([place[key] for key in rows.keys])
    columns = [part.targets.index(target) for target in rows.targets]
    said = together.predicted[at][:, columns]
    lead = net(rows, said, said, own.cost, own.value)
    lead = lead - net(rows, own.predicted, own.predicted, own.cost, own.value)
    return Versus(int((rows.stands > 0.0).sum()), *gained(lead, rows.stands))


def _by_shares(part: Rows, folds: Ints) -> tuple[Matrix, Matrix]:
    """Each row's shares and costs, of the rows in other folds."""
    shares, cost = np.zeros_like(part.right), np.zeros_like(part.right)
    for fold in range(FOLDS):
        held = folds == fold
        shares[held] = means(part.right[~held], part.known[~held])
        cost[held] = means(part.cost[~held], part.known[~held])
    return shares, cost


def _joined(parts: Sequence[Rows]) -> tuple[Rows, Ints]:
    """The rows of all routes, with all their targets, and the route of each. Weights are scaled as
    `model.fit` does it: in each route to as many answers of weight one as would tell as much."""
    targets = tuple(dict.fromkeys(target for rows in parts for target in rows.targets))

    def wide(rows: Rows, values: Matrix) -> Matrix:
        found = np.zeros((len(values), len(targets)))
        found[:, [targets.index(target) for target in rows.targets]] = values
        return found

    most = max(MOST_EACH, MOST // max(len(parts), 1))
    rows = Rows(
        tuple(key for part in parts for key in part.keys),
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.plain for part in parts]),
        targets,
        np.concatenate([wide(part, part.right) for part in parts]),
        np.concatenate([wide(part, part.cost) for part in parts]),
        np.concatenate([wide(part, _even(_thinned(part.known, most))) for part in parts]),
        np.concatenate([part.at for part in parts]),
        np.concatenate([part.stands for part in parts]),
    )
    return rows, np.repeat(np.arange(len(parts)), [len(part.keys) for part in parts])


def _thinned(known: Matrix, most: int) -> Matrix:
    """Weights of `most` rows at most that have any, evenly taken."""
    there = np.flatnonzero(known.any(axis=1))
    if len(there) <= most:
        return known
    kept = np.zeros_like(known)
    taken = there[np.linspace(0, len(there) - 1, most).astype(int)]
    kept[taken] = known[taken]
    return kept


def _even(known: Matrix) -> Matrix:
    found: Matrix = known * (known.sum(axis=0) / np.maximum((known**2).sum(axis=0), _TINY))
    return found


def _dealt(keys: Sequence[str]) -> Ints:
    fold: dict[str, int] = {}
    return np.array(
        [fold.setdefault(k, int(at)) for k, at in zip(keys, dealt(len(keys)), strict=True)]
    )


def _models(rows: Rows, route: Ints, columns: Sequence[Sequence[int]]) -> list[Model]:
    n = len(columns)
    beyond, wanted = np.zeros_like(rows.right), np.zeros_like(rows.right)
    folds = _dealt(rows.keys)
    for fold in range(FOLDS):
        held = folds == fold
        rest = some_of(rows, ~held)
        inner = fit_each(rest.vectors, rest.plain, rest.right, rest.known, route[~held], n)
        beyond[held] = inner.beyond(rows.vectors[held], rows.plain[held], route[held])
        wanted[held] = rows.right[held] - inner.levels[route[held]]
    slopes = _slopes(beyond, wanted, rows.known, route, n)
    whole = fit_each(rows.vectors, rows.plain, rows.right, rows.known, route, n)
    return [whole.of(at, slopes[at], columns[at]) for at in range(n)]


def _slopes(beyond: Matrix, wanted: Matrix, known: Matrix, route: Ints, n: int) -> Matrix:
    """How much of what is said beyond levels holds [routes, targets], in 0..1."""
    size = np.array([(known * beyond**2)[route == at].sum(axis=0) for at in range(n)])
    along = np.array([(known * beyond * wanted)[route == at].sum(axis=0) for at in range(n)])
    noise: Vector = (known * wanted**2).sum(axis=0) / np.maximum(known.sum(axis=0), _TINY)
    t = noise / _SPREAD + _TINY
    sure = size / (size + t)
    alone = np.clip(along / np.maximum(size, 1e-12), -1.0, 2.0)
    mean = (sure * alone).sum(axis=0) / np.maximum(sure.sum(axis=0), _TINY)
    found: Matrix = np.clip((along + t * mean) / (size + t), 0.0, 1.0)
    return found
