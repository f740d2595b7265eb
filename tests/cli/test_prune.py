"""`switchboard prune`: by what is declared, or by hand."""

import json
import time
from pathlib import Path

from gateway.store.audit import AuditBook
from gateway.store.store import Store
from tests.cli.running import switchboard
from tests.config.trees import FILES, GATEWAY, write
from tests.store.world import keep, record

DAY_S = 86_400.0


def home(folder: Path, retention: str = "") -> tuple[Path, Store]:
    """A configuration whose store has a request with text of each tenth day."""
    write(folder, {**FILES, "gateway.yaml": GATEWAY + retention})
    store = Store.open(f"sqlite:///{folder}/switchboard.db")
    days = [
        record(n, started=time.time() - (10 * n + 1) * DAY_S, text="a clause") for n in range(10)
    ]
    keep(store, *days)
    return folder, store


def test_what_is_declared_goes_and_is_in_the_audit_log(tmp_path: Path) -> None:
    folder, store = home(tmp_path, "\nretention: {text: 30 d, requests: 65 d}\n")
    looked = switchboard("prune", "--check", "--json", home=folder)
    assert looked.code == 2
    assert json.loads(looked.out) == {
        "requests": 3, "runs": 0, "texts": 7, "remarks": 0, "prompts": 0
    }  # fmt: skip
    assert AuditBook(store).list(0.0, 10) == []
    ran = switchboard("prune", home=folder)
    assert (ran.code, ran.err) == (0, "")
    assert "let go: 3 requests" in " ".join(ran.out.split())
    (entry,) = AuditBook(store).list(0.0, 10)
    assert entry.action == "prune"
    assert "3 requests" in str(entry.detail["gone"])
    again = switchboard("prune", "--check", home=folder)
    assert (again.code, again.out) == (0, "nothing is older than that\n")


def test_by_hand_texts_of_any_age_may_go_but_no_requests_that_budgets_need(tmp_path: Path) -> None:
    folder, _ = home(tmp_path)
    assert "declares no `retention`" in switchboard("prune", home=folder).said
    refused = switchboard("prune", "--requests", "20d", home=folder)
    assert refused.code == 1
    assert "budgets are known by the requests of the last 32 d" in refused.said
    ran = switchboard("prune", "--texts", "12h", "--json", home=folder)
    assert json.loads(ran.out)["texts"] == 10
    ran = switchboard("prune", "--requests", "50d", "--json", home=folder)
    assert json.loads(ran.out)["requests"] == 5
    assert switchboard("prune", "--texts", "then", home=folder).code == 2
