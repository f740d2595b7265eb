"""Data of others is read whatever it is like; what is wrong with it is said with its line."""

from pathlib import Path

import pytest

from gateway.learn.data import DataError, read


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "data.csv is empty"),
        ("question,a,b\nx,1,0\n", "there is no column `prompt`"),
        ("prompt,a\nx,1\n", "scores of two models or more are needed"),
        ("prompt,a,b\n", "has no rows"),
        ("prompt,a,b\nx,1,0\ny,1,maybe\n", "data.csv:3: `maybe` is no score of b"),
        ("prompt,a,b\nx,1,0\ny,1,7\n", "data.csv:3: the score of b is 7"),
        ("prompt,a,b,a_cost,b_cost\nx,1,0,1,2\ny,1,0,cheap,2\n", "`cheap` is no cost of a"),
    ],
)
def test_what_is_wrong_with_data_is_said_with_its_line(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(DataError) as raised:
        read(path, {})
    assert said in str(raised.value)


def test_a_price_of_a_model_that_is_not_there_is_said(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("prompt,mini,large\nx,1,0\ny,0,1\n")
    with pytest.raises(DataError, match="a price is given of mimi; the models are: mini, large"):
        read(path, {"mimi": 0.1, "large": 1.0})


def test_rows_without_a_score_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text('prompt,a,b\nx,True,0\ny,,1\n"z, of\nseveral lines",0.5,1\n')
    (found,) = read(path, {"a": 0.1, "b": 1.0})
    assert (found.prompts, found.left_out) == (("x", "z, of\nseveral lines"), 1)
    assert found.quality.tolist() == [[1.0, 0.0], [0.5, 1.0]]
    assert found.cost.tolist() == [[0.1, 1.0], [0.1, 1.0]]
