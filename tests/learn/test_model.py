"""The learned quality on made-up prompts whose truth is known."""

import numpy as np
import pytest

from gateway.classify.softmax import Floats
from gateway.errors import SwitchboardError
from gateway.learn.bench import measure
from gateway.learn.data import Pool
from gateway.learn.kinds import WORDS
from gateway.learn.model import Matrix, figures, fit

N, DIM = 600, 16


def kinds(rng: np.random.Generator) -> tuple[Floats, Matrix]:
    """Two kinds of prompt: on one the first target is right, on the other the second, mostly."""
    kind = rng.integers(0, 2, N)
    vectors = rng.normal(0, 0.3, (N, DIM))
    vectors[:, 0] += 2.0 * kind - 1.0
    chance = np.where(kind[:, None] == np.array([0, 1]), 0.9, 0.3)
    return vectors.astype(np.float32), (rng.random((N, 2)) < chance).astype(np.float64)


def test_each_kind_goes_to_who_is_right_on_it_and_what_is_unlike_all_to_the_shares() -> None:
    vectors, right = kinds(np.random.default_rng(0))
    plain = np.array([figures("a prompt")] * N, np.float32)
    model = fit(vectors, plain, right)
    one, other = np.zeros((2, DIM), np.float32)
    one[0], other[0] = -1.0, 1.0
    for prompt, target in ((one, 0), (other, 1)):
        found = model.score(prompt, plain[0])
        assert found[target] > 0.8
        assert found[1 - target] < 0.4
    assert model.scores(vectors[:5], plain[:5]) == pytest.approx(
        np.array([model.score(v, f) for v, f in zip(vectors[:5], plain[:5], strict=True)]), abs=1e-4
    )
    unlike = np.zeros(DIM, np.float32)
    unlike[DIM - 1] = 9.0
    assert model.score(unlike, plain[0]) == pytest.approx(right.mean(axis=0), abs=0.1)


def test_the_bench_finds_what_is_to_be_found() -> None:
    rng = np.random.default_rng(1)
    vectors, right = kinds(rng)
    right[:, 1] = rng.random(N) < 0.9
    prompts = tuple(f"prompt {at}" for at in range(N))
    cost = np.tile([0.1, 1.0], (N, 1))
    pool = Pool("made", prompts, ("weak", "strong"), right, cost)
    plain = np.array(figures("a prompt"), np.float32)
    read = [(vector, plain) for vector in vectors]
    found = measure(pool, WORDS, read, vectors, labels=200, seeds=3, baselines=["random"]).figures
    assert found["apgr_low"] > 0.7
    assert found["vs_random_low"] > 0.0
    unpriced = Pool("made", prompts, ("a", "b", "c"), right[:, [0, 1, 1]], np.full((N, 3), np.nan))
    with pytest.raises(SwitchboardError, match="--price"):
        measure(unpriced, WORDS, read, vectors, labels=200, seeds=1)
