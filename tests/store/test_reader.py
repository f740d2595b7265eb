import math
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.store.reader import By, Filter, Reader, UsageRow, status_range
from gateway.store.store import Store
from gateway.store.writer import Writer
from gateway.types.decisions import Decision
from gateway.types.records import Usage
from gateway.types.requests import Caller, Recognition
from tests.store.world import AT, attempt, decision, keep, record


@pytest.fixture
def reader(store: Store) -> Reader:
    return Reader(store)


def ids(rows: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in rows]


# ---------------------------------------------------------------- one record


@pytest.mark.parametrize("id", ["req_000001", "dec_000001", "chatcmpl-1"])
def test_a_record_is_found_by_each_of_its_ids(store: Store, reader: Reader, id: str) -> None:
    keep(store, record(0), record(1), record(2))
    found = reader.find(id)

    assert found is not None
    assert (found["id"], found["decision_id"]) == ("req_000001", "dec_000001")


@pytest.mark.parametrize("id", ["", "req_9", "dec_9", "chatcmpl-9", "000001"])
def test_what_is_not_there_is_none(store: Store, reader: Reader, id: str) -> None:
    keep(store, record(1))

    assert reader.find(id) is None


def test_a_record_is_whole(store: Store, reader: Reader) -> None:
    tried = (attempt("local/qwen", outcome="error", status=503), attempt())
    keep(store, record(1, attempts=tried, text="a clause"))
    found = reader.find("req_000001")

    assert found is not None
    assert msgspec.convert(found["decision"], Decision) == decision()
    assert msgspec.convert(found["recognition"], Recognition) == record().recognition
    assert found["needs"]["input_tokens"] == 90
    assert [(each["n"], each["status"]) for each in found["attempts"]] == [(0, 503), (1, 200)]
    assert found["attempts"][1]["changed"] == ["dropped temperature"]
    assert (found["key"], found["text"], found["cost_usd"]) == ("key_1", "a clause", 0.002)
    assert {type(name) for name in found} == {str}
    assert set(msgspec.json.decode(msgspec.json.encode(found))) == set(found)


def test_a_refused_request_is_found_without_decision(store: Store, reader: Reader) -> None:
    keep(store, record(1, decision=None, recognition=None, attempts=()))
    found = reader.find("req_000001")

    assert found is not None
    assert (found["decision"], found["recognition"], found["attempts"]) == (None, None, [])


def test_of_one_completion_id_the_last_is_found(store: Store, reader: Reader) -> None:
    keep(store, *(record(n, completion_id="chatcmpl-same") for n in range(3)))
    found = reader.find("chatcmpl-same")

    assert found is not None
    assert found["id"] == "req_000002"


def test_a_record_is_found_right_after_a_flush(store: Store, reader: Reader) -> None:
    writer = Writer(store, every_s=3600)
    writer.start()
    writer.put(record(1))
    writer.flush()

    assert reader.find("req_000001") is not None
    writer.stop()


# ---------------------------------------------------------------- lists


@pytest.mark.parametrize(
    ("only", "found"),
    [
        (Filter(), [0, 1, 2, 3]),
        (Filter(route="contracts"), [0, 1, 3]),
        (Filter(target="local/qwen+contracts"), [0, 1, 2]),
        (Filter(target="openai/mini"), [3]),
        (Filter(key="key_2"), [1]),
        (Filter(key="other"), [1]),
        (Filter(status="503"), [2]),
        (Filter(status="5xx"), [2]),
        (Filter(status="2xx"), [0, 1, 3]),
        (Filter(outcome="truncated"), [3]),
        (Filter(since=AT + 2), [2, 3]),
        (Filter(until=AT + 2), [0, 1]),
        (Filter(route="contracts", since=AT + 1, outcome="ok"), [1]),
        (Filter(route="nowhere"), []),
    ],
)
def test_a_list_has_what_passes(
    store: Store, reader: Reader, only: Filter, found: list[int]
) -> None:
    keep(
        store,
        record(0),
        record(1, caller=Caller(key="key_2", name="other")),
        record(2, decision=decision("support"), status=503, outcome="error"),
        record(3, attempts=(attempt("openai/mini"),), outcome="truncated"),
    )

    assert ids(reader.recent(only)) == [f"req_{n:06}" for n in found]


