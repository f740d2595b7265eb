"""P(right | prompt) of several targets at once, from a prompt's vector.

A Gaussian process with the kernel exp(-|u - u'|^2 / 2), on up to 256 landmarks (k-means centres of
what was learned from; Rasmussen and Williams 2006, 8.3.1, subset of regressors). Its mean is each
target's own share of right answers: far from everything learned from, that share is all it says.

    P_j(x) = share_j + k(x)' (a + b_j),   a shared by all targets, b_j each target's own

Where not every target was tried on every prompt, a is fitted first, on what the targets that were
tried have in common, and each b_j on what that leaves, with as much weight as each answer has. A
target's weights are scaled to sum up to (sum w)^2 / sum w^2, as many prompts of weight one as would
tell as much (Kish 1965): so what is unevenly known is shrunk more.

u has the centred vector of the text, scaled to length one, and a few figures of the text. How much
each part is shrunk is chosen in every fit by five-fold cross-validation on its own rows, or, where
they have weights, by leaving out each of them. The kernel's constants were chosen by
cross-validation within 1,500 rows of MMLU, drawn by other seeds than those that are reported.
"""

import re
from collections.abc import Sequence
from math import log1p, sqrt
from typing import TypeAlias

import msgspec
import numpy as np

from gateway.classify.softmax import Floats

Matrix: TypeAlias = np.ndarray[tuple[int, int], np.dtype[np.float64]]
Vector: TypeAlias = np.ndarray[tuple[int], np.dtype[np.float64]]
Ints: TypeAlias = np.ndarray[tuple[int], np.dtype[np.int64]]

LANDMARKS = 256
FOLDS = 5
WEAK = 2.0
SHRINK = (1.0, 3.0, 6.0, 10.0, 20.0, 50.0, 200.0)
_TEXT_SCALE, _FIGURES_SCALE, _FAR = 2.0, 0.35, 3.0
_FURTHEST = _FAR * _FIGURES_SCALE
_ROUNDS, _SEED, _TINY = 8, 20_260_101, 1e-9


def figures(text: str) -> list[float]:
    """What else of a text tells how hard it is: length, lines, and shares of kinds of signs."""
    n = max(len(text), 1)
    # Counting in bytes takes a thirtieth of the time; few signs of most texts are not ASCII.
    counts = text.encode("ascii", "ignore").translate(_KINDS).count
    digits, capitals, letters, spaces = (counts(kind) for kind in _COUNTED)
    letters += digits + capitals
    if not text.isascii():
        others = _ASCII.sub("", text)
        digits += sum(map(str.isdigit, others))
        capitals += sum(map(str.isupper, others))
        letters += sum(map(str.isalnum, others))
        spaces += sum(map(str.isspace, others))
    words = len(text.split())
    return [
        log1p(n),
        log1p(digits),
        digits / n,
        log1p(text.count("\n")),
        log1p(words),
        n / max(words, 1),
        (len(text) - letters - spaces) / n,
        capitals / n,
    ]


_ASCII = re.compile(r"[\x00-\x7f]+")
_COUNTED = (1, 2, 3, 4)
"""What `_KINDS` makes of digits, capitals, other letters, and spaces."""
_KINDS = bytes(
    next(
        (
            kind
            for kind, is_one in zip(
                _COUNTED, (str.isdigit, str.isupper, str.isalnum, str.isspace), strict=True
            )
            if code < 128 and is_one(chr(code))
        ),
        0,
    )
    for code in range(256)
)


class Model(msgspec.Struct, frozen=True):
    """A fit. `mean` is [dim], `landmarks` [m, dim + figures], `weights` [m, targets]."""

    mean: Floats
    centre: Floats
    scale: Floats
    landmarks: Floats
    halves: Floats
    weights: Floats
    shares: Floats

    def score(self, vector: Floats, figures: Floats) -> Floats:
        """P(right) of every target, [targets], in 0..1; for one prompt, all at once."""
        return self.judged(vector, figures)[0]

    def nearest(self, vectors: Floats, figures: Floats) -> Vector:
        """The kernel at the nearest landmark, of many prompts."""
        placed = _placed(vectors, figures, self.mean, self.centre, self.scale)
        found: Vector = _kernel(placed, self.landmarks.astype(np.float64)).max(axis=1)
        return found

    def judged(self, vector: Floats, figures: Floats) -> tuple[Floats, float]:
        """The same, and the kernel at the nearest landmark: 1 is there, 0 far from all."""
        centred = vector - self.mean
        centred *= _TEXT_SCALE / max(sqrt(centred @ centred), _TINY)
        plain = figures - self.centre
        plain *= self.scale
        np.maximum(np.minimum(plain, _FURTHEST, out=plain), -_FURTHEST, out=plain)
        near = self.landmarks @ np.concatenate((centred, plain))
        near -= self.halves
        near -= 0.5 * (_TEXT_SCALE**2 + float(plain @ plain))
        np.exp(near, out=near)
        found: Floats = near @ self.weights
        found += self.shares
        np.maximum(np.minimum(found, 1.0, out=found), 0.0, out=found)
        return found, float(np.maximum.reduce(near))

    def scores(self, vectors: Floats, figures: Floats) -> Matrix:
        """The same for many prompts, [prompts, targets]."""
        placed = _placed(vectors, figures, self.mean, self.centre, self.scale)
        found = _kernel(placed, self.landmarks.astype(np.float64)) @ self.weights + self.shares
        clipped: Matrix = np.clip(found, 0.0, 1.0)
        return clipped


