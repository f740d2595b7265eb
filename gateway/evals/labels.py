"""What people said of a run's answers, as lines beside it: `labels.jsonl`, each a label.

    .switchboard/evals/SUITE/RUN/labels.jsonl

A line is written whole and synced before it is acknowledged, and nothing is ever taken out: whoever
changes a mind says it again, and what a rater said last of a pair is what counts.
"""

import os
import random
from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from gateway.evals.runs import Result, RunError

FILE = "labels.jsonl"

Preferred: TypeAlias = Literal["one", "other", "tie"]


class Pair(msgspec.Struct, frozen=True):
    """Two targets' first answers to a case."""

    case: str
    one: Result
    other: Result

    @property
    def same(self) -> bool:
        """Whether both said the same: then neither is better."""
        return self.one.output == self.other.output


class Label(msgspec.Struct, frozen=True):
    """What a rater says of a pair: which is better, and which targets' answers are right. What is
    not said yet is None, or left out. `at` in Unix seconds."""

    rater: str
    case: str
    one: str
    other: str
    preferred: Preferred | None
    right: dict[str, bool]
    at: float

    @property
    def whole(self) -> bool:
        """Whether all has been said."""
        return self.preferred is not None and len(self.right) == 2


def pairs(
    results: Iterable[Result], targets: Sequence[str], seed: int, cases: int | None = None
) -> list[Pair]:
    """Every two of `targets` on every case that both have answered, shuffled by the seed; of at
    most so many cases. Raters see them in one order, so that those who stop early have the same."""
    said: dict[str, dict[str, Result]] = {}
    for each in results:
        if each.rep == 0 and each.error is None and each.target in targets:
            said.setdefault(each.case, {})[each.target] = each
    names = [case for case, answers in said.items() if len(answers) > 1]
    order = random.Random(seed)
    order.shuffle(names)
    found = [
        Pair(case, said[case][one], said[case][other])
        for case in names[:cases]
        for one, other in combinations(targets, 2)
        if one in said[case] and other in said[case]
    ]
    order.shuffle(found)
    return found


def turned(pair: Pair, rater: str, seed: int) -> bool:
    """Whether this rater sees the pair's other answer on the left: a coin of the seed."""
    coin = random.Random(f"{seed} {rater} {pair.case} {pair.one.target} {pair.other.target}")
    return coin.random() < 0.5


def append(path: Path, label: Label) -> None:
    """Writes a label at the end, on disk when this returns. Raises OSError.

    It is written in one piece, so several raters may write into the file at once.
    """
    line = msgspec.json.encode(label) + b"\n"
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            line = b"\n" + line  # the last one was cut off by a crash
        os.write(file, line)
        os.fsync(file)
    finally:
        os.close(file)


def read(path: Path) -> tuple[list[Label], int]:
    """The labels that count, and how many lines cannot be read (cut off by a crash).

    Raises RunError where the file itself cannot be read; none there is none.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return [], 0
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    found, unread = [], 0
    for line in lines:
        try:
            found.append(msgspec.json.decode(line, type=Label))
        except msgspec.DecodeError:
            unread += bool(line.strip())
    return last(found), unread


def last(labels: Iterable[Label]) -> list[Label]:
    """What each rater said last of each pair."""
    found = {(each.rater, each.case, each.one, each.other): each for each in labels}
    return list(found.values())
