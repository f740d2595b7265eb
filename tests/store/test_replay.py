"""The log as replay reads it."""

from gateway.store.feedback import FeedbackBook, Said
from gateway.store.replay import COLUMNS, ReplayLog
from gateway.store.store import Store
from tests.store.world import AT, keep, record


def test_clients_requests_are_read_in_order_and_copies_are_not(store: Store) -> None:
    keep(store, record(0), record(1), record(2, shadow_of="req_000001"), record(3, messages="[]"))
    log = ReplayLog(store)
    batches = list(log.batches(AT - 60.0, AT + 3600.0, texts=True))
    rows = [
        dict(zip((*COLUMNS, "messages", "features", "text"), row, strict=True))
        for each in batches
        for row in each
    ]

    assert [row["id"] for row in rows] == ["req_000000", "req_000001", "req_000003"]
    assert [row["messages"] for row in rows] == [None, None, "[]"]
    assert log.count(AT - 60.0, AT + 3600.0) == 3
    assert log.count(AT - 60.0, AT + 3600.0, ["no-such-route"]) == 0
    assert list(log.batches(AT - 60.0, AT + 3600.0, ["no-such-route"])) == []


def test_what_was_said_is_read_by_metric(store: Store) -> None:
    keep(store, record(0))
    said = Said("req_000000", "accepted", 1.0, None, None, None, AT)
    FeedbackBook(store).say([said, Said("req_000000", "judged", 4.0, None, None, None, AT)])

    assert ReplayLog(store).said(AT - 1.0, {"accepted"}) == {"req_000000": [("accepted", 1.0, AT)]}
    assert ReplayLog(store).said(AT + 1.0, {"accepted"}) == {}
    assert ReplayLog(store).said(AT - 1.0, ()) == {}
