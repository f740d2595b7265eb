"""The page of figures is written by commands, part by part."""

import pytest

from benchmarks.quality import PAGE, told

PARTS = ["suites", "experiments", "replay", "routing", "compositions"]


@pytest.mark.parametrize("part", PARTS)
def test_every_part_can_be_written_anew_and_leaves_the_others(part: str) -> None:
    page = PAGE.read_text("utf-8")
    once = told(page, part, "Figures.")
    assert told(once, part, "Figures.") == once
    assert f"<!-- measured: {part} -->\n\nFigures.\n\n<!-- end: {part} -->" in once
    for other in PARTS:
        if other != part:
            assert _of(once, other) == _of(page, other)


def test_a_part_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="no part 'luck'"):
        told(PAGE.read_text("utf-8"), "luck", "7")


def _of(page: str, part: str) -> str:
    return page.partition(f"<!-- measured: {part} -->")[2].partition(f"<!-- end: {part} -->")[0]
