"""The tables of the demo: what is right is computed, what is summed is what came."""

import io

import pytest
from rich.console import Console
from rich.table import Table

from demo import show
from demo.questions import Asked
from demo.show import Got, Total

ASKED = [
    Asked("Where is the receipt of my mixer, which I bought in the spring?", "support", "invoice"),
    Asked("Name our yellow chair.", "brand", "High Solstice"),
    Asked("Add [two] numbers.", "code-help", "def add(a, b):\n    return a + b"),
]
GOT = [
    Got(" invoice\n", "support", "local/tiny+support", 1.5e-6, 20.0),
    Got("high solstice", "general", "commercial/large", 2.5e-4, 300.0),
    Got("def add(a, b):\n    return a + b", "code-help", "commercial/large", 1e-4, 40.0),
]


def printed(table: Table, width: int = show.WIDTH) -> list[str]:
    out = io.StringIO()
    Console(width=width, file=out).print(table)
    return out.getvalue().splitlines()


def test_right_is_the_very_answer() -> None:
    assert [show.is_right(asked, got) for asked, got in zip(ASKED, GOT, strict=True)] == [
        True,
        False,
        True,
    ]
    assert not show.is_right(ASKED[0], GOT[0]._replace(answer="invoice."))


def test_a_total_adds_up() -> None:
    assert show.total(ASKED, GOT) == pytest.approx((2, 3, 3.515e-4, 120.0, 0))


def test_a_total_of_half_the_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        show.total(ASKED, GOT[:2])


def test_what_was_taken_for_other_work_is_counted_and_marked() -> None:
    assert show.recognised(ASKED, GOT) == 2
    assert ["!" in line for line in printed(show.results(ASKED, GOT))[1:]] == [False, True, False]


def test_each_request_has_its_line() -> None:
    head, *lines = printed(show.results(ASKED, GOT))
    assert head.split() == ["text", "route", "target", "answer", "usd/1k", "ms"]
    assert "local/tiny+support" in lines[0]
    assert lines[0].split()[-3:] == ["right", "0.0015", "20"]
    assert lines[1].split()[-3:] == ["wrong", "0.2500", "300"]
    assert lines[2].startswith("Add [two] numbers.")
    assert "return" not in lines[2]


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_lines_fit_and_only_the_text_is_shortened(width: int) -> None:
    lines = printed(show.results(ASKED, GOT), width)
    assert max(len(line) for line in lines) <= width
    assert all("…" not in line[-50:] for line in lines)
    assert "the spring?" in printed(show.results(ASKED, GOT), 160)[1]


def test_the_ways_stand_side_by_side_against_the_first() -> None:
    runs = {"auto": Total(9, 10, 0.002, 50.4), "commercial/large": Total(5, 10, 0.009, 500.0)}
    _, auto, large = printed(show.totals(runs))
    assert auto.split() == ["auto", "9", "of", "10", "(90%)", "0.2000", "1.0", "50"]
    assert large.split() == ["commercial/large", "5", "of", "10", "(50%)", "0.9000", "4.5", "500"]


def test_each_cost_is_a_share_of_the_named_ones_and_escalations_are_counted() -> None:
    asked, got = ASKED[:2], [GOT[0], GOT[1]._replace(escalated=True, cost_usd=3e-4)]
    runs = {"large": Total(1, 2, 0.001, 500.0), "cascade": show.total(asked, got)}
    _, large, cascade = printed(show.shares(runs, "large"))
    assert large.split() == ["large", "1", "of", "2", "(50%)", "0.5000", "100.0%", "0%", "500"]
    assert cascade.split()[1:] == ["1", "of", "2", "(50%)", "0.1507", "30.1%", "50%", "160"]
