from gateway.store.revisions import Revision, Revisions
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

    assert revisions.latest() == Revision("b", B, "bob", AT + 1)
    assert revisions.find("a") == Revision("a", A, "ann", AT)


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
    assert revisions.latest() == Revision("a", A, "ann", AT + 2)
