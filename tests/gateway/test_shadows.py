"""Shadows: copies of answered requests, which nobody waits for and which cost nobody anything."""

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.standin.behaviour import Behaviour, Fault, FaultKind, say
from gateway.standin.standin import StandIn
from gateway.store.reader import Reader
from gateway.store.shadows import ShadowBook
from gateway.store.spending import SpendingBook
from gateway.types.routes import Shadow
from gateway.types.snapshot import Snapshot
from tests.cli.running import switchboard
from tests.gateway.support import Served, route, serving, snapshot, target, text_of

EVERY = Shadow("two/big", 1.0, 1.0, 8)


def configured(first: StandIn, second: StandIn, shadow: Shadow = EVERY, **more: Any) -> Snapshot:
    return snapshot(
        [target("one/big", first.url), target("two/big", second.url)],
        [route("general", "one/big", shadow=shadow, keep="text", **more)],
    )


async def settled(served: Served) -> None:
    await served.gateway.shadows.settled()
    await asyncio.to_thread(served.gateway.writer.flush)


async def test_copies_are_answered_for_nobody_and_lie_beside_what_was_answered(
    tmp_path: Path,
) -> None:
    async with (
        StandIn(Behaviour(answer=say("yes"))) as first,
        StandIn(Behaviour(answer=say("no"))) as second,
    ):
        async with serving(configured(first, second), tmp_path, key=True) as served:
            answers = [await served.chat(f"text {n}") for n in range(3)]
            events = await served.events("streamed")
            await settled(served)
            pairs = list(ShadowBook(served.gateway.store).pairs("general", 0.0))
            rows = Reader(served.gateway.store).recent()
            spent = SpendingBook(served.gateway.store).before(time.time() + 60, 0.0, 0.0)
            page = (await served.client.get("/metrics")).text
            ran = await asyncio.to_thread(
                switchboard, "shadow", "report", "general", "--json", "--pairs",
                str(tmp_path / "pairs.jsonl"), "--store", f"sqlite:///{tmp_path}/switchboard.db",
            )  # fmt: skip
            unknown = await asyncio.to_thread(
                switchboard, "shadow", "report", "genral",
                "--store", f"sqlite:///{tmp_path}/switchboard.db",
            )  # fmt: skip

    assert {answer.headers["x-switchboard-target"] for answer in answers} == {"one/big"}
    assert text_of(events) == "yes"
    assert [(pair.target, pair.shadow_target, pair.shadow_outcome) for pair in pairs] == [
        ("one/big", "two/big", "ok")
    ] * 4
    assert len(rows) == 8
    # The key and the route are billed for what was answered alone.
    true = sum(pair.cost for pair in pairs)
    assert spent["route:general"][0] == pytest.approx(true * 1e9, abs=10)
    assert "key:anonymous" not in spent
    assert 'target="two/big"' not in page
    report = json.loads(ran.out)
    assert (unknown.code, unknown.out) == (1, "")
    assert "no route 'genral'; did you mean 'general'?" in unknown.err
    assert (report["shadow"]["requests"], report["compared"], report["same"]) == (4, 4, 0)
    assert len((tmp_path / "pairs.jsonl").read_text().splitlines()) == 4


async def test_a_shadow_that_hangs_or_fails_is_nothing_to_the_client(tmp_path: Path) -> None:
    slow = msgspec.structs.replace(EVERY, concurrent=2)
    async with StandIn() as first, StandIn() as second:
        async with serving(configured(first, second, slow), tmp_path) as served:
            second.fault = Fault(kind=FaultKind.STATUS, status=500)
            assert (await served.chat()).status_code == 200
            await settled(served)
            (pair,) = ShadowBook(served.gateway.store).pairs("general", 0.0)
            second.fault = Fault(kind=FaultKind.HANG_BEFORE_HEAD)
            async with asyncio.timeout(5):
                answers = [await served.chat(f"{n}") for n in range(6)]
            dropped = served.gateway.shadows.dropped

    assert pair.shadow_outcome == "error"
    assert {answer.status_code for answer in answers} == {200}
    assert dropped == 4


async def test_the_budget_of_a_day_ends_the_copies_and_a_restart_does_not_renew_it(
    tmp_path: Path,
) -> None:
    little = msgspec.structs.replace(EVERY, day_usd=1e-9)
    async with StandIn() as first, StandIn() as second:
        for _ in range(2):
            async with serving(configured(first, second, little), tmp_path) as served:
                for n in range(3):
                    await served.chat(f"{n}")
                    await settled(served)
        assert len(second.seen) == 1


async def test_what_was_asked_of_a_target_by_name_is_copied_to_no_other(tmp_path: Path) -> None:
    async with StandIn() as first, StandIn() as second:
        async with serving(configured(first, second), tmp_path) as served:
            assert (await served.chat(model="one/big")).status_code == 200
            await settled(served)
            assert not second.seen
            assert (await served.chat(model="general")).status_code == 200
            await settled(served)
        assert len(second.seen) == 1


async def test_internal_data_is_copied_to_nobody_outside(tmp_path: Path) -> None:
    """Even where a snapshot was made without the check of the files."""
    async with StandIn() as first, StandIn() as second:
        whole = configured(first, second, internal=True)
        inside = msgspec.structs.replace(whole.targets["one/big"], internal=True)
        whole = msgspec.structs.replace(whole, targets={**whole.targets, "one/big": inside})
        async with serving(whole, tmp_path) as served:
            assert (await served.chat()).status_code == 200
            await settled(served)
        assert not second.seen
        assert len(first.seen) == 1
