"""What is learned from: answers of runs, and answered requests with what was said of them. Pure.

A request tells of one target only, the one that was chosen, and only where somebody has spoken of
the answer. Answers that were likely to be chosen, or to be spoken of, would count too much; so each
counts as often as one like it was left out,

    w = 1 / (P(chosen | request) x P(spoken of | prompt, target)),   at most sqrt(requests)

(inverse propensities, truncated as by Ionides 2008). P(chosen) was logged with the decision, and
P(spoken of) is fitted, on all requests that could have been spoken of, by `model.fit`. What this
cannot mend: answers that are spoken of *because* they were right or wrong. How large that effect
could be is told for right answers that are spoken of `TIMES` times as often as wrong ones, and the
reverse (`tilted`).
"""

from collections.abc import Mapping, Sequence
from hashlib import sha256
from math import sqrt

import msgspec
import numpy as np

from gateway.classify.softmax import Floats
from gateway.learn.features import FeatureKind, Features
from gateway.learn.model import Matrix, Vector, fit

FEWEST = 50
"""Answers of a target below which nothing is learned of it."""
TIMES = 2.0
"""How many times as often right answers may be spoken of as wrong ones, or wrong ones as right."""
RAREST = 0.02
"""P(spoken of) is never taken to be below this."""


class Answer(msgspec.Struct, frozen=True):
    """One answer of a target: how right it was, in 0..1, and what it cost, in dollars. `run` is
    where that is known from. Where the text is not there, `prompt` is its digest and `read` its
    features."""

    text: str
    target: str
    right: float
    cost: float
    run: str = ""
    prompt: str = ""
    read: Features | None = None

    @property
    def key(self) -> str:
        """The digest of its text."""
        return self.prompt or prompt_of(self.text)


class Logged(msgspec.Struct, frozen=True):
    """An answered request. `right` is None where nobody has said; `propensities` are the
    probabilities with which each target was chosen; `at` in Unix seconds. It stands for `stands`
    requests like it, of which one was taken."""

    id: str
    read: Features
    target: str
    right: float | None
    cost: float
    propensities: Mapping[str, float]
    at: float
    stands: float = 1.0


class Heard(msgspec.Struct, frozen=True):
    """What requests tell: of so many, `labelled` were spoken of. `left_out` says how many could not
    be used, and why.

    By target: `effective` labelled requests of equal weight would tell as much, and `unsupported`
    is the share of requests that could never have gone there, of which nothing is known. `cut`
    weights were over `cap`. `right` is the weighted share of right answers among those spoken of;
    it would be `low` if right answers were spoken of `TIMES` times as often as wrong ones, and
    `high` if wrong ones were.
    """

    requests: int
    labelled: int
    left_out: Mapping[str, int]
    cap: float
    cut: int
    effective: tuple[float, ...]
    unsupported: tuple[float, ...]
    right: tuple[float, ...] = ()
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()


class Rows(msgspec.Struct, frozen=True):
    """Prompts, and what is known of each target's answers: matrices are [prompts, targets].

    `known` is the weight of each answer, 0 where there is none: then `right` and `cost` are 0.
    `keys` are digests of texts, or ids of requests, which began `at`; 0 for texts. `stands` is how
    many prompts each stands for, 0 for one that not all targets have answered: nothing is judged by
    it.
    `few` are targets of which too little is known.
    """

    keys: tuple[str, ...]
    vectors: Floats
    plain: Floats
    targets: tuple[str, ...]
    right: Matrix
    cost: Matrix
    known: Matrix
    at: Vector
    stands: Vector
    few: Mapping[str, int] = {}
    heard: Heard | None = None


