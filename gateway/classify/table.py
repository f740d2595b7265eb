"""One row of logits for each word and pair: how a linear classifier over features.py predicts.

A text's vector is the sum over its words and pairs, scaled to length one. So its logits are the sum
of their rows, scaled the same; every row's last column is a part of the squared length. A word that
is not in the table gets its row from its pieces, once, and is then remembered in a cache of
strictly limited size.
"""

import threading
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from gateway.classify import features
from gateway.classify.features import Sparse, Vocabulary
from gateway.classify.softmax import Floats

# Features of few texts are left out where the table would become larger than this.
TABLE_BYTES = 128 << 20
_CACHE_BYTES = 16 << 20
_CACHE_WORDS = 4096
_TEXT_WORDS = 2 * features.HALF + 1
_CHUNK_BYTES = 64 << 20


class Table(msgspec.Struct, frozen=True):
    """`rows`, [features, classes + 1], stand in the vocabulary's order.

    The row of a word (with its pieces) or of a pair is what it adds to each logit and to the
    squared length. The row of a piece is still to be weighed, and its last column is empty:
    pieces only make the rows of words that are not in the vocabulary.
    """

    vocabulary: Vocabulary
    rows: Floats


class Reader:
    """Reads logits off a table; safe to share between threads."""

    def __init__(self, table: Table) -> None:
        known, width = table.rows.shape
        size = max(_TEXT_WORDS, min(_CACHE_WORDS, _CACHE_BYTES // (4 * width)))
        self._table = table
        self._find = table.vocabulary.index.get
        # Looking pairs up as tuples saves making a string of each.
        self._find_pair = {
            tuple(key.split(" ")): at for key, at in table.vocabulary.index.items() if " " in key
        }.get
        # Behind the table's rows stand those of unknown words, so that all are summed at once.
        self._rows = np.concatenate([table.rows, np.zeros((size, width), np.float32)])
        self._free = list(range(known, known + size))
        self._unknown: dict[str, int] = {}
        self._lock = threading.Lock()

    def read(self, words: Sequence[str]) -> tuple[Floats, float]:
        """Logits, [classes], of a text as `features.split` has it, and what to multiply them with;
        fresh, so the caller may change them.

        Without a known feature all logits are 0. The factor is left to the
        caller because few of the logits are needed in the end.
        """
        pairs: Iterable[tuple[str, ...]] = zip(["", *words], [*words, ""], strict=True)
        if len(set(words)) < len(words):
            words, pairs = list(dict.fromkeys(words)), dict.fromkeys(pairs)
        found = list(map(self._find, words))
        known = [at for at in (*found, *map(self._find_pair, pairs)) if at is not None]
        with self._lock:
            if None in found:
                known += self._places([w for w, at in zip(words, found, strict=True) if at is None])
            total: Floats = np.add.reduce(self._rows.take(known, axis=0), axis=0)
        square = float(total[-1])
        return total[:-1], square**-0.5 if square > 0.0 else 0.0

    def _places(self, words: list[str]) -> list[int]:
        """Where the rows of unknown words stand; the ones read longest ago make room for new ones.

        There is room for more than the longest text has, so that none of its own words is put out
        before it is read: each is the last one read from when it is looked up.
        """
        return [self._place(word) for word in words]

    def _place(self, word: str) -> int:
        at = self._unknown.pop(word, None)
        if at is None:
            at = self._free.pop() if self._free else self._unknown.pop(next(iter(self._unknown)))
            vector = features.vector(word, self._table.vocabulary)
            self._rows[at] = _composed(vector, self._table.rows)
        self._unknown[word] = at
        return at


def fold(rows: Sparse, coefficients: Floats, vocabulary: Vocabulary) -> Table:
    """The table of a fit with these coefficients, [texts, classes], of softmax.py's dual form."""
    table = np.zeros((rows.width, coefficients.shape[1] + 1), np.float32)
    _transposed_product(rows, coefficients, table[:, :-1])
    for key, at in vocabulary.index.items():
        if not key.startswith(features.PIECE):
            table[at] = _composed(features.vector(key, vocabulary), table)
    return Table(vocabulary, table)


def _transposed_product(rows: Sparse, coefficients: Floats, out: Floats) -> None:
    """Xᵀ A into `out`, feature by feature, in chunks that bound the memory it takes."""
    owner = np.repeat(np.arange(len(coefficients)), np.diff(rows.starts))
    order = np.argsort(rows.columns, kind="stable")
    begin = np.searchsorted(rows.columns[order], np.arange(rows.width + 1))
    step = max(1, _CHUNK_BYTES // (4 * coefficients.shape[1]))
    low = 0
    while low < rows.width:
        high = max(low + 1, int(np.searchsorted(begin, begin[low] + step, side="right")) - 1)
        at = order[begin[low] : begin[high]]
        terms = rows.values[at, None] * coefficients[owner[at]]
        out[low:high] = np.add.reduceat(terms, begin[low:high] - begin[low], axis=0)
        low = high


def _composed(weights: dict[int, float], table: Floats) -> Floats:
    """One word's or pair's row: its features' rows weighed and summed, and its squared length."""
    values = np.fromiter(weights.values(), np.float32, len(weights))
    row: Floats = values @ table.take(list(weights), axis=0)
    row[-1] = values @ values
    return row