def fit(vectors: Floats, figures: Floats, right: Matrix, answers: Matrix | None = None) -> Model:
    """From prompts' vectors [n, dim], figures [n, 8] and how right each target was on them
    [n, targets], in 0..1. `answers` [n, targets] is the weight of each, 0 where there is none;
    None where all were, and weigh the same. Raises ValueError for fewer than two prompts."""
    if answers is not None:
        some = answers.any(axis=1)
        vectors, figures, right, answers = (
            vectors[some], figures[some], right[some], answers[some]
        )  # fmt: skip
    if len(vectors) < 2:
        raise ValueError("nothing can be learned from fewer than two prompts")
    basis, features = _based(vectors, figures)
    if answers is None or bool((answers == 1.0).all()):
        shares = right.mean(axis=0)
        rest = right - shares
        common: Matrix = rest.mean(axis=1, keepdims=True)
        found: Matrix = _ridge(features, common) + _ridge(features, rest - common)
    else:
        shares, found = _weighted(features, right, answers)
    weights: Matrix = np.asarray(np.linalg.solve(basis.root.T, found), np.float64)
    return basis.model(weights, shares)


class Together(msgspec.Struct, frozen=True):
    """A fit over prompts of several groups: `levels` [groups, targets] are each one's own shares,
    `middle` [groups, m] the mean of the kernel there, and `weights` [m, targets] of all."""

    basis: "_Basis"
    weights: Matrix
    levels: Matrix
    middle: Matrix

    def beyond(self, vectors: Floats, figures: Floats, group: Ints) -> Matrix:
        """What is said of prompts of those groups beyond the levels, [prompts, targets]."""
        found: Matrix = (self.basis.near(vectors, figures) - self.middle[group]) @ self.weights
        return found

    def of(self, group: int, slopes: Vector, targets: Sequence[int]) -> Model:
        """A group's own model, of some targets, with what is said beyond levels scaled."""
        weights = (self.weights * slopes)[:, targets]
        shares = self.levels[group][targets] - self.middle[group] @ weights
        return self.basis.model(weights, shares)


def fit_each(
    vectors: Floats, figures: Floats, right: Matrix, answers: Matrix, group: Ints, groups: int
) -> Together:
    """As `fit`, of prompts of `groups` groups, of which each is one's `group` [n]: what prompts
    have in common is learned over all, as differences from the mean of their group. A level is the
    group's share, drawn towards that of all groups as by `WEAK` answers."""
    basis, features = _based(vectors, figures)
    all_of = np.maximum(answers.sum(axis=0), _TINY)
    shares = (answers * right).sum(axis=0) / all_of
    levels = np.zeros((groups, right.shape[1]))
    middle = np.zeros((groups, features.shape[1]))
    rest = np.zeros_like(right)
    of_row: Matrix = answers.sum(axis=1, keepdims=True)
    for each in range(groups):
        at = group == each
        n, came = answers[at].sum(axis=0), (answers[at] * right[at]).sum(axis=0)
        levels[each] = (came + WEAK * shares) / (n + WEAK)
        rest[at] = np.where(answers[at] > 0.0, right[at] - came / np.maximum(n, _TINY), 0.0)
        middle[each] = of_row[at, 0] @ features[at] / max(float(of_row[at].sum()), _TINY)
    found = _shared(features - middle[group], rest, answers)
    weights: Matrix = np.asarray(np.linalg.solve(basis.root.T, found), np.float64)
    return Together(basis, weights, levels, middle @ basis.root.T)


class _Basis(msgspec.Struct, frozen=True):
    """Where prompts are placed, and the landmarks that they are near to."""

    mean: Floats
    centre: Floats
    scale: Floats
    landmarks: Matrix
    root: Matrix

    def near(self, vectors: Floats, figures: Floats) -> Matrix:
        """The kernel of prompts at each landmark, [prompts, m]."""
        placed = _placed(vectors, figures, self.mean, self.centre, self.scale)
        return _kernel(placed, self.landmarks)

    def model(self, weights: Matrix, shares: Vector) -> Model:
        return Model(
            self.mean.astype(np.float32),
            self.centre.astype(np.float32),
            self.scale.astype(np.float32),
            np.ascontiguousarray(self.landmarks, dtype=np.float32),
            (0.5 * (self.landmarks**2).sum(axis=1)).astype(np.float32),
            np.ascontiguousarray(weights, dtype=np.float32),
            shares.astype(np.float32),
        )


