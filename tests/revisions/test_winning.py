"""A winner put into a route's file, with all else as it was."""

import pytest

from gateway.revisions.winning import NotWritten, with_winner

ROUTE = """\
name: general  # ours
experiments:
  # which of them?
  old-vs-new:
    arms: {old: a/one, new: a/two}   # both
    traffic: 20 %
  other: {arms: {old: a/one, new: a/two}, traffic: 5 %}
"""
FILES = {"gateway.yaml": "x: y\n", "routes/a.yaml": "name: a\n", "routes/b.yaml": ROUTE}


def test_one_line_more_and_nothing_else() -> None:
    changed = with_winner(FILES, "general", "old-vs-new", "new")

    assert changed["routes/b.yaml"] == ROUTE.replace("    arms:", "    winner: new\n    arms:", 1)
    assert {**changed, "routes/b.yaml": ROUTE} == FILES


def test_also_where_it_stands_on_one_line() -> None:
    changed = with_winner(FILES, "general", "other", "old")

    assert "other: {winner: old, arms: {old: a/one" in changed["routes/b.yaml"]


@pytest.mark.parametrize(("route", "name"), [("none", "other"), ("general", "gone")])
def test_what_is_not_there_is_told(route: str, name: str) -> None:
    with pytest.raises(NotWritten):
        with_winner(FILES, route, name, "new")


def test_what_cannot_be_changed_safely_is_left_alone() -> None:
    packed = "name: general\nexperiments: {x: {arms: {old: a/one, new: a/two}, traffic: 5 %}}\n"
    with pytest.raises(NotWritten, match=r"routes/b.yaml:2 is written"):
        with_winner({"routes/b.yaml": packed}, "general", "x", "new")
