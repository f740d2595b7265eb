import json
import signal
import sqlite3
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
import typer
from sqlalchemy import insert, select
from typer.testing import CliRunner, Result

from gateway.cli import audit, keys, migrate, records
from gateway.cli.opening import instant, store_of
from gateway.store.keys import Keyring
from gateway.store.revisions import Revisions
from gateway.store.schema import requests
from gateway.store.store import Store, fields
from gateway.types.requests import Caller
from tests.gateway.files import write
from tests.store.world import AT, attempt, keep, record, url

PROGRAM = """
import typer
from gateway.cli import keys, records
app = typer.Typer()
records.register(app)
keys.register(app)
app()
"""


@pytest.fixture
def store(sqlite: Store) -> Store:
    return sqlite


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    records.register(app)
    keys.register(app)
    audit.register(app)
    migrate.register(app)
    return app


def run(app: typer.Typer, folder: Path, *words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [*words, "--store", url(folder)])
    assert result.exit_code == code, result.output
    return result


def failed() -> dict[str, object]:
    tried = attempt("local/qwen", outcome="error", status=503, error="busy [all of it]")
    return {
        "attempts": (tried,),
        "status": 503,
        "outcome": "error",
        "error": "No backend could answer: busy [all of it]",
    }


# ---------------------------------------------------------------- log


def test_the_log_has_a_line_for_each_request(
    app: typer.Typer, store: Store, tmp_path: Path
) -> None:
    keep(store, record(1), record(2, **failed()), record(3))
    lines = run(app, tmp_path, "log").output.splitlines()

    assert lines[0].split()[:4] == ["time", "status", "outcome", "route"]
    assert [line.split()[-1] for line in (lines[1], lines[2], lines[4])] == [
        "req_000001",
        "req_000002",
        "req_000003",
    ]
    assert lines[3].strip() == "No backend could answer: busy [all of it]"
    assert lines[1].index("req_") == lines[2].index("req_") == lines[4].index("req_")


def test_a_log_of_nothing_says_so(app: typer.Typer, store: Store, tmp_path: Path) -> None:
    assert run(app, tmp_path, "log").output == "no requests yet, or none that pass\n"
    assert run(app, tmp_path, "log", "--json").output == ""


def test_the_log_passes_on_what_was_asked(app: typer.Typer, store: Store, tmp_path: Path) -> None:
    keep(store, record(1), record(2, **failed()), record(3, caller=Caller(name="other")))

    def shown(*words: str) -> list[str]:
        lines = run(app, tmp_path, "log", "--json", *words).output.splitlines()
        return [json.loads(line)["id"] for line in lines]

    assert shown() == ["req_000001", "req_000002", "req_000003"]
    assert shown("--status", "5xx") == ["req_000002"]
    assert shown("--outcome", "ok", "--limit", "1") == ["req_000003"]
    assert shown("--key", "other") == ["req_000003"]
    assert shown("--target", "local/qwen") == ["req_000002"]
    assert shown("--route", "nowhere", "--config", str(tmp_path)) == []
    assert shown("--since", datetime.fromtimestamp(AT + 3).isoformat()) == ["req_000003"]
    assert shown("--since", "1h") == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--status", "bad"], "is no status"),
        (["--outcome", "bad"], "is none of ok"),
        (["--since", "yesterday"], "is no time"),
    ],
)
def test_the_log_refuses_what_it_does_not_know(
    app: typer.Typer, store: Store, tmp_path: Path, words: list[str], told: str
) -> None:
    assert told in run(app, tmp_path, "log", *words, code=2).stderr


def test_the_log_of_a_route_that_there_is_not_is_told(
    app: typer.Typer, store: Store, tmp_path: Path
) -> None:
    write(tmp_path, "http://127.0.0.1:9/v1")
    keep(store, record(1))
    asked = ("log", "--config", str(tmp_path), "--route")
    told = run(app, tmp_path, *asked, "genral", code=1)
    assert "there is no route 'genral'; did you mean 'general'?" in told.stderr
    # One that has no request is no mistake, and neither is one that is gone and has some.
    assert "no requests" in run(app, tmp_path, *asked, "general").output
    assert "contracts" in run(app, tmp_path, *asked, "contracts").stdout