def _based(vectors: Floats, figures: Floats) -> tuple[_Basis, Matrix]:
    """The basis, and the prompts' features on it, [prompts, m]."""
    mean = vectors.mean(axis=0)
    centre = figures.mean(axis=0)
    spread = figures.std(axis=0)
    scale = np.where(spread > _TINY, _FIGURES_SCALE / np.maximum(spread, _TINY), 0.0)
    placed = _placed(vectors, figures, mean, centre, scale)
    landmarks = _landmarks(placed)
    near = _kernel(landmarks, landmarks) + 1e-6 * np.eye(len(landmarks))
    root: Matrix = np.asarray(np.linalg.cholesky(near), np.float64)
    features: Matrix = np.asarray(np.linalg.solve(root, _kernel(landmarks, placed)).T, np.float64)
    return _Basis(mean, centre, scale, landmarks, root), features


def _placed(
    vectors: Floats, figures: Floats, mean: Floats, centre: Floats, scale: Floats
) -> Matrix:
    centred = vectors.astype(np.float64) - mean
    length = np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), _TINY)
    far = _FAR * _FIGURES_SCALE
    plain = np.clip((figures.astype(np.float64) - centre) * scale, -far, far)
    placed: Matrix = np.hstack([_TEXT_SCALE * centred / length, plain])
    return placed


def _kernel(one: Matrix, other: Matrix) -> Matrix:
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1)[None, :]
    near: Matrix = np.exp(np.minimum(one @ other.T - squares / 2, 0.0))
    return near


def _landmarks(placed: Matrix) -> Matrix:
    """Centres by Lloyd's algorithm, seeded; all the rows where they are few."""
    if len(placed) <= LANDMARKS:
        return placed
    rng = np.random.default_rng(_SEED)
    centres: Matrix = placed[rng.choice(len(placed), LANDMARKS, replace=False)]
    for _ in range(_ROUNDS):
        nearest = ((centres**2).sum(axis=1)[None, :] - 2 * placed @ centres.T).argmin(axis=1)
        for each in np.unique(nearest):
            centres[each] = placed[nearest == each].mean(axis=0)
    return centres


def _weighted(features: Matrix, right: Matrix, answers: Matrix) -> tuple[Vector, Matrix]:
    """Shares [targets] and coefficients [m, targets] where answers have weights."""
    total = np.maximum(answers.sum(axis=0), _TINY)
    weight = answers * (total / np.maximum((answers**2).sum(axis=0), _TINY))
    shares: Vector = (answers * right).sum(axis=0) / total
    return shares, _shared(features, np.where(weight > 0.0, right - shares, 0.0), weight)


def _shared(features: Matrix, rest: Matrix, weight: Matrix) -> Matrix:
    """Coefficients [m, targets] of what is beyond shares: what targets have in common first."""
    of_row: Matrix = weight.sum(axis=1, keepdims=True)
    common: Matrix = (weight * rest).sum(axis=1, keepdims=True) / np.maximum(of_row, _TINY)
    shared = _weighted_ridge(features, common, of_row)
    left = rest - features @ shared
    own = [_weighted_ridge(features, left[:, [at]], weight[:, [at]]) for at in range(rest.shape[1])]
    found: Matrix = shared + np.hstack(own)
    return found


def _ridge(features: Matrix, wanted: Matrix) -> Matrix:
    """Coefficients [m, targets], shrunk as much as predicts rows left out best."""
    folds = np.random.default_rng(_SEED).permutation(len(features)) % min(FOLDS, len(features))
    errors = np.zeros(len(SHRINK))
    for fold in np.unique(folds):
        held = folds == fold
        for at, found in enumerate(_paths(features[~held], wanted[~held], SHRINK)):
            errors[at] += float(((features[held] @ found - wanted[held]) ** 2).sum())
    return _paths(features, wanted, [SHRINK[int(errors.argmin())]])[0]


def _weighted_ridge(features: Matrix, wanted: Matrix, weight: Matrix) -> Matrix:
    """The same for one column where rows have weights [n, 1]: each row is left out in turn, which
    for ridge takes no second fit, (y - y') / (1 - h) with h the row's leverage."""
    some = weight[:, 0] > 0.0
    root = np.sqrt(weight[some])
    rows, column = features[some] * root, wanted[some] * root
    values, vectors = np.linalg.eigh(rows.T @ rows)
    turned = rows @ vectors
    along = turned.T @ column
    best, least = np.zeros_like(along), np.inf
    for each in SHRINK:
        inverse = 1.0 / (np.maximum(values, 0.0) + each)
        found = along * inverse[:, None]
        leverage = (turned**2) @ inverse
        missed = (column - turned @ found)[:, 0] / np.maximum(1.0 - leverage, _TINY)
        error = float((missed**2).sum())
        if error < least:
            best, least = found, error
    coefficients: Matrix = vectors @ best
    return coefficients


def _paths(features: Matrix, wanted: Matrix, shrink: Sequence[float]) -> list[Matrix]:
    values, vectors = np.linalg.eigh(features.T @ features)
    along = vectors.T @ (features.T @ wanted)
    return [vectors @ (along / (np.maximum(values, 0.0) + each)[:, None]) for each in shrink]
