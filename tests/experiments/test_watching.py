"""The lead's watch over an experiment, on rows of a real store."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sqlalchemy import insert

from gateway.errors import SwitchboardError
from gateway.experiments.standings import Standings
from gateway.experiments.watching import Watching
from gateway.store import schema
from gateway.store.experiments import ExperimentBook
from gateway.store.store import Store
from gateway.types.decisions import Trial
from gateway.types.experiments import Asked, Experiment, Standing
from gateway.types.policies import Policy
from gateway.types.routes import Match, Metric, Route
from gateway.types.snapshot import Server, Snapshot
from tests.store.world import AT, attempt, decision, keep, record

METRIC = Metric("accepted", "boolean", comparison="=", bound=1.0)
PLAIN = Experiment(
    "x",
    {"old": "openai/mini", "new": "local/qwen"},
    {"old": 0.5, "new": 0.5},
    1.0,
    asked=Asked("new", "old", "accepted", no_worse=False),
    promote=True,
)


class World:
    """A store with an experiment's requests, and whoever leads."""

    def __init__(self, store: Store, experiment: Experiment) -> None:
        self.store = store
        self.now = AT
        self.promoted: list[tuple[str, str]] = []
        self.noted: list[str] = []
        self.told: list[dict[str, Any]] = []
        self.refuses = ""
        self.rows = 0
        self.declare(experiment)
        self.lead = self.another_lead()

    def declare(self, experiment: Experiment) -> None:
        self.experiment = experiment
        metrics = (METRIC,)
        route = Route(
            "r", "", 0.02, False, Match(), (), "p", experiments=(experiment,), metrics=metrics
        )
        policies = {"p": Policy("p")}
        self.snapshot = Snapshot("h", Server(), "r", {}, {"r": route}, policies, {}, {})

    def another_lead(self) -> Watching:
        book = ExperimentBook(self.store, now=lambda: self.now)
        self.standings = Standings(book, changed=lambda: None, needed=lambda: True)

        async def promote(route: Route, experiment: Experiment, arm: str, why: str) -> None:
            if self.refuses:
                raise SwitchboardError(self.refuses)
            self.promoted.append((arm, why))

        async def note(action: str, subject: str, **detail: str) -> None:
            self.noted.append(action)

        return Watching(
            self.standings,
            book,
            snapshot=lambda: self.snapshot,
            leads=lambda: True,
            promote=promote,
            note=note,
            tell=lambda event: self.told.append(dict(event)),
            now=lambda: self.now,
            rng=np.random.default_rng(3),
        )

    def happen(self, arms: str, right: Callable[[str], float | None]) -> None:
        """A request of a user of its own for each letter, of the arm that begins with it."""
        records, said = [], []
        for letter in arms:
            self.rows += 1
            n, arm = self.rows, {"o": "old", "n": "new", "t": "third"}[letter]
            share = 1.0 / len(self.experiment.arms)
            chosen = msgspec.structs.replace(decision(), trial=Trial("x", arm, share, f"u{n}"))
            attempts = (attempt(self.experiment.arms[arm]),)
            records.append(
                record(n, decision=chosen, experiment="x", arm=arm, attempts=attempts, cost=0.01)
            )
            if (value := right(arm)) is not None:
                said.append(
                    {
                        "identity": f"{n}",
                        "request_id": f"req_{n:06}",
                        "metric": "accepted",
                        "value": value,
                        "at": AT + n,
                    }
                )
        keep(self.store, *records)
        with self.store.change() as connection:
            connection.execute(insert(schema.feedback), said)

    def look(self) -> Standing:
        asyncio.run(self.lead.look())
        return self.standings.known["x"]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(f"sqlite:///{tmp_path}/s.db")
    yield opened
    opened.close()


def better(arm: str) -> float:
    return float(arm == "new")


def test_the_winner_is_promoted_once(store: Store) -> None:
    world = World(store, PLAIN)
    assert world.look().state == "running"
    world.happen("on" * 15, better)

    standing = world.look()
    assert (standing.state, standing.answer) == ("promoted", True)
    assert standing.why == "95 % sure: new is better than old in accepted; new is promoted"
    world.look()
    world.lead = world.another_lead()
    world.look()
    assert world.promoted == [("new", "95 % sure: new is better than old in accepted")]
    assert world.noted == ["experiment promoted"]
    assert [(each["event"], each["answer"]) for each in world.told] == [
        ("experiment.promoted", True)
    ]


def test_where_the_arm_is_no_better_the_control_wins(store: Store) -> None:
    world = World(store, PLAIN)
    world.look()
    world.happen("on" * 15, lambda arm: float(arm == "old"))

    assert world.look().answer is False
    assert [arm for arm, _ in world.promoted] == ["old"]


@pytest.mark.parametrize("bandit", [True, False])
def test_the_best_of_three_arms_is_found_and_promoted(store: Store, bandit: bool) -> None:
    arms = {"old": "openai/mini", "new": "local/qwen", "third": "local/qwen+a"}
    asked = Asked("", "", "accepted", no_worse=False, best=True)
    world = World(
        store,
        msgspec.structs.replace(
            PLAIN, arms=arms, shares=dict.fromkeys(arms, 1 / 3), asked=asked, bandit=bandit
        ),
    )
    world.look()
    world.happen("ont" * 5, better)
    assert world.look().state == "running"
    world.happen("ont" * 100, better)

    standing = world.look()
    assert (standing.state, standing.answer) == ("promoted", True)
    assert world.promoted == [("new", "95 % sure: new is the best arm in accepted")]


def test_what_cannot_be_promoted_is_told_and_ends_all_the_same(store: Store) -> None:
    world = World(store, PLAIN)
    world.look()
    world.refuses = "there is nothing to write into"
    world.happen("on" * 15, better)

    standing = world.look()
    assert standing.state == "answered"
    assert standing.why.endswith("new could not be promoted: there is nothing to write into")


def test_nothing_is_promoted_where_only_one_arms_users_answer(store: Store) -> None:
    world = World(store, PLAIN)
    world.look()
    world.happen("on" * 60, lambda arm: 1.0 if arm == "new" else None)
    world.happen("on" * 15, better)

    standing = world.look()
    assert standing.state == "answered"
    assert "nothing is promoted: one arm's units have an outcome more often" in standing.why
    assert world.promoted == []


def test_units_that_come_in_other_shares_end_it(store: Store) -> None:
    world = World(store, PLAIN)
    world.look()
    world.happen("on" * 20 + "n" * 60, better)

    standing = world.look()
    assert standing.state == "stopped"
    assert standing.why.startswith("units did not come to the arms in the declared shares")
    assert world.promoted == []


def test_it_ends_when_its_money_is_spent(store: Store) -> None:
    world = World(store, msgspec.structs.replace(PLAIN, most_usd=0.1))
    world.look()
    world.happen("on" * 4, lambda arm: 1.0)
    assert world.look().state == "running"
    world.happen("on", lambda arm: 1.0)

    assert world.look().why == "it has cost $0.1, of $0.1"


def test_another_lead_goes_on_and_another_declaration_begins_anew(store: Store) -> None:
    world = World(store, PLAIN)
    began = world.look().since
    world.happen("on" * 3, better)
    world.look()
    world.lead = world.another_lead()
    world.happen("on" * 12, better)
    assert world.look().state == "promoted"

    world.now = AT + 1000
    world.declare(msgspec.structs.replace(PLAIN, stick_to="key"))
    again = world.look()
    assert (again.state, again.since) == ("running", AT + 1000)
    assert began == AT
    assert world.look().state == "running"  # what was before does not count
