"""How well the learned quality routes, on prompts whose every answer was scored.

A big pool is measured by draws: `labels` rows drawn by seed are learned from, all others tested on,
over `seeds` seeds. A small one by five folds, anew by each seed, each tested on what was learned
from the other four; rows of the same prompt are in the same fold. Nothing but the rows learned from
is seen by a fit, nor by what is expected of a model's cost.

What is measured is what a gateway does: texts are read by the same `FeatureKind`, learned from by
`training.calibrated`, and each prompt is judged by a `Scorer`; where that is unsure, the share of
right answers on the rows learned from counts, as a route's own figure does.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from gateway.classify.encoder import Encoder
from gateway.classify.softmax import Floats
from gateway.errors import SwitchboardError
from gateway.learn.baselines import Words, knn, simple
from gateway.learn.curves import Matrix, aiq, apgr, cpt, hull, points, pool_answers
from gateway.learn.data import Pool
from gateway.learn.features import READ, FeatureKind, Features, VectorKind
from gateway.learn.kinds import WORDS
from gateway.learn.page import Curves
from gateway.learn.rows import Rows
from gateway.learn.scorer import Scorer, scorer
from gateway.learn.training import calibrated, some_of

FOLDS, TIMES, SEED = 5, 200, 20_260_101
FEWEST = 10
"""Rows below which nothing can be said."""
_STEPS = 41
_TIMED = 500
"""Prompts whose judging is timed in each fit."""
_WORTHS = tuple(float(worth) for worth in np.geomspace(1e-6, 1e4, 101))


def vectors_of(
    prompts: tuple[str, ...], encoder: Encoder, cache: Path, progress: Callable[[int], None]
) -> Floats:
    """One row a prompt, [n, dim]; what was encoded before is read from `cache`."""
    digest = hashlib.sha256("\0".join([encoder.id, *prompts]).encode("utf-8", "replace"))
    file = cache / f"{digest.hexdigest()[:32]}.npy"
    if file.exists():
        progress(len(prompts))
        known: Floats = np.load(file)
        return known
    rows = []
    for at in range(0, len(prompts), 64):
        rows.append(encoder.encode([text[:READ] for text in prompts[at : at + 64]]))
        progress(min(at + 64, len(prompts)))
    found: Floats = np.concatenate(rows)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(file, found)
    return found


def read_by(
    features: Literal["vectors", "words"], pool: Pool, encoder: Encoder, vectors: Floats
) -> tuple[FeatureKind, Sequence[Features], Floats]:
    """The kind, the pool's prompts read by it, and the sentence vectors of `vectors`: what
    `measure` is asked with."""
    meaning = np.delete(vectors, encoder.depth, axis=1)
    meaning = meaning if meaning.shape[1] else vectors
    if features == "words":
        return WORDS, WORDS.of_all(pool.prompts), meaning
    kind = VectorKind(encoder)
    return kind, kind.of_vectors(pool.prompts, vectors), meaning


class Measured(msgspec.Struct, frozen=True):
    """The figures of one pool, for people and programs, and its curves, for a plot."""

    figures: dict[str, Any]
    curves: Curves


class _Tested(msgspec.Struct, frozen=True):
    """What one router said of the rows tested, and what it was to know: which rows they are, and
    each model's cost on the rows that were learned from, [rows, models]."""

    predicted: Matrix
    quality: Matrix
    cost: Matrix
    expected: Matrix
    strong: int

    @property
    def priced(self) -> bool:
        return not bool(np.isnan(self.cost).any())