@pytest.mark.parametrize("command", ["log", "audit"])
def test_no_more_rows_are_asked_for_than_a_database_can_count(
    app: typer.Typer, store: Store, tmp_path: Path, command: str
) -> None:
    told = run(app, tmp_path, command, "--limit", str(2**63), code=2)
    assert "--limit" in told.stderr


def test_the_log_is_followed_until_interrupted(store: Store, tmp_path: Path) -> None:
    keep(store, record(1))
    words = ["log", "--json", "--follow", "--store", url(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["id"] == "req_000001"
        keep(store, record(2), record(3))
        assert json.loads(child.stdout.readline())["id"] == "req_000002"
        assert json.loads(child.stdout.readline())["id"] == "req_000003"
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 0


def test_a_row_that_was_numbered_before_and_is_there_after_is_followed_too(
    postgres: Store,
) -> None:
    keep(postgres, record(1))
    words = ["log", "--json", "--follow", "--store", postgres.url]
    with (
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *words], stdout=subprocess.PIPE, text=True
        ) as child,
        postgres.engine.connect() as slow,
    ):
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["id"] == "req_000001"
        row = fields(slow.execute(select(requests)).one())
        del row["seq"]
        slow.execute(insert(requests).values({**row, "id": "req_slow"}))
        keep(postgres, record(2))
        assert json.loads(child.stdout.readline())["id"] == "req_000002"
        slow.commit()
        assert json.loads(child.stdout.readline())["id"] == "req_slow"
        child.terminate()


def test_a_store_that_is_not_there_is_not_made(app: typer.Typer, tmp_path: Path) -> None:
    for words in (["log"], ["usage"], ["keys", "list"]):
        assert "there is no store" in run(app, tmp_path, *words, code=1).stderr
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- usage


def test_usage_is_summed_up(app: typer.Typer, store: Store, tmp_path: Path) -> None:
    tried = attempt("local/qwen", outcome="error", cost=1.5)
    mended = attempt("openai/mini", reason="fallback", cost=0.25)
    keep(store, record(1), record(2, attempts=(tried, mended)))
    since = datetime.fromtimestamp(AT).isoformat()
    lines = run(app, tmp_path, "usage", "--by", "target", "--since", since).output.splitlines()

    assert [line.split()[0] for line in lines[:4]] == [
        "target",
        "local/qwen",
        "openai/mini",
        "local/qwen+contracts",
    ]
    assert "1.752000" in lines[4]

    summed = json.loads(run(app, tmp_path, "usage", "--json", "--since", since).output)
    assert [(row["group"], row["requests"], row["attempts"]) for row in summed["rows"]] == [
        ("contracts", 2, 3)
    ]


def test_usage_of_nothing_says_so(app: typer.Typer, store: Store, tmp_path: Path) -> None:
    assert run(app, tmp_path, "usage").output.startswith("nothing since ")
    assert "is none of route" in run(app, tmp_path, "usage", "--by", "x", code=2).stderr


# ---------------------------------------------------------------- keys


def test_a_key_is_made_shown_once_listed_and_revoked(app: typer.Typer, tmp_path: Path) -> None:
    words = ["--name", "app", "--routes", "a, b", "--tenant", "acme", "--expires", "30d"]
    made = run(app, tmp_path, "keys", "create", *words)
    secret = made.stdout.strip()
    store = Store.open(url(tmp_path))
    ring = Keyring(store)
    ring.refresh()
    caller = ring.lookup(secret.encode())
    assert caller is not None
    assert (caller.routes, caller.tenant) == (frozenset({"a", "b"}), "acme")
    assert caller.key is not None
    assert caller.key in made.stderr

    listed = run(app, tmp_path, "keys", "list")
    assert secret not in listed.output
    begins = secret[:7] + "…"
    cells = listed.output.splitlines()[1].split()
    assert cells[:5] == [caller.key, "app", begins, "a,b", "acme"]

    assert caller.key in run(app, tmp_path, "keys", "revoke", "app").output
    ring.refresh()
    assert ring.lookup(secret.encode()) is None
    (key,) = json.loads(run(app, tmp_path, "keys", "list", "--json").output)
    assert key["state"] == "revoked"
    assert "no key 'app'" in run(app, tmp_path, "keys", "revoke", "app", code=1).stderr
    store.close()


