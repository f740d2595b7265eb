from concurrent.futures import ThreadPoolExecutor

import pytest

from gateway.store.revisions import Guard, Moved, Revision, Revisions, before
from gateway.store.store import Store
from tests.store.world import AT

A = {"gateway.yaml": "default_route: a\n", "routes/a.yaml": "name: a\n"}
B = {"gateway.yaml": "default_route: b\n"}


def test_a_new_store_has_no_revision(store: Store) -> None:
    assert Revisions(store).latest() is None
    assert Revisions(store).find("a") is None


def test_the_last_one_saved_is_the_truth(store: Store) -> None:
    revisions = Revisions(store)
    revisions.save("a", A, "ann", AT)
    revisions.save("b", B, "bob", AT + 1)

    assert revisions.latest() == Revision("b", B, "bob", AT + 1, 2, "apply")
    assert revisions.find("a") == revisions.find(1) == Revision("a", A, "ann", AT, 1, "apply")
    assert revisions.last_seq() == 2


def test_the_same_content_again_is_no_revision(store: Store) -> None:
    revisions = Revisions(store)

    assert revisions.save("a", A, "ann", AT)
    assert not revisions.save("a", A, "bob", AT + 1)
    assert [(each.hash, each.author) for each in revisions.list()] == [("a", "ann")]


def test_going_back_is_a_revision_too(store: Store) -> None:
    revisions = Revisions(store)
    for at, (hash, files) in enumerate((("a", A), ("b", B), ("a", A))):
        assert revisions.save(hash, files, "ann", AT + at)

    assert [each.hash for each in revisions.list()] == ["a", "b", "a"]
    assert revisions.latest() == Revision("a", A, "ann", AT + 2, 3, "apply")


def test_it_is_told_how_each_came(store: Store) -> None:
    revisions = Revisions(store)
    guard = Guard(window=120.0, errors=0.01, latency=0.2)
    revisions.save("a", A, "ann", AT, kind="watch", note="dearer", environment="prod", guard=guard)
    revisions.end_guard(1, "kept")

    assert revisions.latest() == Revision(
        "a", A, "ann", AT, 1, "watch", "dearer", "prod", guard=guard, verdict="kept"
    )


def test_what_was_left_by_a_rollback_is_left_until_somebody_wants_it(store: Store) -> None:
    revisions = saved(store, "abc")
    b = revisions.find("b")
    assert b is not None
    assert not revisions.was_left("c", {"gateway.yaml": "c"})

    back = revisions.go_back(b, "ann", AT + 9, note="it was better")

    assert (back.seq, back.hash, back.restores, back.kind) == (4, "b", 2, "rollback")
    assert revisions.latest() == back
    assert revisions.was_left("c", {"gateway.yaml": "c"})
    assert revisions.was_left("c, with another secret", {"gateway.yaml": "c"})
    assert not revisions.was_left("b", {"gateway.yaml": "b"})
    assert revisions.save("c", {"gateway.yaml": "c"}, "bob", AT + 10)
    assert not revisions.was_left("c", {"gateway.yaml": "c"})


def test_going_back_twice_goes_back_further(store: Store) -> None:
    revisions = saved(store, "abc")

    def back() -> str | None:
        target = before(revisions.list())
        return revisions.go_back(target, "ann", AT + 9).hash if target is not None else None

    assert [back(), back(), back()] == ["b", "a", None]


def test_so_many_contents_are_gone_back(store: Store) -> None:
    listed = saved(store, "aabbcad").list()

    assert [found and found.hash for n in range(1, 6) if (found := before(listed, n)) or True] == [
        *("a", "c", "b", "a", None)
    ]


def test_a_change_is_refused_where_another_came_before_it(store: Store) -> None:
    revisions = saved(store, "ab")
    a = revisions.find("a")
    assert a is not None

    with pytest.raises(Moved, match="revision 2 has come since revision 1"):
        revisions.save("c", A, "ann", AT, after=1)
    with pytest.raises(Moved, match="revision 2 has come since revision 1"):
        revisions.go_back(a, "ann", AT, after=1)
    assert revisions.last_seq() == 2


def test_of_many_changes_of_one_revision_one_is_made(store: Store) -> None:
    revisions = saved(store, "a")

    def save(n: int) -> bool:
        try:
            return revisions.save(f"b{n}", {"n": str(n)}, "ann", AT, after=1) is not None
        except Moved:
            return False

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(save, range(8))) == [False] * 7 + [True]


def saved(store: Store, contents: str) -> Revisions:
    """A store with a revision for each letter, as long as it is another than the one before."""
    revisions = Revisions(store)
    for n, each in enumerate(contents):
        revisions.save(each, {"gateway.yaml": each}, "ann", AT + n)
    return revisions