def measure(
    pool: Pool,
    kind: FeatureKind,
    read: Sequence[Features],
    vectors: Floats,
    *,
    labels: int = 1500,
    seeds: int = 20,
    baselines: Sequence[str] = (),
    progress: Callable[[str], None] = lambda line: None,
) -> Measured:
    """The figures of one pool; shares of strong calls in percent, the rest as in curves.py.

    `read` are the prompts as that `kind` reads them; `vectors`, [n, dim], those by which the
    nearest neighbours are found. `_low` are 2.5 % quantiles of the mean over seeds, by a bootstrap
    of the rows tested on, the same rows for both of a pair.
    """
    _check(pool, baselines)
    rows = _rows(pool, read)
    words = Words(pool.prompts)
    tests: dict[str, list[_Tested]] = {}
    micros = []
    drawn = len(pool.prompts) >= 2 * labels
    if not drawn:
        n = len(pool.prompts)
        progress(f"{pool.name}: {n:,} rows are too few to draw {labels:,} from: five folds instead")
    # The strong one is the one that is right more often: known without the test.
    strong = int(pool.quality.mean(axis=0).argmax())
    for name, parts in _splits(pool.prompts, labels if drawn else 0, seeds):
        predictions: dict[str, list[Matrix]] = {}
        for seen, held in parts:
            model = calibrated(some_of(rows, seen))
            version = scorer("", kind.name, model, pool.models, pool.models)
            micros.append(_micros(version.qualities, [read[at] for at in held[:_TIMED]]))
            found = {
                "learned": _told(version, rows, seen, held),
                "knn": knn(vectors, pool.quality, seen, held),
                "ridge": words.ridge(pool.quality, seen, held),
            }
            for each in baselines:
                if each not in found:
                    found[each] = simple(each, pool.quality, pool.cost, seen, held)
            for who, values in found.items():
                predictions.setdefault(who, []).append(values)
        held = np.concatenate([held for _, held in parts])
        expected = np.concatenate(
            [np.tile(pool.cost[seen].mean(axis=0), (len(held), 1)) for seen, held in parts]
        )
        for who, several in predictions.items():
            one = np.concatenate(several)
            tested = _Tested(one, pool.quality[held], pool.cost[held], expected, strong)
            tests.setdefault(who, []).append(tested)
        progress(f"{pool.name}: {name}")
    figured = _summed(pool, tests, drawn)
    timed = {"features": kind.name.split()[0], "us": round(float(np.median(micros)), 1)}
    return Measured(figured | timed, _curves(pool, tests))


def _rows(pool: Pool, read: Sequence[Features]) -> Rows:
    """All of the pool, as it would be learned from."""
    n = len(pool.prompts)
    return Rows(
        tuple(map(str, range(n))),
        np.stack([vector for vector, _ in read]),
        np.stack([plain for _, plain in read]),
        pool.models,
        pool.quality,
        pool.cost,
        np.ones(pool.quality.shape),
        np.zeros(n),
        np.ones(n),
    )


def _told(version: Scorer, rows: Rows, seen: Any, held: Any) -> Matrix:
    """P(right) of every model, [held, models]: of a prompt that is like nothing learned from, the
    share."""
    found = version.table(rows.vectors[held], rows.plain[held])
    told: Matrix = np.where(found < 0.0, rows.right[seen].mean(axis=0), found)
    return told


def _check(pool: Pool, baselines: Sequence[str]) -> None:
    if len(pool.prompts) < FEWEST:
        raise SwitchboardError(
            f"{pool.name}: {len(pool.prompts)} rows with a score of every model are too few; "
            f"{FEWEST} are needed"
        )
    unpriced = [
        name for name, cost in zip(pool.models, pool.cost.T, strict=True) if np.isnan(cost).any()
    ]
    if unpriced and len(pool.models) > 2:
        raise SwitchboardError(
            f"{pool.name}: no cost of {', '.join(unpriced)}: add columns such as "
            "`NAME|total_cost`, or give --price NAME=DOLLARS"
        )
    if unpriced and "cheapest" in baselines:
        raise SwitchboardError(f"{pool.name}: nobody knows what is cheapest: give --price")


def _splits(
    prompts: Sequence[str], labels: int, seeds: int
) -> Iterator[tuple[str, list[tuple[Any, Any]]]]:
    n = len(prompts)
    if labels:
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(n)
            yield f"draw {seed + 1} of {seeds}", [(order[:labels], order[labels:])]
        return
    known: dict[str, int] = {}
    kind = np.array([known.setdefault(text, len(known)) for text in prompts])
    if len(known) < 2:
        raise SwitchboardError("all prompts are the same: nothing can be learned from them")
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(len(known))
        folds = [np.isin(kind, part) for part in np.array_split(order, min(FOLDS, len(known)))]
        parts = [(np.flatnonzero(~held), np.flatnonzero(held)) for held in folds]
        yield f"folds {seed + 1} of {seeds}", parts


def _figures(tested: _Tested) -> dict[str, float]:
    quality, cost = tested.quality, tested.cost
    means = cost.mean(axis=0)
    found: dict[str, float] = {}
    if tested.priced:
        spent, got = pool_answers(tested.predicted, quality, cost, tested.expected, _WORTHS)
        points_at = spent.mean(axis=1), got.mean(axis=1)
        found["aiq"] = aiq(*points_at, float(means.min()), float(means.max()))
    if quality.shape[1] == 2:
        found |= _of_two(tested.predicted, quality, tested.strong)
    return found