def test_what_was_done_to_keys_is_in_the_audit_log(app: typer.Typer, tmp_path: Path) -> None:
    made = run(app, tmp_path, "keys", "create", "--name", "ops", "--role", "operate")
    run(app, tmp_path, "keys", "create", "--name", "ops", code=1)
    run(app, tmp_path, "keys", "revoke", "ops")
    shown = run(app, tmp_path, "audit", "--json").output.splitlines()
    entries = [json.loads(line) for line in shown]

    assert [(each["action"], each["outcome"]) for each in entries] == [
        ("keys create", "done"),
        ("keys create", "failed"),
        ("keys revoke", "done"),
    ]
    assert entries[0]["subject"] == "ops"
    assert entries[0]["detail"]["role"] == "operate"
    assert entries[0]["name"] == audit.user()
    assert "there is a key 'ops' already" in entries[1]["detail"]["error"]
    table = run(app, tmp_path, "audit", "--since", "1h").output
    assert made.output.splitlines()[0] not in table + str(entries)
    assert "keys revoke" in table
    assert run(app, tmp_path, "audit", "--since", "2099-01-01").output.startswith("nothing since")


def test_the_first_key_says_that_it_closes_the_door_for_good(
    app: typer.Typer, tmp_path: Path
) -> None:
    first = run(app, tmp_path, "keys", "create", "--name", "one")
    assert "the store's first key: from now on every request needs one" in first.stderr
    assert "That stays so when it is revoked." in first.stderr
    assert len(first.stdout.split()) == 1
    second = run(app, tmp_path, "keys", "create", "--name", "two", "--json")
    assert "first key" not in second.stderr
    assert "nobody" not in run(app, tmp_path, "keys", "revoke", "one").stderr
    last = run(app, tmp_path, "keys", "revoke", "two")
    assert "No key is valid now, and nobody is let in without" in last.stderr
    assert "first key" not in run(app, tmp_path, "keys", "create", "--name", "one").stderr
    store = Store.open(url(tmp_path))
    run(app, tmp_path, "keys", "revoke", "one")
    ring = Keyring(store)
    ring.refresh()
    assert not ring.empty
    store.close()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--name", "x", "--admin", "--role", "read"], "--role says read; write one of both"),
        (["--name", " "], "--name is empty; say who will use the key"),
        (["--name", "a/b"], "--name may not have '/' in it"),
        (["--name", "a\nb"], "--name may not have '\\n' in it"),
        (["--name", "a\x1b[31m"], "--name may not have '\\x1b' in it"),
        (["--name", "a\u202eb"], "--name may not have '\\u202e' in it"),
        (["--name", "x" * 201], "--name has 201 characters; write 200 at most"),
        (["--name", "x", "--expires", "2020-01-01"], "--expires 2020-01-01 is over"),
        (["--name", "x", "--expires", "0s"], "--expires 0s is over; write a time to come"),
    ],
)
def test_what_is_no_key_is_refused(
    words: list[str], said: str, app: typer.Typer, tmp_path: Path
) -> None:
    ran = run(app, tmp_path, "keys", "create", *words, code=2)
    assert said in " ".join(ran.output.replace("│", " ").split())
    assert not (tmp_path / "switchboard.db").exists()


def test_admin_may_be_said_twice(app: typer.Typer, tmp_path: Path) -> None:
    words = ("--name", "x", "--admin", "--role", "admin", "--json")
    assert json.loads(run(app, tmp_path, "keys", "create", *words).stdout)["role"] == "admin"


def test_a_role_is_one_of_four(app: typer.Typer, tmp_path: Path) -> None:
    said = run(app, tmp_path, "keys", "create", "--name", "x", "--role", "root", code=2)
    assert "'root' is no role" in said.output
    made = run(app, tmp_path, "keys", "create", "--name", "x", "--admin", "--json").stdout
    assert json.loads(made)["role"] == "admin"


def test_a_key_for_programs_is_json(app: typer.Typer, tmp_path: Path) -> None:
    made = json.loads(run(app, tmp_path, "keys", "create", "--name", "app", "--json").stdout)

    assert made["secret"].startswith(made["prefix"])
    assert (made["routes"], made["direct"]) == (None, True)


