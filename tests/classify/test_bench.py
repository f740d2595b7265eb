import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gateway.classify import bench
from gateway.cli import build
from gateway.cli.routing import ENCODER
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
    assert figures["lexical"]["HWU64"] == 1.0
    assert figures["lexical"]["oos_auroc"] == 1.0
    assert figures["lexical"]["oos_refused"] == 1.0
    assert figures["lexical"]["kept"]["BANKING77"] == {"right": 1.0, "wrong": 0.0}
    for kind in figures.values():
        assert list(kind)[:4] == [*bench.SETS, "us"]
        assert kind["us"] > 0
        assert kind["p50_us"] > 0
        for name in ("ece", "threshold", "kept", "fit_s", "load_ms"):
            assert set(kind[name]) == set(bench.SETS)
        assert all(0.0 <= share <= 1.0 for share in _shares(kind))
    assert lines[0] == "lexical BANKING77: 100.00%"
    assert len(lines) == 6


def _shares(figures: dict[str, Any]) -> list[float]:
    by_set = [figures["ece"], figures["threshold"], *figures["kept"].values()]
    return [
        *(figures[name] for name in (*bench.SETS, "oos_auroc", "oos_refused")),
        *(share for shares in by_set for share in shares.values()),
    ]


def test_the_command_prints_json_and_nothing_else(data: Path, tmp_path: Path) -> None:
    tiny_bert.make(tmp_path / "bert")
    given = ["bench", "classify", "--data", str(data), "--json"]
    done = CliRunner().invoke(build(), [*given, "--model", str(tmp_path / "bert")])
    figures = json.loads(done.stdout)
    assert done.exit_code == 0
    assert list(figures) == ["lexical", "embedding"]
    assert figures["lexical"]["HWU64"] == 1.0
    assert "embedding HWU64: " in done.stderr


def test_the_command_finds_the_encoder_where_one_works(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_bert.make(tmp_path / ENCODER)
    done = CliRunner().invoke(build(), ["bench", "classify", "--data", str(data)])
    assert done.exit_code == 0
    assert done.stdout.split()[:2] == ["lexical", "embedding"]


def test_the_command_names_what_is_missing(data: Path, tmp_path: Path) -> None:
    given = ["bench", "classify", "--data", str(data), "--model", str(tmp_path / "nowhere")]
    done = CliRunner().invoke(build(), given)
    assert done.exit_code == 1
    assert "nowhere" in done.stderr


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
