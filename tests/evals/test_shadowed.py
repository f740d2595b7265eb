"""A shadow's answers judged beside what was answered, by the command and a real gateway."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.app import Gateway
from gateway.config.load import load
from gateway.evals import runs
from gateway.evals.shadowed import question_of, said
from gateway.serving import listening
from gateway.standin.behaviour import Asked, Behaviour
from gateway.standin.standin import StandIn
from gateway.store.reader import Reader
from gateway.store.shadows import Pair
from gateway.store.store import Store
from tests.cli.running import Ran, switchboard
from tests.gateway.support import serving_home

CONFIG = """
server: {{listen: {listen}}}
store: sqlite:///{folder}/switchboard.db
default_route: general
backends:
  one: {{kind: openai, url: "{one}", models: {{m: {{id: m, price: {price}}}}}}}
  two: {{kind: openai, url: "{two}", models: {{m: {{id: m, price: {price}}}}}}}
"""
PRICE = "{input: 1 usd/Mtok, output: 1000 usd/Mtok}"
ROUTE = """
name: general
value: 0.01 usd
candidates: [{target: one/m, quality: 0.5}]
policy: plain
keep: text
shadow: {target: two/m, traffic: 100 %, budget: 1 usd, concurrent: 8}
"""
ASKED = 12


def answering(*, good: int) -> Behaviour:
    """Says `best N` to the first so many, `bad N` to others; and judges by which is best, or, of
    two alike, by the place."""

    def answer(asked: Asked) -> str:
        if "<first>" in asked.text:
            first, second = asked.text.split("<second>")
            best = ("best" in first, "best" in second)
            return f"Better: {'first' if best[0] >= best[1] else 'second'}"
        if "<answer>" in asked.text:
            return f"Mark: {5 if 'best' in asked.text else 2}"
        if not asked.text.isdecimal():
            return "here"
        return f"{'best' if int(asked.text) < good else 'bad'} {asked.text}"

    return Behaviour(answer=answer)


@pytest.fixture
async def kept(tmp_path: Path) -> Any:
    """A configuration whose store has twelve answers and their copies, the gateway away."""
    async with StandIn(answering(good=3)) as one, StandIn(answering(good=10)) as two:
        (tmp_path / "routes").mkdir()
        (tmp_path / "policies").mkdir()
        (tmp_path / "gateway.yaml").write_text(
            CONFIG.format(
                listen="127.0.0.1:1", folder=tmp_path, one=one.url, two=two.url, price=PRICE
            )
        )
        (tmp_path / "routes/general.yaml").write_text(ROUTE)
        (tmp_path / "policies/plain.yaml").write_text("name: plain\n")
        await asked_of_it(tmp_path)
        yield tmp_path


async def asked_of_it(folder: Path) -> None:
    """Twelve questions and their copies, through a gateway of these files."""
    snapshot = load(folder, {}, None).snapshot
    store = Store.open(f"sqlite:///{folder}/switchboard.db", new=True)
    gateway = Gateway(snapshot, store, cache=folder / ".switchboard")
    await gateway.start()
    async with (
        listening(gateway, "127.0.0.1", 0, snapshot.server) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        for n in range(ASKED):
            body = {"model": "auto", "messages": [{"role": "user", "content": str(n)}]}
            (await client.post("/v1/chat/completions", json=body)).raise_for_status()
        await gateway.shadows.settled()
    await gateway.stop()


async def judge(folder: Path, *words: str, code: int = 0) -> Any:
    ran: Ran = await asyncio.to_thread(
        switchboard, "shadow", "judge", "general", "--json", *words, home=folder
    )
    assert ran.code == code, ran.err
    return json.loads(ran.out) if ran.out else ran.said


async def test_a_model_judges_pairs_in_both_orders_and_nothing_twice(kept: Path) -> None:
    """Of twelve the copy is better in seven, the answer in none; three are the same good one, and
    of two that are both bad the judge prefers the first in either order."""
    told = await judge(kept, "--judge", "one/m", "--rubric", "The best.")
    (wins,) = told["shadows"]
    assert (wins["one"], wins["other"]) == ("two/m", "what was answered")
    assert (wins["wins"], wins["ties"], wins["losses"], wins["cases"]) == (7, 5, 0, ASKED)
    assert wins["sure"]
    assert told["judge_usd"] > 0.0
    again = await judge(kept, "--judge", "one/m", "--rubric", "The best.")
    assert again["shadows"] == told["shadows"]
    assert again["judge_usd"] < told["judge_usd"] / 5  # who judges, once

    report = ("eval", "report", "shadow-general")
    shown = await asyncio.to_thread(switchboard, *report, home=kept)
    words = "by judge: one/m against two/m: 0 wins, 5 ties, 7 losses on 12 cases"
    assert words in shown.out
    await asyncio.to_thread(switchboard, *report, "--html", "page.html", home=kept)
    assert words in (kept / "page.html").read_text()
    said = await asyncio.to_thread(
        switchboard, "shadow", "judge", "general", "--judge", "one/m", home=kept
    )
    assert "two/m is preferred" in said.out


async def test_a_suites_scorer_marks_each_side_and_a_limit_ends_it(kept: Path) -> None:
    (kept / "s.yaml").write_text(
        "name: s\ndata: s.jsonl\nscorers:\n  same: {kind: exact}\n"
        "  marks: {kind: judge, target: one/m, right_when: '>= 0.75'}\n"
    )
    (kept / "s.jsonl").write_text('{"input": "x", "expected": "y"}\n')
    told = await judge(kept, "--suite", "s.yaml", "--scorer", "marks")
    assert [(each["wins"], each["ties"]) for each in told["shadows"]] == [(7, 5)]
    _, results = runs.read(runs.found(kept / runs.HOME, "shadow-general"))
    right = [each.right for each in results]
    assert (right[::2].count(True), right[1::2].count(True)) == (3, 10)
    why = await judge(kept, "--suite", "s.yaml", code=1)
    assert "`same` (exact) needs an expected answer" in why
    part = await judge(kept, "--judge", "two/m", "--limit-usd", "0.21", "--at-once", "1", code=2)
    assert not part["complete"]
    assert part["judge_usd"] <= 0.21
    assert 0 < part["shadows"][0]["cases"] < ASKED


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "who judges?"),
        (("--judge", "one/m", "--suite", "s.yaml"), "who judges?"),
        (("--judge", "no/m"), "there is no target `no/m`; there are: one/m, two/m"),
        (("--judge", "one/m", "--since", "0s"), "there is nothing to judge since 0s: no copies"),
    ],
)
async def test_what_cannot_be_judged_is_said(kept: Path, words: tuple[str, ...], why: str) -> None:
    assert why in await judge(kept, *words, code=1)


async def test_an_outside_judge_sees_nothing_of_an_internal_route(kept: Path) -> None:
    (kept / "routes/general.yaml").write_text(
        ROUTE.replace("one/m", "own/m").replace("two/m", "own/m") + "data: internal\n"
    )
    with (kept / "gateway.yaml").open("a") as file:
        file.write(
            "  own: {kind: vllm, replicas: [http://127.0.0.1:1/v1],"
            " models: {m: {id: m, price: {input: 0 usd/Mtok, output: 0 usd/Mtok}}}}\n"
        )
    why = await judge(kept, "--judge", "one/m", code=1)
    assert "`one/m` is not self-hosted, and the route's data is internal" in why


async def test_pairs_are_judged_as_their_routes_data_and_not_the_default_ones(kept: Path) -> None:
    """The default route would have what the judge is told copied."""
    (kept / "routes/other.yaml").write_text(ROUTE.replace("general", "other") + "match: named\n")
    config = (kept / "gateway.yaml").read_text()
    (kept / "gateway.yaml").write_text(config.replace("route: general", "route: other"))
    (kept / "routes/general.yaml").write_text(ROUTE.replace("shadow", "match: named  # "))
    async with serving_home(kept) as served:
        url = f"http://127.0.0.1:{served.port}"
        await judge(kept, "--judge", "one/m", "--gateway", url)
        await served.gateway.shadows.settled()
        await asyncio.to_thread(served.gateway.writer.flush)
        rows = Reader(served.gateway.store).recent(limit=None)[2 * ASKED :]
    assert {(row["route"], row["target"]) for row in rows} == {("general", "one/m")}


def test_texts_of_questions_and_answers() -> None:
    plain = Pair("r", None, "t", "a", None, 0.0, None, 0.0, "b", "ok", None, 0.0, None, 0.0)

    def of(*messages: Any) -> str | None:
        return question_of(msgspec.structs.replace(plain, messages=json.dumps(messages)))

    assert question_of(plain) == "t"
    assert of({"role": "user", "content": "x"}) == "x"
    parts = [{"type": "text", "text": "y"}]
    assert of({"role": "system", "content": "x"}, {"role": "user", "content": parts}) == (
        'system: x\n\nuser: [{"type": "text", "text": "y"}]'
    )
    assert said('{"choices": [{"message": {"content": "x"}}]}') == "x"
    assert said("x") == "x"
    assert said(None) is None