def test_keys_need_a_name_of_their_own(app: typer.Typer, tmp_path: Path) -> None:
    run(app, tmp_path, "keys", "create", "--name", "app")

    assert "'app' already" in run(app, tmp_path, "keys", "create", "--name", "app", code=1).stderr


def test_a_route_that_there_is_not_is_warned_of_and_taken(app: typer.Typer, tmp_path: Path) -> None:
    write(tmp_path, "http://127.0.0.1:9/v1")
    words = ["--routes", "general,genral,to-come", "--config", str(tmp_path)]
    made = run(app, tmp_path, "keys", "create", "--name", "app", *words)
    assert "no route 'genral'; did you mean 'general'?" in made.stderr
    assert "no route 'to-come'; there are: general" in made.stderr
    assert "no route 'general'" not in made.stderr
    assert "route" not in made.stdout
    # What runs is known too, though the files have it no more; where nothing is, nothing is said.
    files = {str(path.relative_to(tmp_path)): path.read_text() for path in tmp_path.rglob("*.yaml")}
    (tmp_path / "gateway.yaml").unlink()
    none = run(app, tmp_path, "keys", "create", "--name", "b", *words)
    assert "warning" not in none.stderr
    store = Store.open(url(tmp_path))
    Revisions(store).save("1" * 64, files, "ops", 1.0)
    store.close()
    again = run(app, tmp_path, "keys", "create", "--name", "c", *words, "--json")
    assert "no route 'genral'" in again.stderr
    assert json.loads(again.stdout)["routes"] == ["general", "genral", "to-come"]


# ---------------------------------------------------------------- migrate


def test_a_store_is_migrated_and_how_it_stands_is_told(app: typer.Typer, tmp_path: Path) -> None:
    assert "has no tables yet" in run(app, tmp_path, "migrate", "--check", code=2).output
    assert list(tmp_path.iterdir()) == []
    assert "(was: new)" in run(app, tmp_path, "migrate").output
    assert "nothing to do" in run(app, tmp_path, "migrate", "--check").output
    told = json.loads(run(app, tmp_path, "migrate", "--json").output)
    assert told["at"] == told["wanted"] == told["before"]

    connection = sqlite3.connect(tmp_path / "switchboard.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    assert "newer than this version" in run(app, tmp_path, "migrate", code=2).output


# ---------------------------------------------------------------- where and when


def test_the_store_is_found_in_a_configuration_that_cannot_run(
    app: typer.Typer, store: Store, tmp_path: Path
) -> None:
    keep(store, record(1))
    (tmp_path / "gateway.yaml").write_text(
        f"store: {url(tmp_path)}\nbackends:\n  x: {{api_key: $" + "{NOT_SET_ANYWHERE}}\n"
    )
    result = CliRunner().invoke(app, ["log", "--config", str(tmp_path)])

    assert "req_000001" in result.output


def test_a_configuration_without_a_store_has_the_default(tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text("default_route: x\n")

    assert store_of(tmp_path) == "sqlite:///switchboard.db"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "name the store with --store"),
        ("store: $" + "{NOT_SET_ANYWHERE}", "NOT_SET_ANYWHERE is not set"),
        ("a: [", "name the store with --store"),
    ],
)
def test_a_store_that_cannot_be_known_is_told(
    app: typer.Typer, tmp_path: Path, text: str | None, told: str
) -> None:
    if text is not None:
        (tmp_path / "gateway.yaml").write_text(text)
    result = CliRunner().invoke(app, ["log", "--config", str(tmp_path)])

    assert result.exit_code == 1
    assert told in result.stderr


@pytest.mark.parametrize(
    ("text", "ago"), [("90s", 90), ("15m", 900), ("1.5h", 5400), ("7d", 604800), ("2w", 1209600)]
)
def test_a_span_is_ago_or_ahead(text: str, ago: float) -> None:
    assert instant(text, AT) == AT - ago
    assert instant(text, AT, ahead=True) == AT + ago


def test_a_local_time_is_an_instant() -> None:
    at = datetime(2030, 1, 2, 3, 4).timestamp()

    assert instant("2030-01-02T03:04", AT) == at
    assert instant("2030-01-02 03:04", AT) == at
