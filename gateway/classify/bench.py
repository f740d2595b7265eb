"""Measure the classifiers on public intent sets: ten examples a label to learn from.

The data directory holds BANKING77, CLINC150 and HWU64, each with `train_10` and `test`, which hold
`seq.in` (a text a line) and `label`; CLINC150 also has `oos_test.txt`, texts of no label. Fits see
`train_10` alone.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.classify.base import Classifier
from gateway.classify.bert import BertEncoder
from gateway.classify.calibration import Example
from gateway.classify.encoder import Encoder
from gateway.classify.fit import Kind, fit
from gateway.errors import SwitchboardError

SETS = ("BANKING77", "CLINC150", "HWU64")
_WITH_OTHERS = "CLINC150"
_WORDS = 40
_BINS = 15
# Other work on the machine only ever adds time. The encoder's tens of seconds even it out.
_ROUNDS: dict[Kind, int] = {"lexical": 5, "embedding": 1}


class _Scored(msgspec.Struct):
    right: NDArray[np.bool_]
    confidence: NDArray[np.float64]


class _Times(msgspec.Struct):
    """Of one round over one set's texts: CPU time in all, and of each text the clock's, in us."""

    cpu: float
    wall: list[float]


def run(
    data: Path,
    kinds: Sequence[Kind],
    model_dir: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """For each kind, with every share and accuracy as a fraction of one:

    - one entry a set: accuracy on its test part;
    - `us`: CPU time of a prediction in microseconds, of all threads of the process, and `p50_us`:
      the median by the clock; both over the test texts of up to 40 words, each predicted once by a
      classifier whose caches are cold, and of several such rounds the least;
    - `ece`: expected calibration error by set, in 15 bins of equal width (Guo et al. 2017);
    - `threshold`: by set, the confidence below which a text goes to the default route;
    - `kept`: by set, the shares of right and of wrong predictions that reach the threshold;
    - `oos_auroc`: how well confidence tells CLINC150's test texts from those of no label;
      `oos_refused`: the share of the latter below the threshold;
    - `fit_s`: seconds to fit by set, and `load_ms`: milliseconds to read the fit from its file.

    `model_dir` is a sentence-transformers directory, which the kind "embedding" needs. Raises
    SwitchboardError that names what is missing.
    """
    encoder: Encoder | None = None
    if "embedding" in kinds:
        if model_dir is None:
            raise SwitchboardError("the kind 'embedding' needs a model: give its directory")
        encoder = BertEncoder(model_dir)
    return {kind: _measure(data, kind, encoder, progress) for kind in kinds}


def _measure(
    data: Path, kind: Kind, encoder: Encoder | None, progress: Callable[[str], None]
) -> dict[str, Any]:
    accuracy: dict[str, float] = {}
    by_set: dict[str, dict[str, Any]] = {}
    others: dict[str, float] = {}
    rounds: list[list[_Times]] = []
    for name in SETS:
        tests = _examples(data / name / "test")
        classifier, figures, times = _fitted(kind, data / name / "train_10", tests, encoder)
        rounds.append(times)
        scored = _score(classifier, tests)
        reached = scored.confidence >= classifier.threshold
        accuracy[name] = _share(scored.right)
        figures |= {
            "ece": round(calibration_error(scored.confidence, scored.right), 4),
            "threshold": round(classifier.threshold, 3),
            "kept": {
                "right": _share(reached[scored.right]),
                "wrong": _share(reached[~scored.right]),
            },
        }
        for figure, value in figures.items():
            by_set.setdefault(figure, {})[name] = value
        if name == _WITH_OTHERS:
            confidence = _others(classifier, data / name / "oos_test.txt")
            others["oos_auroc"] = round(auroc(scored.confidence, confidence), 4)
            others["oos_refused"] = _share(confidence < classifier.threshold)
        progress(f"{kind} {name}: {accuracy[name]:.2%}")
    return {**accuracy, **_least(rounds), **by_set, **others}


def _fitted(
    kind: Kind, train: Path, tests: Sequence[Example], encoder: Encoder | None
) -> tuple[Classifier, dict[str, Any], list[_Times]]:
    """Fits, then reads the fit for each round anew: that is what makes caches cold."""
    examples = _examples(train)
    texts = list(dict.fromkeys(text for text, _ in tests if len(text.split()) <= _WORDS))
    with tempfile.TemporaryDirectory() as cache:

        def make() -> tuple[float, Classifier]:
            begin = time.perf_counter()
            classifier = fit(kind, examples, Path(cache), encoder)
            return time.perf_counter() - begin, classifier

        took, classifier = make()
        loads, times = [], []
        for _ in range(_ROUNDS[kind]):
            load, fresh = make()
            loads.append(load)
            times.append(_timed(fresh, texts))
    figures = {"fit_s": round(took, 2), "load_ms": round(1000 * min(loads), 1)}
    return classifier, figures, times


def _least(by_set: Sequence[Sequence[_Times]]) -> dict[str, float]:
    """Each set's own least round, and all sets' texts together."""
    cpu = [min(times.cpu for times in rounds) for rounds in by_set]
    texts = sum(len(rounds[0].wall) for rounds in by_set)
    best = [min(rounds, key=lambda times: sum(times.wall)).wall for rounds in by_set]
    return {
        "us": round(sum(cpu) / texts, 1),
        "p50_us": round(float(np.median(np.concatenate(best))), 1),
    }


def _timed(classifier: Classifier, texts: Sequence[str]) -> _Times:
    wall = []
    begin = time.process_time_ns()
    for text in texts:
        start = time.perf_counter_ns()
        classifier.predict(text)
        wall.append((time.perf_counter_ns() - start) / 1000)
    return _Times((time.process_time_ns() - begin) / 1000, wall)


def _score(classifier: Classifier, examples: Sequence[Example]) -> _Scored:
    predictions = [classifier.predict(text) for text, _ in examples]
    right = [p.label == label for p, (_, label) in zip(predictions, examples, strict=True)]
    return _Scored(np.array(right), np.array([p.confidence for p in predictions]))


def _others(classifier: Classifier, path: Path) -> NDArray[np.float64]:
    return np.array([classifier.predict(text).confidence for text in _lines(path)])


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean distance between confidence and share of right ones, over equal-width bins."""
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    gap = np.bincount(bins, confidence - right, _BINS)
    return float(np.abs(gap).sum() / len(confidence))


def auroc(inside: NDArray[np.float64], outside: NDArray[np.float64]) -> float:
    """The chance that one of `inside` is above one of `outside`; a tie counts half."""
    ordered = np.sort(outside)
    below = np.searchsorted(ordered, inside, "left") + np.searchsorted(ordered, inside, "right")
    return float(below.mean() / (2 * len(outside)))


def _share(values: NDArray[np.bool_]) -> float:
    return round(float(values.mean()), 4) if len(values) else 0.0


def _examples(part: Path) -> list[Example]:
    texts, labels = _lines(part / "seq.in"), _lines(part / "label")
    if len(texts) != len(labels):
        raise SwitchboardError(f"{part}: {len(texts)} texts in seq.in, {len(labels)} in label")
    return list(zip(texts, labels, strict=True))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise SwitchboardError(f"{path}: {error.strerror}; is this the data directory?") from error
