"""What the routes declare of our own models is what a real vLLM was measured to answer."""

import json
from pathlib import Path
from typing import Any

import pytest

from demo import measure, tasks
from gateway.config.load import load
from gateway.types.snapshot import Snapshot

ROOT = Path(__file__).parents[2]
BASE = "local/tiny"
MOST = 0.99
"""What is declared of a model that was never wrong: two hundred answers show no more."""

MEASURED = [(task, f"{BASE}+{task}", task) for task in tasks.ADAPTERS] + [
    (task, BASE, "base") for task in (*tasks.ADAPTERS, "reviews")
]


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """The report beside the weights."""
    found: dict[str, Any] = json.loads(measure.REPORT.read_text())
    return found


@pytest.fixture(scope="module")
def snapshot() -> Snapshot:
    """The tree's own configuration."""
    return load(ROOT, {}).snapshot


@pytest.mark.parametrize(("route", "target", "model"), MEASURED)
def test_a_declared_quality_is_the_measured_one(
    report: dict[str, Any], snapshot: Snapshot, route: str, target: str, model: str
) -> None:
    declared = next(c for c in snapshot.routes[route].candidates if c.target == target)
    served = report["served"]
    measured = served["exact_match"][model][route]
    assert declared.quality == pytest.approx(min(measured, MOST), abs=0.006)
    assert declared.quality_n == served["prompts_per_task"]


def test_no_other_candidate_claims_to_have_been_measured(snapshot: Snapshot) -> None:
    claims = {
        (route.name, candidate.target)
        for route in snapshot.routes.values()
        for candidate in route.candidates
        if candidate.quality_n != 20
    }
    assert claims == {(route, target) for route, target, _ in MEASURED}


def test_an_adapter_is_worth_something_where_the_base_is_visibly_worse(
    report: dict[str, Any],
) -> None:
    served = report["served"]["exact_match"]
    assert len(tasks.ADAPTERS) >= 3
    for task in tasks.ADAPTERS:
        assert served[task][task] >= served["base"][task] + 0.3


def test_what_training_foretold_is_what_is_served(report: dict[str, Any]) -> None:
    told, served = report["teacher_forced"], report["served"]["exact_match"]
    for task in tasks.ADAPTERS:
        assert told[task]["house"][task] == pytest.approx(served[task][task], abs=0.02)


def test_the_weights_in_the_tree_are_small() -> None:
    files = [path for path in measure.REPORT.parent.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10e6
