"""Every fault x whole or streamed x who else is there: each by its rule, and the page by all."""

import asyncio

import pytest

from tests.faults.cases import CASES, Case
from tests.faults.matrix import Matrix, run
from tests.faults.page import PAGE, written
from tests.faults.rules import wrongs


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Matrix:
    """All of it at once: most of the time is spent in waiting for what hangs."""
    return asyncio.run(run(CASES, tmp_path_factory.mktemp("faults")))


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_a_fault_comes_to_what_its_rule_says(case: Case, matrix: Matrix) -> None:
    seen = [each for each in matrix.observed if each.trial.case is case]
    assert len(seen) == 10
    found = [wrong for each in seen for wrong in wrongs(each)]
    assert not found, "\n".join(found)


def test_nothing_is_left_behind(matrix: Matrix) -> None:
    assert matrix.running == 0
    assert matrix.tasks == []
    assert matrix.connections == 0


def test_the_page_says_what_is_seen(matrix: Matrix) -> None:
    page = PAGE.read_text("utf-8")
    assert page == written(page, matrix.observed), "`make faults` writes docs/reliability.md anew"
