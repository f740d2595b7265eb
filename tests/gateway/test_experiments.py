"""Experiments at a running gateway: who gets which arm, what is kept of it, how it ends."""

import asyncio
import json
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from gateway.app import Gateway
from gateway.experiments.watching import Watching
from gateway.standin.behaviour import Fault, FaultKind
from gateway.standin.standin import StandIn
from gateway.store.audit import AuditBook
from gateway.store.experiments import ExperimentBook
from gateway.store.keys import Keys
from gateway.store.store import Store
from gateway.types.experiments import Experiment
from gateway.types.snapshot import Snapshot
from tests.cli.running import Ran, switchboard
from tests.gateway.support import Served, route, serving, serving_home, snapshot, target
from tests.limits.test_alerts import until, webhook

EVEN = {"old": 0.5, "new": 0.5}
ARMS = {"old": "one/big", "new": "two/big"}


@pytest.fixture
async def servers() -> AsyncIterator[tuple[StandIn, StandIn]]:
    async with StandIn() as first, StandIn() as second:
        yield first, second


def configured(servers: tuple[StandIn, StandIn], **changes: Any) -> Snapshot:
    """Two targets, the first of which is worth more; an experiment with both of half the users."""
    first, second = servers
    plain = Experiment("old-vs-new", ARMS, EVEN, 0.5)
    return snapshot(
        [target("one/big", first.url), target("two/big", second.url)],
        [route("general", "one/big", experiments=(msgspec.structs.replace(plain, **changes),))],
    )


