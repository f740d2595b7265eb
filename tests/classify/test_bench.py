from pathlib import Path

import numpy as np
import pytest

from gateway.classify import bench
from gateway.errors import SwitchboardError
from tests.classify import tiny_bert
from tests.classify.samples import LEARN, UNSEEN


@pytest.fixture
def data(tmp_path: Path) -> Path:
    long = ("refund " * 41, "refund")
    for name in bench.SETS:
        for part, examples in (("train_10", LEARN), ("test", [*UNSEEN, long])):
            directory = tmp_path / "data" / name / part
            directory.mkdir(parents=True)
            (directory / "seq.in").write_text("".join(f"{text}\n" for text, _ in examples))
            (directory / "label").write_text("".join(f"{label}\n" for _, label in examples))
    others = tmp_path / "data" / "CLINC150" / "oos_test.txt"
    others.write_text("zzyzx qwrtp\nqqq\n")
    return tmp_path / "data"


def test_a_run_tells_accuracy_time_and_calibration(data: Path, tmp_path: Path) -> None:
    tiny_bert.make(tmp_path / "bert")
    lines: list[str] = []
    figures = bench.run(data, ["lexical", "embedding"], tmp_path / "bert", lines.append)
    assert list(figures) == ["lexical", "embedding"]
    assert figures["lexical"]["HWU64"] == 100.0
    assert figures["lexical"]["oos_auroc"] == 1.0
    assert figures["lexical"]["oos_refused"] == 1.0
    assert figures["lexical"]["kept"]["BANKING77"] == {"right": 1.0, "wrong": 0.0}
    for kind in figures.values():
        assert kind["us"] > 0
        assert kind["p50_us"] > 0
        assert set(kind["ece"]) == set(kind["fit_s"]) == set(bench.SETS)
    assert lines[0] == "lexical BANKING77: 100.0 %"
    assert len(lines) == 6


def test_what_is_missing_is_named(data: Path) -> None:
    (data / "HWU64" / "test" / "label").unlink()
    with pytest.raises(SwitchboardError, match="HWU64/test/label"):
        bench.run(data, ["lexical"])
    with pytest.raises(SwitchboardError, match="needs a model"):
        bench.run(data, ["embedding"])


def test_texts_and_labels_must_pair_up(data: Path) -> None:
    (data / "BANKING77" / "test" / "label").write_text("refund\n")
    with pytest.raises(SwitchboardError, match=r"9 texts in seq\.in, 1 in label"):
        bench.run(data, ["lexical"])


def test_calibration_error_is_the_gap_in_each_bin() -> None:
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.1, 0.1])
    right = np.array([True, True, True, False, False, False])
    expected = (4 * abs(0.9 - 0.75) + 2 * 0.1) / 6
    assert bench.calibration_error(confidence, right) == pytest.approx(expected)


def test_auroc_is_the_chance_to_stand_above() -> None:
    assert bench.auroc(np.array([0.9, 0.8]), np.array([0.1, 0.2])) == 1.0
    assert bench.auroc(np.array([0.5, 0.2]), np.array([0.5, 0.1])) == pytest.approx(0.625)
