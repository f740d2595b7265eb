"""Records as the pipeline would make them, and a store to put them in."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from gateway.store.schema import metadata
from gateway.store.store import Store
from gateway.store.writer import Writer
from gateway.types.decisions import Choice, Decision, RuledOut
from gateway.types.records import Attempt, Record, Usage
from gateway.types.requests import Caller, Needs, Recognition

AT = 1_700_000_000.0


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'switchboard.db'}"


def emptied(store: Store) -> None:
    """A store as it is when new."""
    tables = [name for name in metadata.tables if name != "meta"]
    with store.change() as connection:
        if store.engine.dialect.name == "postgresql":
            connection.exec_driver_sql(f"TRUNCATE {', '.join(tables)} RESTART IDENTITY")
        else:
            for table in tables:
                connection.exec_driver_sql(f"DELETE FROM {table}")
        connection.exec_driver_sql("UPDATE meta SET value = 0")


def choice(target: str = "local/qwen+contracts", **fields: Any) -> Choice:
    values = {
        "replica": "http://gpu-1:8000",
        "candidate": 0,
        "quality": 0.97,
        "cost": 0.00012,
        "first_token_s": 0.2,
        "total_s": 1.5,
        "net": 0.018,
        "propensity": 0.98,
    }
    return Choice(target=target, **{**values, **fields})


def decision(route: str = "contracts") -> Decision:
    return Decision(
        route=route,
        policy="balanced",
        snapshot="abc123",
        ranked=(choice(), choice("local/qwen", candidate=1, propensity=0.02)),
        ruled_out=(
            RuledOut("openai/mini", "fact", "the route's data stays inside"),
            RuledOut("local/big", "limit", "too slow", choice("local/big", candidate=3)),
        ),
        draw=0.25,
    )


def attempt(target: str = "local/qwen+contracts", **fields: Any) -> Attempt:
    values = {
        "replica": "http://gpu-1:8000",
        "reason": "first",
        "started": AT,
        "status": 200,
        "outcome": "ok",
        "error": "",
        "usage": Usage(input=100, cached_input=40, output=20),
        "cost": 0.002,
        "first_token_s": 0.2,
        "total_s": 1.0,
        "changed": ("dropped temperature",),
    }
    return msgspec.convert({"target": target, **values, **fields}, Attempt)


def record(n: int = 0, **fields: Any) -> Record:
    """A finished request; `fields` replace its own."""
    values = {
        "id": f"req_{n:06}",
        "decision_id": f"dec_{n:06}",
        "started": AT + n,
        "endpoint": "chat/completions",
        "model": "auto",
        "stream": True,
        "caller": Caller(key="key_1", name="app", tenant="acme"),
        "recognition": Recognition("contracts", "keyword", 1.0, "clause"),
        "decision": decision(),
        "needs": Needs(input_tokens=90, tools=True),
        "attempts": (attempt(),),
        "status": 200,
        "outcome": "ok",
        "error": "",
        "usage": Usage(input=100, cached_input=40, output=20),
        "cost": 0.002,
        "first_token_s": 0.2,
        "total_s": 1.1,
        "overhead_s": 0.0003,
        "completion_id": f"chatcmpl-{n}",
    }
    return Record(**{**values, **fields})


def keep(store: Store, *records: Record) -> None:
    """Writes records and waits until they are in the store."""
    writer = Writer(store)
    for each in records:
        assert writer.put(each)
    writer.start()
    writer.stop()


def until(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Waits for what another thread or process brings about."""
    pause = threading.Event()
    for _ in range(round(timeout_s / 0.01)):
        if true():
            return
        pause.wait(0.01)
    raise AssertionError("it did not come about in time")
