"""Measure the classifiers on public intent sets: ten examples a label to learn from.

The data directory holds BANKING77, CLINC150 and HWU64, each with `train_10` and `test`, which hold
`seq.in` (a text a line) and `label`; CLINC150 also has `oos_test.txt`, texts of no label. Fits see
`train_10` alone.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.classify.base import Classifier, Prediction
from gateway.classify.bert import BertEncoder
from gateway.classify.calibration import Example
from gateway.classify.encoder import Encoder
from gateway.classify.fit import Kind, fit
from gateway.errors import SwitchboardError

SETS = ("BANKING77", "CLINC150", "HWU64")
_WITH_OTHERS = "CLINC150"
_WORDS = 40
_BINS = 15


class _Scored(msgspec.Struct):
    right: NDArray[np.bool_]
    confidence: NDArray[np.float64]
    cpu_us: list[float]
    wall_us: list[float]


def run(
    data: Path,
    kinds: Sequence[Kind],
    model_dir: Path | None = None,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, dict[str, Any]]:
    """For each kind:

    - one entry a set: accuracy on its test part, in per cent;
    - `us`: mean CPU time of a prediction, in microseconds, and `p50_us`: the median by the clock,
      both over the test texts of up to 40 words, each predicted once, with cold caches;
    - `ece`: expected calibration error by set, in per cent, in 15 bins of equal width
      (Guo et al. 2017);
    - `kept`: by set, the shares of right and of wrong predictions that reach the threshold;
    - `oos_auroc`: how well confidence tells CLINC150's test texts from those of no label;
      `oos_refused`: the share of the latter below the threshold;
    - `fit_s`: seconds to fit, by set.

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
    figures: dict[str, Any] = {"ece": {}, "kept": {}, "fit_s": {}}
    cpu: list[float] = []
    wall: list[float] = []
    for name in SETS:
        begin = time.perf_counter()
        classifier = fit(kind, _examples(data / name / "train_10"), None, encoder)
        figures["fit_s"][name] = round(time.perf_counter() - begin, 2)
        scored = _score(classifier, _examples(data / name / "test"))
        reached = scored.confidence >= classifier.threshold
        figures[name] = round(100 * float(scored.right.mean()), 2)
        figures["ece"][name] = round(100 * calibration_error(scored.confidence, scored.right), 2)
        figures["kept"][name] = {
            "right": _share(reached[scored.right]),
            "wrong": _share(reached[~scored.right]),
        }
        cpu += scored.cpu_us
        wall += scored.wall_us
        progress(f"{kind} {name}: {figures[name]} %")
        if name == _WITH_OTHERS:
            others = _others(classifier, data / name / "oos_test.txt")
            figures["oos_auroc"] = round(auroc(scored.confidence, others), 4)
            figures["oos_refused"] = _share(others < classifier.threshold)
    figures["us"] = round(float(np.mean(cpu)), 1)
    figures["p50_us"] = round(float(np.median(wall)), 1)
    return figures


def _score(classifier: Classifier, examples: Sequence[Example]) -> _Scored:
    scored = _Scored(np.zeros(len(examples), bool), np.zeros(len(examples)), [], [])
    timed: set[str] = set()
    for at, (text, label) in enumerate(examples):
        prediction, cpu, wall = _timed(classifier, text)
        scored.right[at] = prediction.label == label
        scored.confidence[at] = prediction.confidence
        if text not in timed and len(text.split()) <= _WORDS:
            timed.add(text)
            scored.cpu_us.append(cpu)
            scored.wall_us.append(wall)
    return scored


def _timed(classifier: Classifier, text: str) -> tuple[Prediction, float, float]:
    wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
    prediction = classifier.predict(text)
    cpu, wall = time.thread_time_ns() - cpu, time.perf_counter_ns() - wall
    return prediction, cpu / 1000, wall / 1000


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
    return round(float(values.mean()), 3) if len(values) else 0.0


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