def test_a_list_ends_with_the_newest(store: Store, reader: Reader) -> None:
    keep(store, *(record(n) for n in range(5)))

    assert ids(reader.recent(limit=2)) == ["req_000003", "req_000004"]
    assert len(reader.recent(limit=None)) == 5
    assert "decision" not in reader.recent()[0]


def test_a_list_is_followed(store: Store, reader: Reader) -> None:
    assert reader.last_seq() == 0
    keep(store, record(0), record(1))
    last = reader.last_seq()
    known = reader.numbers(Filter(), last)
    assert len(known) == 2

    keep(store, *(record(n) for n in range(2, 5)), record(5, outcome="error"))
    new = reader.numbers(Filter(), last) - known
    assert ids(reader.recent(among=new)) == [f"req_{n:06}" for n in range(2, 6)]
    assert len(reader.numbers(Filter(outcome="error"), last)) == 1


@pytest.mark.parametrize(
    ("text", "range"),
    [("429", (429, 429)), ("5xx", (500, 599)), ("2XX", (200, 299)), ("0", (0, 0))],
)
def test_a_status_is_a_number_or_a_class(text: str, range: tuple[int, int]) -> None:
    assert status_range(text) == range


@pytest.mark.parametrize("text", ["", "x", "9xx", "5x", "-1", "5xxx", "٣"])
def test_another_status_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no status"):
        status_range(text)


# ---------------------------------------------------------------- usage


def used(input: int, output: int, estimated: bool = False) -> Usage:
    return Usage(input=input, cached_input=input // 2, output=output, estimated=estimated)


def test_usage_counts_every_attempt_where_it_was_made(store: Store, reader: Reader) -> None:
    failed = attempt("local/qwen", outcome="error", usage=used(10, 0, True), cost=0.5, total_s=9.0)
    mended = attempt("openai/mini", usage=used(10, 4), cost=1.0, total_s=2.0)
    keep(
        store,
        record(1, attempts=(failed, mended), total_s=11.0),
        record(2, attempts=(attempt(usage=used(100, 7), cost=0.25, total_s=3.0),), total_s=3.5),
        record(3, decision=decision("support"), attempts=(), outcome="refused", total_s=0.001),
    )

    assert reader.usage("route", AT) == [
        UsageRow("contracts", 2, 3, 120, 60, 11, 1.75, 1 / 3, 3.5, 11.0),
        UsageRow("support", 1, 0, 0, 0, 0, 0.0, 0.0, None, None),
    ]
    assert reader.usage("target", AT) == [
        UsageRow("openai/mini", 1, 1, 10, 5, 4, 1.0, 0.0, 2.0, 2.0),
        UsageRow("local/qwen", 1, 1, 10, 5, 0, 0.5, 1.0, None, None),
        UsageRow("local/qwen+contracts", 1, 1, 100, 50, 7, 0.25, 0.0, 3.0, 3.0),
        UsageRow("", 1, 0, 0, 0, 0, 0.0, 0.0, None, None),
    ]
    assert [(row.group, row.requests, row.attempts) for row in reader.usage("adapter", AT)] == [
        ("", 2, 2),
        ("contracts", 1, 1),
    ]


@pytest.mark.parametrize(
    ("by", "groups"),
    [
        ("key", {"app": 2, "anonymous": 1}),
        ("tenant", {"acme": 2, "": 1}),
        ("policy", {"balanced": 3}),
        ("route", {"contracts": 3}),
    ],
)
def test_usage_by_who_asked_and_how(
    store: Store, reader: Reader, by: By, groups: dict[str, int]
) -> None:
    keep(store, record(1), record(2), record(3, caller=Caller()))

    assert {row.group: row.requests for row in reader.usage(by, AT)} == groups


def test_usage_begins_at_since(store: Store, reader: Reader) -> None:
    keep(store, record(1), record(2), record(3))

    assert [row.requests for row in reader.usage("route", AT + 2)] == [2]
    assert reader.usage("route", AT + 10) == []


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=60))
def test_percentiles_are_exact(seconds: list[int]) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"sqlite:///{Path(folder) / 'x.db'}")
        keep(store, *(record(n, total_s=float(each)) for n, each in enumerate(seconds)))
        (row,) = Reader(store).usage("route", AT)
        store.close()

    ordered = sorted(seconds)
    assert row.p50_s == ordered[math.ceil(len(ordered) * 0.50) - 1]
    assert row.p95_s == ordered[math.ceil(len(ordered) * 95 / 100) - 1]