async def test_users_keep_their_arm_over_a_restart_and_the_log_knows_it(
    servers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    users = [f"user {n}" for n in range(60)]
    seen: list[dict[str, str]] = []
    for _ in range(2):
        async with serving(configured(servers), tmp_path) as served:
            answers = {user: await served.chat(user=user) for user in users}
            seen.append({u: a.headers["x-switchboard-target"] for u, a in answers.items()})
            rows = {user: await served.decision(answer) for user, answer in answers.items()}
    trials = {user: row["decision"]["trial"] for user, row in rows.items()}

    assert seen[0] == seen[1]
    arms = Counter(trial and trial["arm"] for trial in trials.values())
    assert min(arms[None], arms["old"], arms["new"]) >= 8
    for user, trial in trials.items():
        ranked = rows[user]["decision"]["ranked"]
        if trial is None:
            assert [each["target"] for each in ranked] == ["one/big"]
            continue
        assert trial["share"] == 0.5
        assert ranked[0]["target"] == ARMS[trial["arm"]]
        assert [each["propensity"] for each in ranked] == [0.5, 0.5]


async def test_where_an_arm_fails_the_others_answer(
    servers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    _, second = servers
    only_new = configured(servers, traffic=1.0, shares={"old": 0.0, "new": 1.0})
    async with serving(only_new, tmp_path) as served:
        assert (await served.chat()).headers["x-switchboard-target"] == "two/big"
        await second.stop()
        answer = await served.chat()

    assert answer.status_code == 200
    assert answer.headers["x-switchboard-target"] == "one/big"


async def test_a_winner_answers_everybody(servers: tuple[StandIn, StandIn], tmp_path: Path) -> None:
    async with serving(configured(servers, winner="new"), tmp_path) as served:
        answers = [await served.chat(user=f"{n}") for n in range(10)]
        row = await served.decision(answers[0])
        body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
        shown = (await served.client.post("/v1/route", json=body)).json()["decision"]

    assert {answer.headers["x-switchboard-target"] for answer in answers} == {"two/big"}
    assert row["decision"]["trial"] is None
    assert shown["ranked"][0]["verdict"] == "the winner of an experiment"


# ---------------------------------------------------------------- until it ends

GATEWAY = """
default_route: general
backends:
  one:
    kind: openai
    url: {one}
    models: {{big: {{id: big, price: {{input: 9 usd/Mtok, output: 9 usd/Mtok}}}}}}
  two:
    kind: openai
    url: {two}
    models: {{big: {{id: big, price: {{input: 1 usd/Mtok, output: 1 usd/Mtok}}}}}}
"""
ROUTE = """\
name: general
value: 0.01 usd
match: named
candidates: [{target: one/big, quality: 0.9}]
policy: plain
metrics: {accepted: {type: boolean, from: feedback, right_when: true}}
right: accepted
experiments:
  # ours against theirs
  old-vs-new:
    arms: {old: one/big, new: two/big}
    traffic: 100 %
    question: {arm: new, metric: accepted, better_than: old}
    guards: {errors: 2 %, first_token_p95: 30 s}
    when_answered: promote
"""

ALERTS = "limits: {alerts: {at: [80 %%], webhook: %s, secret: hush}}\n"


@asynccontextmanager
async def at_home(
    home: Path, servers: tuple[StandIn, StandIn], text: str = ROUTE, more: str = ""
) -> AsyncIterator[Served]:
    """A gateway that serves files, with an operator's key."""
    first, second = servers
    for folder in ("routes", "policies"):
        (home / folder).mkdir(exist_ok=True)
    (home / "gateway.yaml").write_text(GATEWAY.format(one=first.url, two=second.url) + more)
    (home / "routes/general.yaml").write_text(text)
    (home / "policies/plain.yaml").write_text("name: plain\n")
    with closing(Store.open(f"sqlite:///{home}/switchboard.db")) as store:
        key = Keys(store).create("ops", role="operate").secret
    async with serving_home(home, key) as served:
        await served.gateway.watching.look()
        yield served


async def ask(served: Served, count: int, right: dict[str, float], start: int = 0) -> None:
    """So many users ask once each, and say whether they liked it."""
    for n in range(start, start + count):
        answer = await served.chat(user=f"user {n}", model="general")
        liked = (n * 0.6180339887) % 1.0 < right[answer.headers["x-switchboard-target"]]
        said = {"decision": answer.headers["x-switchboard-decision"], "metric": "accepted"}
        told = await served.client.post("/v1/feedback", json={**said, "value": liked})
        assert told.status_code == 200, told.text


def another_lead(gateway: Gateway) -> Watching:
    """Another worker that has just taken over: it knows nothing but what the store has."""

    async def never(*_: Any) -> None:
        raise AssertionError("nothing is to be promoted or noted")

    return Watching(
        gateway.standings,
        ExperimentBook(gateway.store),
        snapshot=lambda: gateway.pipeline.plane.snapshot,
        leads=lambda: True,
        promote=never,
        note=never,
        tell=lambda _: None,
        now=time.time,
        rng=np.random.default_rng(1),
    )


async def command(served: Served, home: Path, *words: str) -> Ran:
    options = ["--config", str(home)]
    if "stop" in words:
        options += ["--gateway", str(served.client.base_url), "--key", str(served.key)]
    return await asyncio.to_thread(switchboard, *words, *options, home=home)


async def test_the_better_arm_is_found_and_promoted_as_a_revision_that_can_be_taken_back(
    servers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    async with at_home(tmp_path, servers) as served:
        await ask(served, 8, {"one/big": 0.2, "two/big": 1.0})
        await served.gateway.watching.look()
        early = await command(served, tmp_path, "experiment", "show", "old-vs-new")
        before = served.gateway.running.seq
        await ask(served, 60, {"one/big": 0.2, "two/big": 1.0}, 8)
        await served.gateway.watching.look()

        revision = served.gateway.running.revision
        after = [await served.chat(user=f"u{n}", model="general") for n in range(6)]
        shown = (await served.client.get("/admin/experiments")).json()["data"]
        found = await command(served, tmp_path, "experiment", "report", "old-vs-new", "--json")
        page = tmp_path / "report.html"
        written = await command(
            served, tmp_path, "experiment", "report", "old-vs-new", "--html", str(page)
        )
        late = await command(served, tmp_path, "experiment", "show", "old-vs-new")
        audited = AuditBook(served.gateway.store).list()
        await served.gateway.running.roll_back(None, "somebody")
        back = [await served.chat(user=f"v{n}", model="general") for n in range(12)]

    assert "guard errors of new: 0 %, limit 2 %: kept" in early.out
    # Plain answers have no first token that could be timed.
    assert "guard first_token_p95 of new: –, limit 30 s: nothing seen yet" in early.out
    assert "not sure yet: the difference is" in early.out
    assert re.search(r"\nthe difference is [+]\d+\.\d points, between [+]\d", late.out)
    assert revision is not None
    assert (revision.seq, revision.kind, revision.author) == (
        before + 1,
        "experiment",
        "experiment old-vs-new",
    )
    assert revision.note == "95 % sure: new is better than old in accepted"
    assert revision.files["routes/general.yaml"] == ROUTE.replace(
        "    arms:", "    winner: new\n    arms:"
    )
    assert {answer.headers["x-switchboard-target"] for answer in after} == {"two/big"}
    assert [(each["state"], each["winner"], each["answer"]) for each in shown] == [
        ("promoted", "new", True)
    ]
    report = json.loads(found.out)
    assert (report["answer"], report["state"], report["arms"][1]["mean"]) == (True, "promoted", 1.0)
    assert report["saved_a_month"] is None  # of seconds of traffic nobody can tell
    assert report["said"] in written.out
    assert page.read_text().startswith("<!doctype html>")
    assert ("experiment promoted", "old-vs-new", "the gateway itself") in [
        (each.action, each.subject, each.name) for each in audited
    ]
    # Taken back, the experiment has ended all the same: it is not asked again.
    assert {answer.headers["x-switchboard-target"] for answer in back} == {"one/big"}


async def test_an_arm_that_fails_is_stopped_by_its_guard_and_the_control_answers(
    servers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    _, second = servers
    second.fault = Fault(kind=FaultKind.STATUS, status=500)
    async with webhook() as hook, at_home(tmp_path, servers, ROUTE, ALERTS % hook.url) as served:
        answers = [await served.chat(user=f"{n}", model="general") for n in range(24)]
        await asyncio.to_thread(served.gateway.writer.flush)
        await served.gateway.watching.look()
        standing = served.gateway.standings.known["old-vs-new"]
        asked = len(second.seen)
        later = [await served.chat(user=f"{n}", model="general") for n in range(24)]
        row = await served.decision(later[0])
        await until(lambda: hook.heard)

    told = json.loads(hook.heard[0][1])
    assert (told["event"], told["experiment"], told["guarded"], told["why"]) == (
        "experiment.stopped",
        "old-vs-new",
        True,
        standing.why,
    )
    assert {answer.status_code for answer in answers} == {200}
    assert (standing.state, standing.guarded) == ("stopped", True)
    assert standing.why.startswith("arm new failed 100 % of its requests (allowed: 2 %)")
    assert {answer.headers["x-switchboard-target"] for answer in later} == {"one/big"}
    assert len(second.seen) == asked
    assert row["decision"]["trial"] is None


async def test_a_bandit_goes_to_what_is_worth_more_and_every_gateway_takes_its_shares(
    servers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    bandit = ROUTE.replace("    question: {arm: new, metric: accepted, better_than: old}\n", "")
    bandit = bandit.replace("when_answered: promote", "mode: bandit")
    async with at_home(tmp_path, servers, bandit) as served:
        await ask(served, 40, {"one/big": 0.3, "two/big": 1.0})
        await another_lead(served.gateway).look()
        shares = served.gateway.standings.known["old-vs-new"].shares
        other = Gateway(served.gateway.pipeline.plane.snapshot, served.gateway.store)
        await other.start()
        await until(lambda: other.pipeline.plane.lanes == served.gateway.pipeline.plane.lanes)
        answer = await served.chat(user="somebody", model="general")
        row = await served.decision(answer)
        later = served.gateway.standings.known["old-vs-new"].shares
        await other.stop()

    assert shares["new"] > 0.9
    assert shares["old"] >= 0.05
    assert row["decision"]["trial"]["share"] in {*shares.values(), *later.values()}


async def test_a_person_can_stop_it(servers: tuple[StandIn, StandIn], tmp_path: Path) -> None:
    async with at_home(tmp_path, servers) as served:
        stopped = await command(
            served, tmp_path, "experiment", "stop", "old-vs-new", "--why", "a bad day"
        )
        again = await command(served, tmp_path, "experiment", "stop", "old-vs-new")
        unknown = await command(served, tmp_path, "experiment", "stop", "new-vs-old")
        answer = await served.chat(user="7", model="general")
        listed = await command(served, tmp_path, "experiment", "list")
        row = await served.decision(answer)

    assert stopped.code == 0
    assert (again.code, unknown.code) == (1, 1)
    assert "has ended: stopped by ops: a bad day" in again.err
    assert row["decision"]["trial"] is None
    assert "stopped by ops: a bad day" in listed.out


async def test_how_long_it_would_take_is_told_before_it_is_begun(
    servers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    async with at_home(tmp_path, servers) as served:
        nothing = await command(served, tmp_path, "experiment", "plan", "old-vs-new")
        await ask(served, 10, {"one/big": 0.7, "two/big": 0.7})
        plan = await command(
            served, tmp_path, "experiment", "plan", "old-vs-new", "--json", "--effect", "20"
        )
        told = await command(served, tmp_path, "experiment", "plan", "old-vs-new", "--effect", "20")
        rates = [
            await command(
                served, tmp_path, "experiment", "plan", "old-vs-new", "--json", "--rate", rate
            )
            for rate in ("70 %", "0.7", "70")
        ]
        log = await command(served, tmp_path, "log", "--limit", "20")

    assert [each.code for each in rates] == [0, 0, 2]
    assert [json.loads(each.out)["control"] for each in rates[:2]] == [0.7, 0.7]
    assert "at most 100 %" in rates[2].err
    assert nothing.code == 1
    assert "--rate" in nothing.err
    made = json.loads(plan.out)
    assert made["sizes"]["fixed"] < made["sizes"]["most"] < 5 * made["sizes"]["fixed"]
    assert made["days"] == pytest.approx(made["sizes"]["most"] / made["a_day"])
    assert "four of five" in told.out
    assert "general, old-vs-new: new" in log.out
