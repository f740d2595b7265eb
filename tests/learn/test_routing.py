"""`switchboard bench routing`, run as users run it, on data of every shape."""

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.cli import build, routing
from gateway.learn.data import read
from tests.classify import tiny_bert
from tests.cli.running import switchboard


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("encoder")
    tiny_bert.make(directory)
    return directory


def rows(n: int) -> list[tuple[str, float, float]]:
    """Prompts, with what a weak and a strong model score on them."""
    draw = random.Random(7)
    found = []
    for at in range(n):
        hard = at % 2 == 0
        text = f"{'the card is lost' if hard else 'rain today'} {draw.choice(tiny_bert.WORDS)}"
        found.append((text, float(not hard or draw.random() < 0.2), float(draw.random() < 0.9)))
    return found


def test_where_no_encoder_is_there_it_is_said_how_to_get_it(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routing, "ENCODER", Path(".models/none-such"))
    (tmp_path / "pool.csv").write_text("prompt,a,b\nx,1,0\ny,0,1\n")
    words = ["bench", "routing", "--data", str(tmp_path / "pool.csv")]
    done = CliRunner().invoke(build(), words)
    assert done.exit_code == 1
    assert "`python3 scripts/models.py` fetches it" in done.stderr
    (tmp_path / ".models").mkdir()
    (tmp_path / ".models/none-such").symlink_to(encoder)
    monkeypatch.chdir(tmp_path)
    assert "is not there" not in CliRunner().invoke(build(), words).stderr


def test_a_folder_as_routellms_prints_the_figures_and_draws_the_curves(
    tmp_path: Path, encoder: Path
) -> None:
    for name, below, n in (("mmlu", "responses", 120), ("gsm8k", "", 60)):
        folder = tmp_path / "data" / name / below
        folder.mkdir(parents=True)
        lines = [f"{text} {at},{a},{b}" for at, (text, a, b) in enumerate(rows(n))]
        models = "mistralai/Mixtral-8x7B-Instruct-v0.1,gpt-4-1106-preview"
        (folder / "all.csv").write_text("\n".join([f"prompt,{models}", *lines]))
    words = ["--data", "data", "--labels", "50", "--seeds", "2", "--model", str(encoder)]
    every = [
        word for name in ("random", "cheapest", "best", "oracle") for word in ("--baseline", name)
    ]
    ran = switchboard(
        "bench", "routing", *words, *every, "--plot", "p.html", "--json", home=tmp_path
    )
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert set(found) == {"mmlu", "gsm8k"}
    for each in found.values():
        assert {"apgr", "apgr_low", "vs_knn_low", "cpt50", "cpt80", "aiq", "us"} <= set(each)
        assert {"knn_apgr", "ridge_apgr", "oracle_apgr", "vs_random_low"} <= set(each)
        assert each["oracle_apgr"] > each["apgr"] > each["random_apgr"]
        assert each["ridge_apgr"] > 0.6
    assert (found["mmlu"]["protocol"], found["gsm8k"]["protocol"]) == ("draws", "folds")
    page = (tmp_path / "p.html").read_text()
    assert page.count("<svg") == 2
    assert "dollars an answer" in page
    assert "http" not in page


def test_three_models_one_answer_a_row(tmp_path: Path, encoder: Path) -> None:
    lines = ["prompt,model,score,cost"]
    for text, weak, strong in rows(40):
        lines += [f"{text},weak,{weak},0.1", f"{text},strong,{strong},", f"{text},dear,0.5,3"]
    lines += ["only one,weak,1,0.1", "the card is lost,strong,1,2"]
    (tmp_path / "pool.csv").write_text("\n".join(lines))
    ran = switchboard(
        *("bench", "routing", "--data", "pool.csv", "--seeds", "2", "--model", str(encoder)),
        *("--json",),
        home=tmp_path,
    )
    assert ran.code == 0, ran.err
    assert "too few to draw 1,500 from: five folds instead" in ran.said
    found = json.loads(ran.out)["pool"]
    assert 0.0 < found["aiq_low"] <= found["aiq"] < 1.0
    assert {"vs_knn_low", "vs_ridge_low"} <= set(found)
    assert found["left_out"] == 2


def test_columns_that_are_no_scores_are_passed_over_and_costs_filled(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    lines = [f"{at},p{at},{at % 2},0.5,{'' if at else 4},2" for at in range(9)]
    path.write_text("\n".join(["id,prompt,a,b,a_cost,b|total_cost", *lines]))
    (found,) = read(path, {})
    assert found.models == ("a", "b")
    assert found.cost.tolist() == [[4.0, 2.0]] * 9


def test_the_same_prompt_is_never_learned_from_and_tested_on(tmp_path: Path, encoder: Path) -> None:
    (tmp_path / "same.csv").write_text("prompt,a,b\n" + "x,1,0\n" * 20)
    ran = switchboard(
        "bench", "routing", "--data", "same.csv", "--model", str(encoder), home=tmp_path
    )
    assert ran.code == 1
    assert "all prompts are the same" in ran.said
