"""How well the learned quality routes, on prompts whose every answer was scored.

A big pool is measured by draws: `labels` rows drawn by seed are learned from, all others tested on,
over `seeds` seeds. A small one by five folds, drawn by seed 0, each tested on what was learned from
the other four. Nothing but the rows learned from is seen by a fit.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gateway.classify.encoder import Encoder
from gateway.classify.softmax import Floats
from gateway.errors import SwitchboardError
from gateway.learn.curves import Matrix, aiq, apgr, cpt, points, pool_points
from gateway.learn.data import Pool
from gateway.learn.model import figures, fit

FOLDS, NEIGHBOURS, TIMES, SEED = 5, 100, 200, 20_260_101
BASELINES = ("random", "cheapest", "best", "knn", "ridge", "oracle")
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
        rows.append(encoder.encode(prompts[at : at + 64]))
        progress(min(at + 64, len(prompts)))
    found: Floats = np.concatenate(rows)
    cache.mkdir(parents=True, exist_ok=True)
    np.save(file, found)
    return found


def measure(
    pool: Pool,
    vectors: Floats,
    *,
    labels: int = 1500,
    seeds: int = 20,
    baseline: str | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """The figures of one pool; shares of strong calls in percent, the rest as in curves.py.

    `vectors` are as bert.py gives them, the last layer's before the middle one's. `_low` are 2.5 %
    quantiles of the mean over seeds, by a bootstrap of the rows tested on, the same rows for both
    of a pair.
    """
    plain = np.array([figures(text) for text in pool.prompts], np.float32)
    half = vectors.shape[1] // 2
    middle, last = np.ascontiguousarray(vectors[:, half:]), vectors[:, :half]
    if len(pool.models) > 2 and np.isnan(pool.cost).any():
        raise SwitchboardError(
            f"{pool.name}: not every model has a cost: add columns such as `NAME|total_cost`, or "
            "give --price NAME=DOLLARS"
        )
    if baseline == "cheapest" and np.isnan(pool.cost).any():
        raise SwitchboardError(f"{pool.name}: nobody knows what is cheapest: give --price")
    rows: dict[str, list[dict[str, float]]] = {}
    drawn_again: dict[str, list[Any]] = {}
    micros = []
    drawn = len(pool.prompts) >= 2 * labels
    for name, parts in _splits(len(pool.prompts), labels if drawn else 0, seeds):
        predictions: dict[str, list[Matrix]] = {}
        tested = []
        for seen, held in parts:
            model = fit(middle[seen], plain[seen], pool.quality[seen])
            own = model.scores(middle[held], plain[held])
            micros.append(_micros(model.score, middle[held], plain[held]))
            found = {"learned": own, "knn": _knn(last, pool.quality, seen, held)}
            found["ridge"] = _ridge(last, pool.quality, seen, held)
            if baseline is not None and baseline not in found:
                found[baseline] = _simple(baseline, pool, seen, held)
            for who, values in found.items():
                predictions.setdefault(who, []).append(values)
            tested.append(held)
        held = np.concatenate(tested)
        for who, several in predictions.items():
            one: Matrix = np.concatenate(several)
            rows.setdefault(who, []).append(_figures(one, pool, held))
            drawn_again.setdefault(who, []).append(_drawn_again(one, pool, held))
        progress(f"{pool.name}: {name}")
    return _summed(pool, rows, drawn_again, baseline, float(np.median(micros)), drawn)


def _splits(n: int, labels: int, seeds: int) -> Iterator[tuple[str, list[tuple[Any, Any]]]]:
    if labels:
        for seed in range(seeds):
            order = np.random.default_rng(seed).permutation(n)
            yield f"draw {seed + 1} of {seeds}", [(order[:labels], order[labels:])]
        return
    for seed in range(seeds):
        order = np.random.default_rng(seed).permutation(n)
        folds = [part for part in np.array_split(order, min(FOLDS, n)) if len(part)]
        parts = [(np.setdiff1d(order, part, assume_unique=True), part) for part in folds]
        yield f"folds {seed + 1} of {seeds}", parts


def _figures(predicted: Matrix, pool: Pool, held: Any, main: str | None = None) -> dict[str, float]:
    """All figures, or those that `main` is among."""
    quality, cost = pool.quality[held], pool.cost[held]
    means = cost.mean(axis=0)
    found: dict[str, float] = {}
    if not np.isnan(cost).any() and (main is None or main == "aiq"):
        spent, got = pool_points(predicted, quality, cost, _WORTHS)
        found["aiq"] = aiq(spent, got, float(means.min()), float(means.max()))
    if len(pool.models) == 2 and main != "aiq":
        # The strong one is the one that is right more often: known without the test.
        strong = int(pool.quality.mean(axis=0).argmax())
        gap = predicted[:, strong] - predicted[:, 1 - strong]
        high, low = quality[:, strong], quality[:, 1 - strong]
        share, accuracy = points(gap, high, low)
        ends = (float(high.mean()), float(low.mean()))
        found["apgr"] = apgr(share, accuracy, *ends)
        found["cpt50"] = cpt(share, accuracy, *ends, 0.5)
        found["cpt80"] = cpt(share, accuracy, *ends, 0.8)
    return found


def _summed(
    pool: Pool,
    rows: dict[str, list[dict[str, float]]],
    drawn_again: dict[str, list[Any]],
    baseline: str | None,
    micros: float,
    drawn: bool,
) -> dict[str, Any]:
    def of(who: str, figure: str) -> Any:
        return np.array([row[figure] for row in rows[who]])

    main = "apgr" if len(pool.models) == 2 else "aiq"
    found: dict[str, Any] = {name: float(of("learned", name).mean()) for name in rows["learned"][0]}
    n = len(rows["learned"])
    found["se"] = float(of("learned", main).std(ddof=1) / n**0.5) if n > 1 else 0.0
    mine = np.mean(drawn_again["learned"], axis=0)
    found[f"{main}_low"] = float(np.quantile(mine, 0.025))
    for other in rows:
        if other != "learned":
            found[f"{other}_{main}"] = float(of(other, main).mean())
            lead = mine - np.mean(drawn_again[other], axis=0)
            found[f"vs_{other}_low"] = float(np.quantile(lead, 0.025))
    shown = {"baseline": baseline} if baseline else {}
    return (
        found
        | shown
        | {
            "rows": len(pool.prompts),
            "left_out": pool.left_out,
            "models": list(pool.models),
            "protocol": "draws" if drawn else "folds",
            "seeds": n,
            "us": round(micros, 1),
        }
    )


def _drawn_again(predicted: Matrix, pool: Pool, held: Any) -> Any:
    """The main figure on each of `TIMES` samples of the tested rows, the same for every router."""
    rng = np.random.default_rng(SEED)
    several = [rng.integers(0, len(held), len(held)) for _ in range(TIMES)]
    main = "apgr" if len(pool.models) == 2 else "aiq"
    return np.array([_figures(predicted[rows], pool, held[rows], main)[main] for rows in several])


def _knn(vectors: Floats, quality: Matrix, seen: Any, held: Any) -> Matrix:
    near = vectors[held] @ vectors[seen].T
    k = min(NEIGHBOURS, len(seen))
    found: Matrix = quality[seen][np.argpartition(-near, k - 1, axis=1)[:, :k]].mean(axis=1)
    return found


def _ridge(vectors: Floats, quality: Matrix, seen: Any, held: Any) -> Matrix:
    mean, shares = vectors[seen].mean(axis=0), quality[seen].mean(axis=0)
    known = (vectors[seen] - mean).astype(np.float64)
    inner = known.T @ known + 30.0 * np.eye(known.shape[1])
    found: Matrix = (vectors[held] - mean) @ np.linalg.solve(
        inner, known.T @ (quality[seen] - shares)
    ) + shares
    return found


def _simple(name: str, pool: Pool, seen: Any, held: Any) -> Matrix:
    n, models = len(held), len(pool.models)
    flat: Matrix = np.zeros((n, models))
    if name == "oracle":
        flat += pool.quality[held]
        return flat
    if name == "random":
        flat = np.random.default_rng(SEED).random((n, models))
    elif name == "cheapest":
        flat[:, pool.cost[seen].mean(axis=0).argmin()] = 1.0
    else:
        flat[:, pool.quality[seen].mean(axis=0).argmax()] = 1.0
    return flat


def _micros(score: Callable[[Floats, Floats], Floats], vectors: Floats, plain: Floats) -> float:
    """Microseconds a decision over up to 500 prompts, their features given."""
    some = min(500, len(vectors))
    begin = time.perf_counter_ns()
    for at in range(some):
        score(vectors[at], plain[at])
    return (time.perf_counter_ns() - begin) / 1000 / some
