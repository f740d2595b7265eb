"""What labels say, and how far those who gave them agree."""

from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.evals.agreement import agreement, kappa, labelled, shares
from gateway.evals.labels import Label, Preferred, append, last, pairs, read, spread, turned
from gateway.evals.wins import preference
from tests.evals.test_compare import a_run, result


def label(
    case: int, preferred: Preferred | None, rater: str = "ann", at: float = 0.0, **right: bool
) -> Label:
    return Label(rater, str(case), "a", "b", preferred, right, at)


# Krippendorff (2011), "Computing Krippendorff's alpha-reliability", section C: four observers,
# twelve units, nominal data with some missing; alpha is 0.743.
KNOWN = (
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


def test_alpha_is_krippendorffs() -> None:
    units = zip(*(row.split() for row in KNOWN), strict=True)
    found = agreement("x", [[value for value in unit if value != "."] for unit in units])
    assert found.alpha == pytest.approx(0.743, abs=5e-4)
    assert found.rated == 11
    assert found.low is not None
    assert found.high is not None
    assert found.low < 0.743 < found.high <= 1.0


def test_raters_who_throw_coins_agree_by_chance_alone() -> None:
    random = np.random.default_rng(3)
    said = [[str(value) for value in random.integers(0, 3, 2)] for _ in range(3000)]
    assert agreement("x", said).alpha == pytest.approx(0.0, abs=0.04)
    same = [["yes", "yes"], ["no", "no"]]
    assert agreement("x", same).alpha == 1.0
    assert agreement("x", [["yes", "yes"]] * 3).alpha is None
    assert agreement("x", [["yes"], []]).same is None


def test_kappa_is_cohens() -> None:
    # Cohen's by hand: 20 both yes, 15 both no, 5 and 10 apart of 50: (0.7 - 0.5) / 0.5.
    one = ["y"] * 25 + ["n"] * 25
    other = ["y"] * 20 + ["n"] * 5 + ["y"] * 10 + ["n"] * 15
    assert kappa(one, other) == pytest.approx(0.4)
    assert kappa(["y"], ["y"]) is None
    assert kappa([], []) is None


def test_a_preference_is_a_sign_test_without_ties() -> None:
    found = preference("a", "b", [1] * 9 + [-1] + [0] * 5)
    assert (found.wins, found.losses, found.ties, found.share) == (9, 1, 5, 0.9)
    assert found.p == pytest.approx(2 * (0.5 * 10 + 1) / 2**10)
    assert found.low < 0.9 < found.high
    none = preference("a", "b", [0, 0])
    assert (none.share, none.p) == (None, 1.0)


def test_what_people_prefer_and_how_far_scorers_do_the_same() -> None:
    """Of 20 cases `a` is better in 15 by two raters, of whom one errs once; the judge errs in
    five."""
    results = [
        *(result(n, "a", n < 15, scores={"exact": float(n < 15), "j": 0.9}) for n in range(20)),
        *(result(n, "b", n > 17, scores={"exact": float(n > 17), "j": 0.1}) for n in range(20)),
    ]
    labels: list[Label] = []
    for rater in ("ann", "bob"):
        for n in range(20):
            says: Preferred = "one" if n < 15 else "tie" if n < 18 else "other"
            if (rater, n) == ("bob", 0):
                says = "tie"
            labels.append(label(n, says, rater, a=n < 15, b=n > 17))
    run = msgspec.structs.replace(a_run(), scorers=("exact", "j"), judges=("j",))
    found = labelled(run, results, labels)
    assert found is not None
    (pair,) = found.preferences
    assert (pair.wins, pair.ties, pair.losses) == (15, 3, 2)
    assert pair.sure
    assert [(each.target, each.right) for each in found.marks] == [("a", 0.75), ("b", 0.1)]
    better, right = found.agreements
    assert better.same == 0.95
    assert right.alpha == 1.0
    by = {(each.scorer, each.on): each for each in found.scorers}
    assert by["exact", "what is right"].kappa == 1.0
    assert by["exact", "which is better"].same == 1.0
    judge = by["j", "which is better"]
    assert (judge.judge, judge.same, judge.kappa) == (True, 0.75, 0.0)
    assert {target: sum(each.values()) for target, each in shares(labels).items()} == {
        "a": 15.0,
        "b": 2.0,
    }
    assert labelled(run, results, []) is None


def test_pairs_are_shuffled_by_the_seed_and_sides_by_the_rater() -> None:
    results = [result(n, target, True) for n in range(40) for target in ("a", "b", "c")]
    results += [result(50, "a", True), result(51, "a", True, error="no"), result(51, "b", True)]
    found = pairs(results, ("a", "b", "c"), 1)
    assert len(found) == 120
    assert [each.case for each in found] == [each.case for each in pairs(results, "abc", 1)]
    assert [each.case for each in found] != [each.case for each in pairs(results, "abc", 2)]
    assert len(pairs(results, ("a", "b"), 1, cases=5)) == 5
    ann, bob = ([turned(pair, rater, 1) for pair in found] for rater in ("ann", "bob"))
    assert ann != bob
    assert 35 < sum(ann) < 85


def test_every_repetition_is_labelled_but_the_same_two_texts_once() -> None:
    """Case 1 says the same twice and something else the third time."""
    said = {(1, 0): "x", (1, 1): "x", (1, 2): "y", (2, 0): "x", (2, 1): "y"}
    results = [result(n, "a", True, rep, output=text) for (n, rep), text in said.items()]
    results += [result(n, "b", False, rep, output="z") for n, rep in said]
    found = pairs(results, ("a", "b"), 1)
    assert sorted((each.case, each.one.rep) for each in found) == [
        ("1", 0), ("1", 2), ("2", 0), ("2", 1),
    ]  # fmt: skip
    first = pairs(results, ("a", "b"), 1, repetitions=1)
    assert sorted((each.case, each.one.rep) for each in first) == [("1", 0), ("2", 0)]

    # What is said of two texts counts wherever they stand; a case counts once, by most of them.
    labels = [
        label(1, "one", a=True, b=False),
        msgspec.structs.replace(label(1, "other", a=False, b=True), rep=2),
        label(2, "one", a=True, b=False),
        msgspec.structs.replace(label(2, "other", a=False, b=False), rep=1),
    ]
    everywhere = spread(labels, results)
    assert sorted((each.case, each.rep) for each in everywhere) == [
        ("1", 0), ("1", 1), ("1", 2), ("2", 0), ("2", 1),
    ]  # fmt: skip
    whole = labelled(a_run(), results, labels)
    assert whole is not None
    assert whole.labels == 4
    (pair,) = whole.preferences
    assert (pair.wins, pair.ties, pair.losses) == (1, 1, 0)
    marks = {each.target: each.right for each in whole.marks}
    assert marks == {"a": pytest.approx((2 / 3 + 1 / 2) / 2), "b": pytest.approx(1 / 6)}
    # What one rater said of a repetition by itself is not overruled.
    own = msgspec.structs.replace(label(1, "tie", a=True, b=True), rep=1)
    assert own in spread([*labels, own], results)
    assert len(spread([*labels, own], results)) == 5


def test_of_many_targets_there_is_one_order() -> None:
    results = [result(n, name, True) for n in range(30) for name in "abc"]
    labels = [
        Label("ann", str(n), one, other, "one" if n % 10 else "other", {}, 0.0)
        for n in range(30)
        for one, other in ("ab", "bc", "ac")
    ]
    found = labelled(a_run(), results, labels)
    assert found is not None
    assert [each.target for each in found.ranking] == ["a", "b", "c"]
    assert found.ranking[0].first == found.ranking[0].last == 1


def test_what_was_said_last_counts_and_a_line_cut_off_costs_no_other(tmp_path: Any) -> None:
    file = tmp_path / "labels.jsonl"
    append(file, label(1, "one", a=True))
    with file.open("ab") as torn:
        torn.write(b'{"rater": "ann", "ca')
    append(file, label(1, "tie"))
    append(file, label(1, "other", "bob"))
    found, unread = read(file)
    assert [(each.rater, each.preferred) for each in found] == [("ann", "tie"), ("bob", "other")]
    assert unread == 1
    assert read(tmp_path / "none") == ([], 0)
    assert last(found) == found
    assert file.stat().st_mode & 0o777 == 0o600
