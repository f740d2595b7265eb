"""`switchboard eval run`: real questions through a real gateway to stand-ins."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from typer.testing import CliRunner

from gateway.app import Gateway
from gateway.cli import build
from gateway.config.load import load
from gateway.evals import runs
from gateway.evals.suites import read
from gateway.serving import listening
from gateway.standin.behaviour import Asked, Behaviour, Fault, FaultKind
from gateway.standin.standin import StandIn
from gateway.store.evidence import EvidenceBook
from gateway.store.feedback import FeedbackBook
from gateway.store.keys import Keys
from gateway.store.reader import Reader
from gateway.store.store import Store
from gateway.types.routes import Metric
from tests.gateway.support import serving_home

CAPITALS = {"France": "Paris", "Italy": "Rome", "Peru": "Lima", "Japan": "Tokyo"}
PRICE = "{input: 1 usd/Mtok, output: 1000 usd/Mtok}"

SUITE = """
name: capitals
route: geography
data: capitals.jsonl
prompt: "The capital of {input}?"
max_tokens: 8
"""


def knows(*countries: str) -> Behaviour:
    """Answers rightly of these, and of all others as if it were France."""

    def answer(asked: Asked) -> str:
        country = asked.text.removeprefix("The capital of ").removesuffix("?")
        return CAPITALS[country if country in countries else "France"]

    return Behaviour(answer=answer)


@pytest.fixture
async def providers() -> AsyncIterator[tuple[StandIn, StandIn]]:
    """One that knows all, and one that knows half."""
    async with StandIn(knows(*CAPITALS)) as all_of_it, StandIn(knows("Italy")) as half:
        yield all_of_it, half


def tree(folder: Path, providers: tuple[StandIn, StandIn], suite: str = SUITE) -> Path:
    """A configuration before both, and the suite's file."""
    backends = "".join(
        f"""
  {name}:
    kind: openai
    url: {standin.url}
    models: {{m: {{id: m, price: {PRICE}}}}}"""
        for name, standin in zip(("good", "half"), providers, strict=True)
    )
    files = {
        "gateway.yaml": f"""
server: {{listen: 127.0.0.1:1}}
store: sqlite:///{folder}/switchboard.db
default_route: geography
backends:{backends}
""",
        "routes/geography.yaml": """
name: geography
value: 0.01 usd
candidates: [{target: good/m, quality: 0.5}, {target: half/m, quality: 0.5}]
policy: plain
metrics: {accepted: {}}
right: accepted
""",
        "policies/plain.yaml": "name: plain\n",
        "capitals.yaml": suite,
        "capitals.jsonl": "".join(
            msgspec.json.encode({"input": country, "expected": city}).decode() + "\n"
            for country, city in CAPITALS.items()
        ),
    }
    for path, text in files.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    return folder / "capitals.yaml"


async def ran(folder: Path, *command: str, code: int = 0) -> str:
    line = ["eval", *command, "--config", str(folder)]
    done = await asyncio.to_thread(CliRunner().invoke, build(), line)
    assert done.exit_code == code, done.output
    return done.output


async def run(folder: Path, *more: str, code: int = 0) -> dict[str, Any]:
    out = await ran(folder, "run", str(folder / "capitals.yaml"), "--json", *more, code=code)
    told: dict[str, Any] = msgspec.json.decode(out[out.index("{") :])
    return told


def asked(*standins: StandIn) -> int:
    """Completions that were asked of them."""
    seen = [each for standin in standins for each in standin.seen]
    return sum(each.path.endswith("/chat/completions") for each in seen)