def rows_of(
    answers: Sequence[Answer],
    candidates: Sequence[str],
    kind: FeatureKind,
    logged: Sequence[Logged] = (),
    left_out: Mapping[str, int] | None = None,
    *,
    fewest: int = FEWEST,
) -> Rows:
    """Several answers of a target to the same text count by their mean. `kind` reads the texts, as
    it has read what was `logged`; `left_out` are requests that could not be read, and why. Nothing
    is learned of targets with fewer answers than `fewest`. Raises EncoderError."""
    tried: dict[str, dict[str, list[tuple[float, float]]]] = {}
    counts = dict.fromkeys(candidates, 0)
    first_of: dict[str, Answer] = {}
    for answer in answers:
        if answer.target in counts:
            key = answer.key
            first_of.setdefault(key, answer)
            of = tried.setdefault(key, {})
            of.setdefault(answer.target, []).append((answer.right, answer.cost))
    for of in tried.values():
        for target in of:
            counts[target] += 1
    for each in logged:
        if each.right is not None and each.target in counts:
            counts[each.target] += 1
    targets = tuple(target for target, n in counts.items() if n >= fewest)
    few = {target: n for target, n in counts.items() if 0 < n < fewest}
    place = {target: at for at, target in enumerate(targets)}
    tried = {key: of for key, of in tried.items() if any(target in place for target in of)}
    some = [each for each in logged if each.target in place]
    own = [first_of[key] for key in tried]
    texts = iter(kind.of_all([each.text for each in own if each.read is None]))
    read = [each.read or next(texts) for each in own] + [each.read for each in some]
    n, first = len(read), len(tried)
    right, cost, known = (np.zeros((n, len(targets))) for _ in range(3))
    stands = np.ones(n)
    for row, of in enumerate(tried.values()):
        for target, at in place.items():
            if target in of:
                right[row, at], cost[row, at] = np.mean(of[target], axis=0)
                known[row, at] = 1.0
        stands[row] = float(known[row].all())
    vectors, plain = _stacked([vector for vector, _ in read], [figures for _, figures in read])
    heard = None
    if some:
        stands[first:] = [each.stands for each in some]
        for row, each in enumerate(some, first):
            if each.right is not None:
                at = place[each.target]
                right[row, at], cost[row, at] = each.right, each.cost
        weights, heard = _heard(some, targets, vectors[first:], plain[first:], left_out or {})
        known[first:] = weights
    return Rows(
        (*tried, *(each.id for each in some)),
        vectors,
        plain,
        targets,
        right,
        cost,
        known,
        np.array([0.0] * first + [each.at for each in some]),
        stands,
        few,
        heard,
    )


def prompt_of(text: str) -> str:
    """By what a text is known where it is not kept: 128 bits of its SHA-256, in hex."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _stacked(vectors: list[Floats], plain: list[Floats]) -> tuple[Floats, Floats]:
    if not vectors:
        return np.zeros((0, 0), np.float32), np.zeros((0, 0), np.float32)
    return np.stack(vectors), np.stack(plain)


def _heard(
    some: Sequence[Logged],
    targets: Sequence[str],
    vectors: Floats,
    plain: Floats,
    left_out: Mapping[str, int],
) -> tuple[Matrix, Heard]:
    """The weight of each request's label [requests, targets], and what there is to be told."""
    n = len(some)
    place = {target: at for at, target in enumerate(targets)}
    column = np.array([place[each.target] for each in some])
    labelled = np.array([each.right is not None for each in some])
    stands = np.array([each.stands for each in some])
    chances = np.array(
        [[each.propensities.get(target, 0.0) for target in targets] for each in some]
    )
    chosen = np.maximum(chances[np.arange(n), column], 1e-9)
    spoken = np.ones(n)
    if labelled.any() and not labelled.all():
        asked, said = np.zeros((n, len(targets))), np.zeros((n, len(targets)))
        asked[np.arange(n), column], said[np.arange(n), column] = stands, labelled
        scores = fit(vectors, plain, said, asked).scores(vectors, plain)
        spoken = np.clip(scores[np.arange(n), column], RAREST, 1.0)
    total = float(stands.sum())
    cap = sqrt(total)
    whole = 1.0 / (chosen * spoken)
    weight = np.zeros((n, len(targets)))
    weight[np.arange(n), column] = np.where(labelled, np.minimum(whole, cap), 0.0)
    sums, squares = weight.sum(axis=0), (weight**2).sum(axis=0)
    said_right = np.array([float(each.right or 0.0) for each in some])
    right = (weight * said_right[:, None]).sum(axis=0) / np.maximum(sums, 1e-9)
    asked_of = np.bincount(column, stands / chosen, len(targets))
    told_of = np.bincount(column, labelled * stands / chosen, len(targets))
    shares = told_of / np.maximum(asked_of, 1e-9)
    heard = Heard(
        round(total),
        int(labelled.sum()),
        dict(left_out),
        cap,
        int((labelled & (whole > cap)).sum()),
        tuple((sums**2 / np.maximum(squares, 1e-9)).tolist()),
        tuple((((chances <= 0.0) * stands[:, None]).sum(axis=0) / total).tolist()),
        tuple(right.tolist()),
        tuple(tilted(right, shares, TIMES).tolist()),
        tuple(tilted(right, shares, 1.0 / TIMES).tolist()),
    )
    return weight, heard


def tilted(right: Vector, spoken: Vector, times: float) -> Vector:
    """The share of right answers of all, where it is `right` of those spoken of, which are a share
    `spoken` of all, and right answers are spoken of `times` as often as wrong ones.

        p / (1 - p) = right / (1 - right) / times

    by Bayes' theorem; as a bound on what is not told it is the tilt of Scharfstein, Rotnitzky and
    Robins (1999). Those spoken of stay as they are: p is never less than if all the others were
    wrong, nor more than if all were right.
    """
    found = right / np.maximum(right + times * (1.0 - right), 1e-9)
    bounded: Vector = np.clip(found, spoken * right, spoken * right + 1.0 - spoken)
    return bounded
