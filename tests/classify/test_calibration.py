import numpy as np
import pytest

from gateway.classify.calibration import Prior, Top, calibrate, folds, top
from tests.classify.samples import LEARN

_PRIOR = Prior(bias=-2.0, level=0.4, margin=0.9)


def _draw(count: int) -> tuple[list[Top], list[bool]]:
    """Logits whose chance of being right is 1 / (1 + exp(1 - margin)), whatever their level."""
    random = np.random.default_rng(11)
    margins, levels = random.uniform(0, 5, count), random.uniform(0, 5, count)
    right = random.uniform(size=count) < 1 / (1 + np.exp(1 - margins))
    tops = [Top((0, 1), (float(a), float(a - b))) for a, b in zip(levels, margins, strict=True)]
    return tops, [bool(value) for value in right]


def test_confidence_is_how_often_predictions_are_right() -> None:
    calibration = calibrate(*_draw(4000), _PRIOR)
    for margin in (0.5, 1.0, 3.0):
        expected = 1 / (1 + np.exp(1 - margin))
        assert calibration.confidence(2.0, 2.0 - margin) == pytest.approx(expected, abs=0.04)


def test_nine_in_ten_right_predictions_reach_the_threshold() -> None:
    tops, right = _draw(4000)
    calibration = calibrate(tops, right, _PRIOR)
    reached = [
        calibration.confidence(t.logits[0], t.second) >= calibration.threshold
        for t, ok in zip(tops, right, strict=True)
        if ok
    ]
    assert np.mean(reached) == pytest.approx(0.9, abs=0.01)


def test_without_evidence_the_prior_stands() -> None:
    calibration = calibrate([], [], _PRIOR)
    assert (calibration.bias, calibration.level, calibration.margin) == (-2.0, 0.4, 0.9)
    assert calibration.threshold == 0.5


def test_confidence_stays_in_range_for_any_logits() -> None:
    calibration = calibrate(*_draw(100), _PRIOR)
    assert 0.0 <= calibration.confidence(-1e30, 1e30) < calibration.confidence(1e30, 0.0) <= 1.0


def test_every_example_is_held_out_once_unless_it_is_its_labels_only_one() -> None:
    examples = [*LEARN, ("pay the invoice", "billing")]
    held = folds(examples)
    assert set(held[:-1]) == {0, 1, 2, 3, 4}
    assert held[-1] is None


def test_folds_follow_the_example_and_not_its_place() -> None:
    forward = dict(zip(LEARN, folds(LEARN), strict=True))
    backward = dict(zip(LEARN[::-1], folds(LEARN[::-1]), strict=True))
    assert forward == backward


def test_only_one_fold_of_many_examples_is_held_out() -> None:
    examples = [(f"text {i}", f"label {i % 7}") for i in range(4001)]
    held = folds(examples)
    assert 0.19 < sum(at == 0 for at in held) / len(held) < 0.21
    assert set(held) == {0, None}


def test_top_is_the_best_few_best_first() -> None:
    found = top(np.array([0.5, 3.0, -1.0, 2.0, 2.5], np.float32), 2.0)
    assert found == Top((1, 4, 3), (6.0, 5.0, 4.0))
    assert found.second == 5.0
    assert top(np.array([1.5], np.float32)).second == 0.0