def _of_two(predicted: Matrix, quality: Matrix, strong: int) -> dict[str, float]:
    gap = predicted[:, strong] - predicted[:, 1 - strong]
    high, low = quality[:, strong], quality[:, 1 - strong]
    share, accuracy = points(gap, high, low)
    ends = (float(high.mean()), float(low.mean()))
    return {
        "apgr": apgr(share, accuracy, *ends),
        "cpt50": cpt(share, accuracy, *ends, 0.5),
        "cpt80": cpt(share, accuracy, *ends, 0.8),
    }


def _summed(pool: Pool, tests: Mapping[str, Sequence[_Tested]], drawn: bool) -> dict[str, Any]:
    rows = {who: [_figures(each) for each in several] for who, several in tests.items()}
    again = {who: _drawn_again(several) for who, several in tests.items()}

    def of(who: str, figure: str) -> Any:
        return np.array([row[figure] for row in rows[who]])

    main = "apgr" if len(pool.models) == 2 else "aiq"
    found: dict[str, Any] = {name: float(of("learned", name).mean()) for name in rows["learned"][0]}
    n = len(rows["learned"])
    found["se"] = float(of("learned", main).std(ddof=1) / n**0.5) if n > 1 else 0.0
    mine = again["learned"]
    found[f"{main}_low"] = float(np.quantile(mine, 0.025))
    for other in rows:
        if other != "learned":
            found[f"{other}_{main}"] = float(of(other, main).mean())
            found[f"vs_{other}_low"] = float(np.quantile(mine - again[other], 0.025))
    return found | {
        "rows": len(pool.prompts),
        "left_out": pool.left_out,
        "models": list(pool.models),
        "protocol": "draws" if drawn else "folds",
        "seeds": n,
    }


def _drawn_again(several: Sequence[_Tested]) -> Any:
    """The main figure, mean over seeds, on each of `TIMES` samples of the tested rows: the same
    rows for every router."""
    return np.mean([_resampled(each) for each in several], axis=0)


def _resampled(tested: _Tested) -> Any:
    rng = np.random.default_rng(SEED)
    n, models = tested.quality.shape
    samples = [rng.integers(0, n, n) for _ in range(TIMES)]
    if models == 2:
        return np.array(
            [
                _of_two(tested.predicted[rows], tested.quality[rows], tested.strong)["apgr"]
                for rows in samples
            ]
        )
    # Whom it asks does not depend on the sample: only the means do.
    spent, got = pool_answers(
        tested.predicted, tested.quality, tested.cost, tested.expected, _WORTHS
    )
    found = []
    for rows in samples:
        times = np.bincount(rows, minlength=n) / n
        means = times @ tested.cost
        found.append(aiq(spent @ times, got @ times, float(means.min()), float(means.max())))
    return np.array(found)


def _curves(pool: Pool, tests: Mapping[str, Sequence[_Tested]]) -> Curves:
    """Each router's quality at the same places, mean over seeds."""
    costs = all(each.priced for each in tests["learned"])
    quality, cost = pool.quality.mean(axis=0), pool.cost.mean(axis=0)
    strong = tests["learned"][0].strong
    ends = (float(cost.min()), float(cost.max())) if costs else (0.0, 1.0)
    x = np.linspace(*ends, _STEPS)
    routers = {}
    for who, several in tests.items():
        lines = []
        for each in several:
            if costs:
                found = pool_answers(
                    each.predicted, each.quality, each.cost, each.expected, _WORTHS
                )
                place, height = hull(found[0].mean(axis=1), found[1].mean(axis=1))
            else:
                high, low = each.quality[:, strong], each.quality[:, 1 - strong]
                gap = each.predicted[:, strong] - each.predicted[:, 1 - strong]
                place, height = points(gap, high, low)
                place = np.concatenate([[0.0], place])
                height = np.concatenate([[low.mean()], height])
            lines.append(np.interp(x, place, height))
        routers[who] = tuple(np.mean(lines, axis=0).tolist())
    where = cost if costs else (np.arange(len(cost)) == strong).astype(float)
    models = {
        name: (float(place), float(height))
        for name, place, height in zip(pool.models, where, quality, strict=True)
    }
    return Curves(tuple(x.tolist()), routers, models, costs)


def _micros(judge: Callable[[Features], object], read: Sequence[Features]) -> float:
    """Microseconds of CPU a decision, its features given."""
    begin = time.process_time_ns()
    for each in read:
        judge(each)
    return (time.process_time_ns() - begin) / 1000 / len(read)
