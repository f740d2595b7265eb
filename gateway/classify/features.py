"""Texts as sparse vectors of words, pairs of neighbouring words, and pieces of words.

Every feature belongs to one word or one pair, so that a text's vector is the sum over its words and
pairs: that is what lets a fitted classifier keep one row of logits a word.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import numpy as np

from gateway.classify.softmax import Floats, Ints

# Of a longer text only the first and the last HALF characters are read: what is asked stands
# before or after the material, seldom in its midst.
HALF = 1000
_PIECES = (2, 3, 4)
_WORD_SHARE, _PAIR_SHARE, _PIECE_SHARE = 1.0, 0.6, 0.5
_IDF_POWER = 0.7
_WORD = re.compile(r"\w{1,32}|[^\w\s]")
_DIGITS = re.compile(r"\d+")
PIECE = "\t"


class Vocabulary(msgspec.Struct, frozen=True):
    """The features of one fit: where each stands in `weights`.

    A word is its own key, a pair is `a b`, a piece has a tab before it.
    """

    index: Mapping[str, int]
    weights: Floats


class Sparse(msgspec.Struct, frozen=True):
    """A sparse matrix by rows: row i is (columns, values) from starts[i] to starts[i + 1]."""

    starts: Ints
    columns: Ints
    values: Floats
    width: int


def split(text: str) -> list[str]:
    """Lower-case words and signs, numbers folded to 0. Safe for any text; long ones are cut."""
    if len(text) > 2 * HALF:
        text = f"{text[:HALF]} {text[-HALF:]}"
    return _WORD.findall(_DIGITS.sub("0", text.lower()))


def parts(words: Sequence[str]) -> list[str]:
    """The words and pairs of a text, each once: long material repeats itself, and would drown
    what is asked about it."""
    return list(dict.fromkeys([*words, *pairs(words)]))


def pairs(words: Sequence[str]) -> list[str]:
    """Neighbours, with nothing before the first word and after the last."""
    return [f"{a} {b}" for a, b in zip(["", *words], [*words, ""], strict=True)] if words else []


def pieces(word: str) -> list[str]:
    """The 2-, 3- and 4-grams of a word between its edges, but not the whole."""
    bounded = f"<{word}>"
    return [
        PIECE + bounded[at : at + size]
        for size in _PIECES
        if size < len(bounded)
        for at in range(len(bounded) - size + 1)
    ]


def learn(texts: Sequence[Sequence[str]], limit: int) -> Vocabulary:
    """The features of texts that are given as words; at most `limit`, those in most texts.

    A feature in d of n texts weighs share × ln((n + 1) / (d + ½))^0.7: an inverse document
    frequency, flattened because few examples tell little about how rare a word is.
    """
    counts: Counter[str] = Counter()
    for words in texts:
        counts.update({*parts(words), *(piece for word in words for piece in pieces(word))})
    kept = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit]
    weights = [
        _share(key) * np.log((len(texts) + 1) / (count + 0.5)) ** _IDF_POWER for key, count in kept
    ]
    return Vocabulary({key: at for at, (key, _) in enumerate(kept)}, np.array(weights, np.float32))


def vector(part: str, vocabulary: Vocabulary) -> dict[int, float]:
    """Weights of a word (itself and its pieces) or of a pair; empty if nothing of it is known."""
    weights: dict[int, float] = {}
    for key in (part,) if " " in part else (part, *pieces(part)):
        at = vocabulary.index.get(key)
        if at is not None:
            weights[at] = weights.get(at, 0.0) + float(vocabulary.weights[at])
    return weights


def matrix(texts: Iterable[Sequence[str]], vocabulary: Vocabulary) -> Sparse:
    """One row a text, each scaled to length one, with parts of a text taken as orthogonal.

    That length, the root of the sum of the squared lengths of words and pairs, is not quite the
    vector's own where words share pieces, but it too is a sum over words and pairs.
    """
    known: dict[str, tuple[dict[int, float], float]] = {}
    starts, columns, values = [0], list[int](), list[float]()
    for words in texts:
        row: dict[int, float] = {}
        square = 0.0
        for part in parts(words):
            if part not in known:
                weights = vector(part, vocabulary)
                known[part] = weights, sum(value * value for value in weights.values())
            weights, length = known[part]
            square += length
            for at, value in weights.items():
                row[at] = row.get(at, 0.0) + value
        scale = square**-0.5 if square else 0.0
        columns += row
        values += [scale * value for value in row.values()]
        starts.append(len(columns))
    return Sparse(
        np.array(starts),
        np.array(columns, np.int64),
        np.array(values, np.float32),
        len(vocabulary.weights),
    )


def gram(rows: Sparse) -> Floats:
    """X Xᵀ, [n, n], by posting lists: a feature of few texts, and most are, costs little."""
    n = len(rows.starts) - 1
    owner = np.repeat(np.arange(n), np.diff(rows.starts))
    order = np.argsort(rows.columns, kind="stable")
    texts, weights = owner[order], rows.values[order]
    begin = np.searchsorted(rows.columns[order], np.arange(rows.width + 1))
    kernel = np.empty((n, n), np.float32)
    for i in range(n):
        mine = slice(rows.starts[i], rows.starts[i + 1])
        first, counts = begin[rows.columns[mine]], np.diff(begin)[rows.columns[mine]]
        ends = np.cumsum(counts)
        at = np.arange(ends[-1] if len(ends) else 0) + np.repeat(first - ends + counts, counts)
        kernel[i] = np.bincount(
            texts[at], np.repeat(rows.values[mine], counts) * weights[at], minlength=n
        )
    return kernel


def _share(key: str) -> float:
    if key.startswith(PIECE):
        return _PIECE_SHARE
    return _PAIR_SHARE if " " in key else _WORD_SHARE
