"""What a learned quality is compared with: simple routers, fitted on the same rows. Pure.

`knn` is the mean over the 100 nearest prompts by the encoder's vectors; `ridge` is a ridge
regression on TF-IDF of words and of pairs of neighbours: tf = 1 + ln(times), idf = ln((1 + n) /
(1 + df)) + 1 over the rows learned from, rows of length one. Of the settings that were tried these
do best on the rows tested on: whoever is compared with it is not compared with a weak one.
"""

import re
from itertools import pairwise
from typing import Any

import numpy as np

from gateway.classify.softmax import Floats
from gateway.learn.curves import Matrix

BASELINES = ("random", "cheapest", "best", "knn", "ridge", "oracle")
NEIGHBOURS, PENALTY, SEED = 100, 10.0, 20_260_101
_WORD = re.compile(r"\b\w\w+\b")


class Words:
    """The words and pairs of prompts, counted once: `row[i]` has `word[i]`, and that `count[i]`
    times, by its logarithm."""

    def __init__(self, prompts: tuple[str, ...]) -> None:
        known: dict[str, int] = {}
        rows, words, counts = [], [], []
        for at, text in enumerate(prompts):
            said = _WORD.findall(text.lower())
            said += [f"{a} {b}" for a, b in pairwise(said)]
            of = np.array([known.setdefault(word, len(known)) for word in said], int)
            found, times = np.unique(of, return_counts=True)
            rows.append(np.full(len(found), at))
            words.append(found)
            counts.append(times)
        self.n, self.size = len(prompts), len(known)
        self.row, self.word = np.concatenate(rows), np.concatenate(words)
        self.count = 1.0 + np.log(np.concatenate(counts).astype(np.float64))

    def ridge(self, quality: Matrix, seen: Any, held: Any) -> Matrix:
        """How right each model is on `held`, by what was seen on `seen`."""
        place = np.full(self.n, -1)
        place[seen] = np.arange(len(seen))
        learned = place[self.row] >= 0
        frequency = np.bincount(self.word[learned], minlength=self.size)
        idf = np.where(frequency > 0, np.log((1 + len(seen)) / (1 + frequency)) + 1, 0.0)
        value = self.count * idf[self.word]
        length = np.sqrt(np.bincount(self.row, value**2, self.n))
        value /= np.maximum(length, 1e-12)[self.row]
        column = np.cumsum(frequency > 0) - 1
        dense = np.zeros((len(seen), max(int((frequency > 0).sum()), 1)), np.float32)
        dense[place[self.row[learned]], column[self.word[learned]]] = value[learned]
        middle = dense.mean(axis=0)
        dense -= middle
        shares = quality[seen].mean(axis=0)
        inner = (dense @ dense.T).astype(np.float64) + PENALTY * np.eye(len(seen))
        weights = dense.T.astype(np.float64) @ np.linalg.solve(inner, quality[seen] - shares)
        found = np.empty((len(held), quality.shape[1]))
        for model in range(quality.shape[1]):
            each = np.where(frequency > 0, weights[column, model], 0.0)[self.word] * value
            found[:, model] = np.bincount(self.row, each, self.n)[held]
        told: Matrix = found - middle @ weights + shares
        return told


def knn(vectors: Floats, quality: Matrix, seen: Any, held: Any) -> Matrix:
    """By the prompts seen that are nearest."""
    near = vectors[held] @ vectors[seen].T
    k = min(NEIGHBOURS, len(seen))
    found: Matrix = quality[seen][np.argpartition(-near, k - 1, axis=1)[:, :k]].mean(axis=1)
    return found


def simple(name: str, quality: Matrix, cost: Matrix, seen: Any, held: Any) -> Matrix:
    """`random`, `cheapest`, `best`, or `oracle`, which knows the answers."""
    n, models = len(held), quality.shape[1]
    flat: Matrix = np.zeros((n, models))
    if name == "oracle":
        flat += quality[held]
        return flat
    if name == "random":
        flat = np.random.default_rng(SEED).random((n, models))
    elif name == "cheapest":
        flat[:, cost[seen].mean(axis=0).argmin()] = 1.0
    else:
        flat[:, quality[seen].mean(axis=0).argmax()] = 1.0
    return flat
