"""What the store has of experiments, by SQLite and PostgreSQL."""

from typing import Any

import msgspec
import pytest
from sqlalchemy import insert

from gateway.experiments.progress import Ended, Scored
from gateway.store import schema
from gateway.store.experiments import ExperimentBook
from gateway.store.store import Store
from gateway.types.decisions import Trial
from gateway.types.experiments import Asked, Experiment, Standing
from gateway.types.policies import Policy
from gateway.types.records import ALL_REFUSED, NONE_ANSWERED, Attempt, Record
from gateway.types.routes import Match, Metric, Route
from gateway.types.snapshot import Server, Snapshot
from tests.store.world import AT, attempt, decision, keep, record

METRIC = Metric("accepted", "boolean", comparison="=", bound=1.0, within_s=3600.0)
EXPERIMENT = Experiment(
    "x",
    {"old": "openai/mini", "new": "local/qwen+contracts"},
    {"old": 0.5, "new": 0.5},
    0.5,
    asked=Asked("new", "old", "accepted", no_worse=False),
)
ROUTE = Route(
    "contracts", "", 0.02, False, Match(), (), "plain", metrics=(METRIC,), right="accepted"
)
SNAPSHOT = Snapshot(
    "h", Server(), "contracts", {}, {}, {"plain": Policy("plain", waiting_whole=0.001)}, {}, {}
)


def trial(n: int, arm: str, answered: Attempt | None = None, **fields: Any) -> Record:
    chosen = msgspec.structs.replace(decision(), trial=Trial("x", arm, 0.25, f"unit {n}"))
    return record(
        n,
        decision=chosen,
        experiment="x",
        arm=arm,
        attempts=(answered or attempt(),),
        cost=0.002,
        **fields,
    )


def say(store: Store, n: int, value: float, at: float, metric: str = "accepted") -> None:
    with store.change() as connection:
        values = {"identity": f"{n} {metric} {at}", "request_id": f"req_{n:06}"}
        connection.execute(
            insert(schema.feedback).values(**values, metric=metric, value=value, at=at)
        )


def test_requests_of_an_experiment_are_read_once_and_in_order(store: Store) -> None:
    book = ExperimentBook(store)
    keep(
        store,
        trial(1, "new"),
        trial(2, "new", attempt("openai/mini", reason="fallback")),
        trial(3, "new", attempt("local/qwen+contracts@v2"), outcome="truncated"),
        trial(4, "new", outcome="abandoned"),
        record(5),
        trial(6, "new", attempt("local/qwen+contracts@v2")),
        trial(7, "new", outcome="error", status=400),
        trial(8, "new", outcome="error", status=404),
        trial(9, "new", outcome="error", status=429),
        trial(10, "new", outcome="error", status=400, error=f"{NONE_ANSWERED}p/m: no credit"),
        trial(11, "new", outcome="error", status=400, error=f"{ALL_REFUSED}p/m: too long"),
    )
    first = book.ended(EXPERIMENT, AT, 0, 2)
    rest = book.ended(EXPERIMENT, AT, first[-1].seq, 10)

    assert first[0] == Ended(1, AT + 1, "new", "unit 1", False, True, 0.002, 0.2, 1.1, 0.25)
    assert [(each.failed, each.counts) for each in [*first, *rest]] == [
        (False, True),
        (True, True),
        (True, True),
        (True, False),
        (False, True),
        (True, False),
        (True, False),
        (True, True),
        (True, True),
        (True, False),
    ]
    assert book.ended(EXPERIMENT, AT + 100, 0, 10) == []


def test_outcomes_are_those_of_the_metric_that_came_in_time(store: Store) -> None:
    book = ExperimentBook(store)
    keep(store, trial(1, "new"), trial(2, "old"), trial(3, "old"), record(4))
    say(store, 1, 1.0, AT + 10)
    say(store, 1, 0.0, AT + 10, metric="another")
    say(store, 2, 0.0, AT + 11)
    say(store, 3, 1.0, AT + 9999)
    say(store, 4, 1.0, AT + 12)

    found = book.scored(EXPERIMENT, ROUTE, SNAPSHOT, AT, 0, 10)

    spent = 0.002 + 0.001 * 1.1
    assert [msgspec.structs.replace(each, reward=0.0) for each in found] == [
        Scored(1, "new", "unit 1", 0.25, 1.0),
        Scored(3, "old", "unit 2", 0.25, 0.0),
    ]
    assert [each.reward for each in found] == pytest.approx([0.02 - spent, -spent])
    assert book.scored(EXPERIMENT, ROUTE, SNAPSHOT, AT, 3, 10) == []


def test_the_last_that_was_said_of_an_experiment_is_how_it_stands(store: Store) -> None:
    book = ExperimentBook(store, now=lambda: AT)
    assert (book.version(), book.current()) == (0, {})
    going = Standing("hash", AT, shares={"old": 0.3, "new": 0.7})
    book.save("x", going, "experiment x")
    over = msgspec.structs.replace(going, state="stopped", guarded=True, why="slow")
    book.save("x", over, "ops")
    book.save("y", going, "experiment y")

    assert book.version() == 3
    assert book.current() == {"x": over, "y": going}


def test_what_the_log_says_for_a_plan(store: Store) -> None:
    book = ExperimentBook(store)
    keep(store, trial(1, "new"), record(2), record(86400))
    say(store, 1, 1.0, AT + 10)
    say(store, 2, 0.0, AT + 10)
    found = book.logged(EXPERIMENT, ROUTE, AT, AT + 1 + 86400.0)

    assert found == msgspec.structs.replace(found, days=1.0, requests=3, keys=1, scored=2, mean=0.5)
    assert book.logged(EXPERIMENT, msgspec.structs.replace(ROUTE, name="z"), AT, AT).requests == 0
