"""What people said of a run's answers, as lines beside it: `labels.jsonl`, each a label.

    .switchboard/evals/SUITE/RUN/labels.jsonl

A line is written whole and synced before it is acknowledged, and nothing is ever taken out: whoever
changes a mind says it again, and what a rater said last of a pair is what counts.
"""

import os
import random
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from gateway.evals.runs import Result, RunError

FILE = "labels.jsonl"

Preferred: TypeAlias = Literal["one", "other", "tie"]
Key: TypeAlias = tuple[str, str, str, int]
"""Case, one target, the other, repetition."""


class Pair(msgspec.Struct, frozen=True):
    """Two targets' answers to a case, at one repetition of it."""

    case: str
    one: Result
    other: Result

    @property
    def key(self) -> "Key":
        """What a label of it is known by."""
        return self.case, self.one.target, self.other.target, self.one.rep

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
    rep: int = 0

    @property
    def key(self) -> Key:
        """The pair that it is of."""
        return self.case, self.one, self.other, self.rep

    @property
    def whole(self) -> bool:
        """Whether all has been said."""
        return self.preferred is not None and len(self.right) == 2


def pairs(
    results: Iterable[Result],
    targets: Sequence[str],
    seed: int,
    cases: int | None = None,
    repetitions: int | None = None,
) -> list[Pair]:
    """Every two of `targets` at every repetition of every case that both have answered, shuffled
    by the seed; of at most so many cases, and the first so many repetitions of each.

    Two texts that stood side by side at an earlier repetition of the case are not asked again: what
    is said of them counts for both (`spread`). Raters see pairs in one order, so that those who
    stop early have seen the same.
    """
    said = _said(results, targets)
    names = [case for case, reps in said.items() if any(len(each) > 1 for each in reps.values())]
    order = random.Random(seed)
    order.shuffle(names)
    found = []
    for case in names[:cases]:
        seen = set()
        for rep in sorted(said[case])[:repetitions]:
            answers = said[case][rep]
            for one, other in combinations(targets, 2):
                if one in answers and other in answers:
                    pair = Pair(case, answers[one], answers[other])
                    texts = (one, other, pair.one.output, pair.other.output)
                    if texts not in seen:
                        found.append(pair)
                    seen.add(texts)
    order.shuffle(found)
    return found


def _said(
    results: Iterable[Result], targets: Sequence[str] | None = None
) -> dict[str, dict[int, dict[str, Result]]]:
    """By case, repetition and target what was answered."""
    said: dict[str, dict[int, dict[str, Result]]] = {}
    for each in results:
        if each.error is None and (targets is None or each.target in targets):
            said.setdefault(each.case, {}).setdefault(each.rep, {})[each.target] = each
    return said


def spread(labels: Iterable[Label], results: Iterable[Result]) -> list[Label]:
    """The labels, each also at the other repetitions of its case at which the two targets said the
    same two texts, but where the rater has said something of that repetition by itself."""
    said = _said(results)
    found = {(each.rater, *each.key): each for each in labels}
    for each in list(found.values()):
        reps = said.get(each.case, {})
        texts = _texts(reps.get(each.rep, {}), each)
        for rep, answers in reps.items():
            if texts is not None and _texts(answers, each) == texts:
                again = msgspec.structs.replace(each, rep=rep)
                found.setdefault((again.rater, *again.key), again)
    return list(found.values())


def _texts(answers: Mapping[str, Result], label: Label) -> tuple[str, str] | None:
    one, other = answers.get(label.one), answers.get(label.other)
    return None if one is None or other is None else (one.output, other.output)


def turned(pair: Pair, rater: str, seed: int) -> bool:
    """Whether this rater sees the pair's other answer on the left: a coin of the seed."""
    again = f" {pair.one.rep}" if pair.one.rep else ""
    words = f"{seed} {rater} {pair.case} {pair.one.target} {pair.other.target}{again}"
    coin = random.Random(words)
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
    found = {(each.rater, *each.key): each for each in labels}
    return list(found.values())