async def test_targets_are_asked_scored_and_nothing_twice(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    tree(tmp_path, providers)
    first = await run(tmp_path)
    assert [(row["target"], row["right"], row["n"]) for row in first["rows"]] == [
        ("good/m", 4, 4),
        ("half/m", 2, 4),
    ]
    assert (first["asked"], first["cached"], first["complete"]) == (8, 0, True)
    count = asked(*providers)
    again = await run(tmp_path)
    assert (again["asked"], again["cached"]) == (0, 8)
    assert asked(*providers) == count + 2  # who they are, once for each
    assert again["rows"][0]["right"] == 4
    folder = runs.found(tmp_path / runs.HOME, "capitals")
    kept, results = runs.read(folder)
    assert kept.id == again["id"]
    order = [(each.case, each.target) for each in results]
    assert order == [(str(n), target) for n in range(1, 5) for target in ("good/m", "half/m")]
    assert results[0].output == "Paris"
    assert results[0].first_token_s is not None
    assert results[0].input_tokens > 0


async def test_a_run_stops_before_the_limit_and_goes_on(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    tree(tmp_path, providers)
    limit = 0.0125  # each may cost $0.008 and a little, and does cost $0.001
    part = await run(tmp_path, "--limit-usd", str(limit), "--at-once", "1", code=2)
    assert not part["complete"]
    assert 0 < part["asked"] < 8
    assert part["cost_usd"] <= limit
    assert "limit" in part["note"]
    assert "not complete: stopped by the limit of 0.0125 usd" in await ran(
        tmp_path, "report", "capitals"
    )
    whole = await run(tmp_path)
    assert whole["asked"] + whole["cached"] == 8
    assert whole["cached"] == part["asked"]


async def test_who_is_asked_is_asked_within_the_limit_too(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    path = tree(tmp_path, providers)
    # One token of each is $0.001: the second one's does not fit.
    line = ("run", str(path), "--limit-usd", "0.0015")
    out = " ".join((await ran(tmp_path, *line, code=1)).split())
    assert "the limit of 0.0015 usd leaves too little to ask half/m who it is" in out
    assert asked(*providers) == 1


async def test_a_gateway_that_wants_a_key_is_told_with_the_option_for_it(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    path = tree(tmp_path, providers)
    snapshot = load(tmp_path, {}).snapshot
    store = Store.open(f"sqlite:///{tmp_path}/switchboard.db")
    Keys(store).create("someone")
    gateway = Gateway(snapshot, store)
    await gateway.start()
    async with listening(gateway, "127.0.0.1", 0, snapshot.server) as port:
        line = ("run", str(path), "--gateway", f"http://127.0.0.1:{port}")
        out = " ".join((await ran(tmp_path, *line, code=1)).split())
    await gateway.stop()
    assert "401 You did not provide an API key." in out
    assert "Give a key that may name targets by --key or SWITCHBOARD_KEY." in out


async def test_questions_wait_for_what_those_under_way_really_cost(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    tree(tmp_path, providers)
    # Two at a time fit by what they may cost, and all of them by what they do.
    whole = await run(tmp_path, "--limit-usd", "0.0195", "--at-once", "8")
    assert whole["complete"]
    assert whole["asked"] == 8


async def test_a_target_is_asked_in_several_ways(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    ways = "targets: [good/m, {target: good/m, name: lost, prompt: 'The capital of {expected}?'}]\n"
    tree(tmp_path, providers, SUITE + ways)
    told = await run(tmp_path, "--feed")
    assert [(row["target"], row["right"], row["n"]) for row in told["rows"]] == [
        ("good/m", 4, 4),
        ("lost", 1, 4),
    ]
    store = Store.open(f"sqlite:///{tmp_path}/switchboard.db")
    assert [row.target for row in EvidenceBook(store).read()] == ["good/m"]
    store.close()
    await run(tmp_path, "--targets", "lost")
    out = await ran(tmp_path, "feed", "capitals", code=1)
    assert "asked in ways of its own alone (lost)" in " ".join(out.split())


async def test_failures_are_no_wrong_answers(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    tree(tmp_path, providers)
    await run(tmp_path, "--targets", "good/m")
    providers[1].fault = Fault(kind=FaultKind.STATUS, status=500)
    out = await ran(tmp_path, "run", str(tmp_path / "capitals.yaml"), code=1)
    assert "half/m does not answer: 502" in out


async def test_results_feed_the_route(providers: tuple[StandIn, StandIn], tmp_path: Path) -> None:
    tree(tmp_path, providers)
    await run(tmp_path, "--feed")
    await ran(tmp_path, "feed", "capitals")
    store = Store.open(f"sqlite:///{tmp_path}/switchboard.db")
    rows = {row.target: (row.n, row.right, row.source) for row in EvidenceBook(store).read()}
    store.close()
    assert rows == {
        "good/m": (4.0, 4.0, "eval:capitals"),
        "half/m": (4.0, 2.0, "eval:capitals"),
    }


JUDGED = """
name: capitals
data: capitals.jsonl
prompt: "The capital of {input}?"
max_tokens: 8
targets: [half/m]
scorers:
  judged: {kind: judge, target: good/m, rubric: The right city., scale: 5, right_when: ">= 0.75"}
  better: {kind: judge, target: good/m, against: expected}
  same: {kind: normalised}
"""


async def test_a_model_judges_and_what_it_costs_is_apart(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    """The judge gives 5 for Paris and 1 for anything else, and prefers what comes first."""

    def judging(asked: Asked) -> str:
        if "<first>" in asked.text:
            return "Better: first"
        return "Mark: 5" if "<answer>\nParis" in asked.text else "Mark: 1"

    async with StandIn(Behaviour(answer=judging)) as judge:
        tree(tmp_path, (judge, providers[1]), JUDGED)
        told = await run(tmp_path)
    assert (told["rows"][0]["right"], told["rows"][0]["n"]) == (3, 4)
    assert told["judge_usd"] > told["cost_usd"] > 0
    _, results = runs.read(runs.found(tmp_path / runs.HOME, "capitals"))
    assert [each.scores["judged"] for each in results] == [1.0, 0.0, 1.0, 1.0]
    assert {each.scores["better"] for each in results} == {0.5}
    assert [each.scores["same"] for each in results] == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("suite", "said"),
    [
        (SUITE + "targets: [good/x]\n", "there is no target `good/x`; there are: good/m, half/m"),
        (SUITE.replace("geography", "geologie"), "there is no route 'geologie'"),
        (SUITE + "scorers: {s: {kind: judge}}\n", "a scorer by judge needs `target`"),
        (
            SUITE + "targets: [good/m, {target: good/m, system: Shout.}]\n",
            "`good/m` is asked twice",
        ),
        (SUITE + "right: accuracy\n", "unknown scorer `accuracy`"),
        (SUITE + "scorers: {s: {kind: similarity}}\n", "needs a sentence encoder"),
        (SUITE + "scorers: {s: {kind: python, function: 'no:f'}}\n", "write `module:function`"),
        (
            SUITE + "scorers: {s: {kind: python, function: 'own:f'}}\n",
            "the scorer `s` failed on case 2: ZeroDivisionError: division by zero",
        ),
    ],
)
async def test_what_cannot_be_run_is_said(
    providers: tuple[StandIn, StandIn], tmp_path: Path, suite: str, said: str
) -> None:
    path = tree(tmp_path, providers, suite)
    (tmp_path / "own.py").write_text(
        "def f(said, expected, fields):\n    return 1 / (expected != 'Rome')\n"
    )
    out = await ran(tmp_path, "run", str(path), code=1)
    assert said in " ".join(out.split())


async def test_an_internal_routes_cases_are_asked_of_none_but_our_own(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    path = tree(tmp_path, providers)
    config = (tmp_path / "gateway.yaml").read_text()
    own = config.replace("default_route", "aliases: {x: auto}\ndefault_route").replace(
        "  good:\n    kind: openai\n", "  good:\n    kind: vllm\n    replica_hour: 1 usd\n"
    )
    own = own.replace(f"url: {providers[0].url}", f"replicas: [{providers[0].origin}]", 1)
    own = own.replace(f"models: {{m: {{id: m, price: {PRICE}}}}}", "models: {m: {id: m}}", 1)
    (tmp_path / "gateway.yaml").write_text(own)
    route = (tmp_path / "routes/geography.yaml").read_text()
    route = route.replace(", {target: half/m, quality: 0.5}", "") + "data: internal\n"
    (tmp_path / "routes/geography.yaml").write_text(route)
    before = asked(*providers)
    out = await ran(tmp_path, "run", str(path), "--targets", "good/m,half/m", code=1)
    assert "`half/m` is not self-hosted, and the route's data is internal" in " ".join(out.split())
    assert asked(*providers) == before


async def test_cases_are_of_their_suites_route_and_not_of_the_default_one(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    """The default route keeps texts, and has them copied."""
    tree(tmp_path, providers)
    config = (tmp_path / "gateway.yaml").read_text()
    config = config.replace("default_route: geography", "default_route: general")
    (tmp_path / "gateway.yaml").write_text(config)
    (tmp_path / "routes/general.yaml").write_text(
        "name: general\nvalue: 0.01 usd\ncandidates: [{target: good/m, quality: 0.5}]\n"
        "policy: plain\nkeep: text\n"
        "shadow: {target: half/m, traffic: 100 %, budget: 1 usd, concurrent: 8}\n"
    )
    with (tmp_path / "routes/geography.yaml").open("a") as file:
        file.write("match: named\n")
    async with serving_home(tmp_path) as served:
        url = f"http://127.0.0.1:{served.port}"
        await run(tmp_path, "--targets", "good/m", "--gateway", url)
        await served.gateway.shadows.settled()
        await asyncio.to_thread(served.gateway.writer.flush)
        reader = Reader(served.gateway.store)
        found = [reader.find(row["id"]) for row in reader.recent()]
    assert asked(providers[1]) == 0
    kept = [(row["route"], row["text"]) for row in found if row is not None]
    assert kept == [("geography", None)] * (len(CAPITALS) + 1)


async def test_an_older_gateway_that_goes_by_the_route_instead_is_told(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    """It does not know the target yet, and the route that is named beside it has others."""
    path = tree(tmp_path, providers)
    async with serving_home(tmp_path) as served:
        text = (tmp_path / "gateway.yaml").read_text()
        newer = text.replace("models: {m:", f"models: {{n: {{id: m, price: {PRICE}}}, m:")
        (tmp_path / "gateway.yaml").write_text(newer)
        line = ("--targets", "half/n", "--gateway", f"http://127.0.0.1:{served.port}")
        out = " ".join((await ran(tmp_path, "run", str(path), *line, code=1)).split())
    assert "half/n does not answer: the gateway does not know it: good/m answered" in out


async def test_what_an_eval_asks_is_no_case_and_no_length_of_its_routes(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    tree(tmp_path, providers)
    with (tmp_path / "routes/geography.yaml").open("a") as file:
        file.write("keep: text\n")
    async with serving_home(tmp_path) as served:
        url = f"http://127.0.0.1:{served.port}"
        await run(tmp_path, "--targets", "good/m", "--gateway", url)
        live = served.gateway.pipeline.live
        assert ("geography", "good/m") not in live.outputs
        assert (await served.chat("France?", "geography")).status_code == 200
        assert ("geography", "good/m") in live.outputs
        # Who names a target and bounds nothing teaches what is reserved for the next.
        assert ("geography", "half/m") not in live.outputs
        assert (await served.chat("France?", "half/m")).status_code == 200
        assert ("geography", "half/m") in live.outputs
        spoken_of = (await served.chat("Peru?", "half/m")).headers["x-request-id"]
        said = {"request": spoken_of, "metric": "accepted", "value": True}
        assert (await served.client.post("/v1/feedback", json=said)).status_code == 200
        await asyncio.to_thread(served.gateway.writer.flush)
        chats = FeedbackBook(served.gateway.store).spoken_of(
            "geography", Metric("accepted", "boolean"), 0.0, None, all_tenants=False, silent=True
        )
    assert [msgspec.json.decode(chat.messages)[0]["content"] for chat in chats] == [
        "France?",
        "Peru?",
    ]


async def test_a_run_is_reported_and_two_are_compared(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    tree(tmp_path, providers)
    first = await run(tmp_path)
    page = tmp_path / "report.html"
    shown = await ran(tmp_path, "report", "capitals", "--html", str(page))
    assert "good/m" in shown
    assert "cannot be told apart on 4 cases" in " ".join(shown.split())
    told = msgspec.json.decode(await ran(tmp_path, "report", "capitals", "--json"))
    assert [(each["target"], each["quality"]) for each in told["standings"]] == [
        ("good/m", 1.0),
        ("half/m", 0.5),
    ]
    assert "<svg" in page.read_text()
    # The good one has forgotten everything; its answers are asked anew.
    async with StandIn(knows()) as forgetful:
        tree(tmp_path, (forgetful, providers[1]))
        second = await run(tmp_path, "--fresh")
    names = (f"capitals/{first['id']}", f"capitals/{second['id']}")
    out = await ran(tmp_path, "diff", *names, "--json")
    changes = {each["target"]: each for each in msgspec.json.decode(out)["targets"]}
    assert [each["case"] for each in changes["good/m"]["regressions"]] == ["2", "3", "4"]
    assert not changes["half/m"]["regressions"]
    assert "| good/m | -75.0 |" in await ran(tmp_path, "diff", *names, "--markdown")
    assert "there is no run 'rivers'" in await ran(tmp_path, "report", "rivers", code=1)


async def test_a_suite_begins_with_what_was_kept_though_nobody_said_what_is_right(
    providers: tuple[StandIn, StandIn], tmp_path: Path
) -> None:
    """A model marks the answers then; candidates that do not chat are not asked."""
    tree(tmp_path, providers)
    kept = (tmp_path / "routes/geography.yaml").read_text().replace("policy: plain", KEPT)
    kept = kept.replace("candidates: [", "candidates: [{target: other/e, quality: 0.1}, ")
    (tmp_path / "routes/geography.yaml").write_text(kept)
    with (tmp_path / "gateway.yaml").open("a") as file:
        file.write(
            f"  other:\n    kind: openai\n    url: {providers[0].url}\n    models:"
            f" {{e: {{id: e, price: {PRICE}, capabilities: {{endpoints: [embeddings]}}}}}}\n"
        )
    out = ["--out", str(tmp_path / "evals")]
    await answered_once(tmp_path, "The capital of Peru?")
    said = await ran(tmp_path, "init", "--from-log", "geography", *out, code=1)
    assert "of no chat of 'geography' that was kept since 7d anybody said" in " ".join(said.split())
    judged = ["--judge", "good/m", "--json"]
    told = await ran(tmp_path, "init", "--from-log", "geography", *out, *judged)
    assert msgspec.json.decode(told)["cases"] == 1
    # What a client wrote is no variable of ours.
    assert read(tmp_path / "evals/geography-log.yaml", {"HOME": "secret"}).system == SYSTEM
    line = ["run", str(tmp_path / "evals/geography-log.yaml"), "--json"]
    run = await ran(tmp_path, *line)
    rows = msgspec.json.decode(run[run.index("{") :])["rows"]
    assert [row["target"] for row in rows] == ["good/m", "half/m"]
    # This judge says a city, and no mark.
    said = await ran(tmp_path, *line[:2])
    assert "2 answers are neither right nor wrong: the judge of `judged` did not say" in said


KEPT = "policy: plain\nkeep: text"
SYSTEM = "Know ${HOME}, $${HOME:-x} and {key.tenant}."


async def answered_once(folder: Path, question: str) -> None:
    """One chat through a gateway of these files, kept in their store."""
    snapshot = load(folder, {}, None).snapshot
    gateway = Gateway(
        snapshot, Store.open(f"sqlite:///{folder}/switchboard.db"), cache=folder / ".switchboard"
    )
    await gateway.start()
    async with listening(gateway, "127.0.0.1", 0, snapshot.server) as port:
        async with httpx.AsyncClient() as client:
            texts = {"system": SYSTEM, "user": question}
            messages = [{"role": role, "content": text} for role, text in texts.items()]
            body = {"model": "auto", "messages": messages}
            url = f"http://127.0.0.1:{port}/v1/chat/completions"
            (await client.post(url, json=body)).raise_for_status()
    await gateway.stop()
