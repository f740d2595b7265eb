"""New weights beside the tree's: the comparison that `make demo-train` ends with."""

from typing import Any

from demo import report


def told(**by_model: dict[str, float]) -> dict[str, Any]:
    return {"teacher_forced": {model: {"house": tasks} for model, tasks in by_model.items()}}


BEFORE = told(base={"support": 0.63, "brand": 0.52}, brand={"support": 0.6, "brand": 1.0}) | {
    "served": {"seed": 11}
}


def test_the_same_accuracies_are_said_to_be_the_same() -> None:
    compared = report.figures(BEFORE, BEFORE)
    assert all(figure.agrees for figure in compared)
    assert report.verdict(compared, True) == (
        "4 of 4 accuracies are those of the report in the tree, "
        "and the weights are the same byte for byte"
    )


def test_a_small_difference_is_shown_and_agrees() -> None:
    now = told(base={"support": 0.64, "brand": 0.52}, brand={"support": 0.6, "brand": 1.0})
    compared = report.figures(BEFORE, now)
    assert all(figure.agrees for figure in compared)
    assert "0.630 > 0.640" in report.table(compared)
    assert report.verdict(compared, False).startswith("3 of 4 accuracies")
    assert "bytes differ" in report.verdict(compared, False)


def test_a_large_difference_is_named() -> None:
    now = told(base={"support": 0.63, "brand": 0.52}, brand={"support": 0.6, "brand": 0.79})
    compared = report.figures(BEFORE, now)
    assert [figure.agrees for figure in compared] == [True, True, True, False]
    assert report.verdict(compared, False).endswith("further than 0.02 apart: brand on brand")


def test_what_is_new_agrees_with_nothing() -> None:
    compared = report.figures(told(base={"support": 0.63}), BEFORE)
    assert [figure.agrees for figure in compared] == [True, False, False, False]
    assert "base on brand" in report.verdict(compared, False)


def test_the_table_has_a_line_for_each_model_and_a_column_for_each_task() -> None:
    head, base, brand = report.table(report.figures(BEFORE, BEFORE)).splitlines()
    assert head.split() == ["support", "brand"]
    assert base.split() == ["base", "0.630", "0.520"]
    assert brand.split() == ["brand", "0.600", "1.000"]


def test_what_was_served_stays_with_the_very_same_weights_only() -> None:
    now = told(base={"support": 0.63})
    assert report.carried_over(BEFORE, now, True)["served"] == {"seed": 11}
    assert "served" not in report.carried_over(BEFORE, now, False)
