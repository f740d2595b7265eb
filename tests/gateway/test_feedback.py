"""What is said of answers: whose, of which, and what is kept of it."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
from typer.testing import CliRunner

from gateway.cli import build
from gateway.evals.suites import read as read_suite
from gateway.evals.tuning import of_chats
from gateway.standin.standin import StandIn
from gateway.store.evidence import Evidence, EvidenceBook
from gateway.store.feedback import FeedbackBook, Said
from gateway.store.keys import Keys
from gateway.types.routes import Metric
from gateway.types.snapshot import Snapshot
from tests.gateway.support import Served, route, serving, snapshot, target

ACCEPTED = Metric("accepted", "boolean", comparison="=", bound=1.0, within_s=3600.0)
JUDGED = Metric("judged", "score", "judge", ">=", 4.0)


CHAT = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture
async def provider() -> AsyncIterator[StandIn]:
    async with StandIn() as standin:
        yield standin


def configured(provider: StandIn, **changes: Any) -> Snapshot:
    support = msgspec.structs.replace(
        route("support", "openai/mini"), metrics=(ACCEPTED, JUDGED), right="accepted", **changes
    )
    return snapshot([target("openai/mini", provider.url)], [support])


async def said(served: Served, *, key: str | None = None, **body: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return await served.client.post("/v1/feedback", json=body, headers=headers)


async def asked(served: Served, **headers: str) -> httpx.Response:
    answer = await served.client.post("/v1/chat/completions", json=CHAT, headers=headers)
    assert answer.status_code == 200, answer.text
    return answer


async def kept(served: Served, answer: httpx.Response) -> list[dict[str, Any]]:
    row = await served.client.get(f"/v1/decisions/{answer.headers['x-switchboard-decision']}")
    found: list[dict[str, Any]] = row.json()["feedback"]
    return found


async def test_an_answer_is_spoken_of_by_any_of_its_names(
    provider: StandIn, tmp_path: Path
) -> None:
    async with serving(configured(provider), tmp_path) as served:
        answer = await asked(served, **{"x-switchboard-ref": "ticket-4711"})
        names = {
            "request": answer.headers["x-request-id"],
            "decision": answer.headers["x-switchboard-decision"],
            "completion": answer.json()["id"],
            "ref": "ticket-4711",
        }
        for turn, (by, name) in enumerate(names.items()):
            right = bool(turn % 2)
            done = await said(served, **{by: name}, metric="accepted", value=right)
            assert done.status_code == 200, done.text
            (told,) = done.json()["data"]
            assert (told["right"], told["counts"]) == (right, True)
            assert told["request"] == names["request"]
        # Said again, it replaces what was said.
        (row,) = await kept(served, answer)
        assert (row["metric"], row["value"]) == ("accepted", 1.0)
        assert not any("x-switchboard-ref" in seen.headers for seen in provider.seen)


async def test_an_outcome_of_an_episode_is_of_all_its_calls(
    provider: StandIn, tmp_path: Path
) -> None:
    async with serving(configured(provider), tmp_path) as served:
        case = {"x-switchboard-episode": "case-9"}
        answers = [await asked(served, **case) for _ in range(3)] + [await asked(served)]
        done = await said(served, episode="case-9", metric="judged", value=3.5)
        assert [told["right"] for told in done.json()["data"]] == [False] * 3
        assert [len(await kept(served, answer)) for answer in answers] == [1, 1, 1, 0]


async def test_corrections_are_kept_where_the_route_keeps_text(
    provider: StandIn, tmp_path: Path
) -> None:
    words = {"comment": "too long", "correction": "Hello\0 there."}
    for keep, told in (("features", None), ("text", "Hello\ufffd there.")):
        folder = tmp_path / keep
        folder.mkdir()
        async with serving(configured(provider, keep=keep), folder) as served:
            answer = await asked(served)
            name = answer.headers["x-request-id"]
            done = await said(served, request=name, metric="accepted", value=False, **words)
            assert done.json()["data"][0]["kept_text"] is (keep == "text")
            (row,) = await kept(served, answer)
            assert row["correction"] == told


async def test_a_key_speaks_of_its_own_and_its_tenants_requests(
    provider: StandIn, tmp_path: Path
) -> None:
    """And learns of no other whether it is there."""
    async with serving(configured(provider), tmp_path, key=True, tenant="acme") as served:
        keys = Keys(served.gateway.store)
        colleague = keys.create("colleague", tenant="acme").secret
        stranger = keys.create("stranger", tenant="other").secret
        served.gateway.keyring.refresh()
        answer = await asked(served)
        name = answer.headers["x-request-id"]
        about = {"metric": "accepted", "value": True}
        assert (await said(served, key=colleague, request=name, **about)).status_code == 200
        other = await said(served, key=stranger, request=name, **about)
        nobody = await said(served, key=stranger, request="req_no", **about)
        assert (other.status_code, nobody.status_code) == (404, 404)
        assert (
            other.json()["error"]["message"].replace(name, "req_no")
            == (nobody.json()["error"]["message"])
        )
        none = await served.client.post(
            "/v1/feedback", json={"request": name, **about}, headers={"authorization": ""}
        )
        assert none.status_code == 401


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"metric": "accepted", "value": True, "ref": "x"}, "by one of"),
        ({"metric": "acepted", "value": True}, "it has 'accepted', 'judged'"),
        ({"metric": "accepted", "value": 1}, "is true or false, not 1"),
        ({"metric": "judged", "value": True}, "write a number"),
        ({"metric": "judged", "value": "4"}, "value"),
        ({"metric": "judged", "value": 4, "colour": "red"}, "colour"),
        ({"metric": "accepted"}, "`value` is missing."),
    ],
)
async def test_what_is_wrong_with_it_is_told(
    provider: StandIn, tmp_path: Path, body: dict[str, Any], message: str
) -> None:
    async with serving(configured(provider), tmp_path) as served:
        name = (await asked(served)).headers["x-request-id"]
        done = await said(served, request=name, **body)
        assert done.status_code == 400
        assert message in done.json()["error"]["message"]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 400])
async def test_a_score_is_a_finite_number(provider: StandIn, tmp_path: Path, number: str) -> None:
    async with serving(configured(provider), tmp_path) as served:
        name = (await asked(served)).headers["x-request-id"]
        body = f'{{"request": "{name}", "metric": "judged", "value": {number}}}'
        headers = {"content-type": "application/json"}
        done = await served.client.post("/v1/feedback", content=body, headers=headers)
    assert (done.status_code, done.json()["error"]["param"]) == (400, "value")
    assert "number" in done.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"[", b'"x"', b"[1]", b""])
async def test_a_body_that_is_no_object_is_told(
    provider: StandIn, tmp_path: Path, body: bytes
) -> None:
    async with serving(configured(provider), tmp_path) as served:
        done = await served.client.post("/v1/feedback", content=body)
        typed = await served.client.post(
            "/v1/feedback", content=body, headers={"content-type": "application/json"}
        )
    for answer in (done, typed):
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith("The body is no JSON object")


async def test_what_comes_late_is_kept_and_does_not_count(
    provider: StandIn, tmp_path: Path
) -> None:
    short = msgspec.structs.replace(ACCEPTED, within_s=0.0)
    configuration = configured(provider)
    support = msgspec.structs.replace(configuration.routes["support"], metrics=(short,))
    configuration = msgspec.structs.replace(configuration, routes={"support": support})
    async with serving(configuration, tmp_path) as served:
        answer = await asked(served)
        name = answer.headers["x-request-id"]
        done = await said(served, request=name, metric="accepted", value=True)
        assert done.json()["data"][0]["counts"] is False
        assert len(await kept(served, answer)) == 1


async def test_the_sdk_says_it(provider: StandIn, tmp_path: Path) -> None:
    async with serving(configured(provider), tmp_path, key=True, role="read") as served:
        client = openai.AsyncOpenAI(base_url=f"{served.client.base_url}/v1", api_key=served.key)
        answer = await client.chat.completions.create(
            model="support",
            messages=[{"role": "user", "content": "hello"}],
            extra_headers={"x-switchboard-ref": "order-7"},
        )
        body = {"completion": answer.id, "metric": "judged", "value": 5}
        done = await client.post("/feedback", body=body, cast_to=object)
        assert done["data"][0]["right"] is True  # type: ignore[index]
        await client.close()
        book = FeedbackBook(served.gateway.store)
        rows = await asyncio.to_thread(served.gateway.reader.recent)
        (row,) = book.of(rows[-1]["id"])
        assert row["value"] == 5.0
        page = (await served.client.get("/metrics")).text
    assert 'switchboard_feedback_total{metric="judged",route="support"} 1.0' in page


async def test_what_is_said_moves_requests_to_who_is_right(tmp_path: Path) -> None:
    """And `explain` shows what is known; what evals have found counts as well."""
    async with StandIn() as one, StandIn() as other:
        targets = [target("a/declared-best", one.url), target("b/really-best", other.url)]
        support = msgspec.structs.replace(
            route("support", "a/declared-best", "b/really-best"),
            metrics=(ACCEPTED,),
            right="accepted",
        )
        async with serving(snapshot(targets, [support]), tmp_path) as served:
            gateway = served.gateway
            before = await served.client.post("/v1/route", json=CHAT)
            assert before.json()["decision"]["ranked"][0]["target"] == "a/declared-best"
            assert before.json()["qualities"] == {}
            for _ in range(40):
                answer = await asked(served)
                name = answer.headers["x-request-id"]
                await said(served, request=name, metric="accepted", value=False)
            found = Evidence(
                "support", "b/really-best", "accepted", "eval:x/1", 100, 98, time.time()
            )
            EvidenceBook(gateway.store).add([found])
            assert await gateway.qualities.look()
            assert not await gateway.qualities.look()  # nothing new
            after = (await served.client.post("/v1/route", json=CHAT)).json()
            assert after["decision"]["ranked"][0]["target"] == "b/really-best"
            known = after["qualities"]["b/really-best"]
            assert known["seen"] == pytest.approx(100, abs=0.01)
            assert known["low"] < known["mean"] < known["high"]
            assert after["qualities"]["a/declared-best"]["mean"] < 0.5


async def test_a_target_that_becomes_worse_without_a_word_is_told_of(
    provider: StandIn, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(configured(provider), tmp_path) as served:
        gateway, book = served.gateway, FeedbackBook(served.gateway.store)
        name = (await asked(served)).headers["x-request-id"]
        await kept_row(served, name)
        # Many things said of one request, each by another key.
        values = [True] * 120 + [turn % 3 == 0 for turn in range(60)]
        now = time.time()
        book.say(
            [
                Said(name, "accepted", float(value), None, None, f"key_{turn}", now + turn / 1000)
                for turn, value in enumerate(values)
            ]
        )
        await gateway.qualities.look()
        page = (await served.client.get("/metrics")).text
    (warning,) = [each for each in caplog.messages if "on the route support is worse" in each]
    assert "100.0 % were" in warning
    assert 'switchboard_quality_changed_total{route="support",target="openai/mini"} 1.0' in page


async def kept_row(served: Served, name: str) -> None:
    await asyncio.to_thread(served.gateway.writer.flush)
    assert served.gateway.reader.find(name) is not None


async def test_the_command_shows_what_is_known(provider: StandIn, tmp_path: Path) -> None:
    files = {
        "gateway.yaml": f"""
default_route: support
store: sqlite:///{tmp_path}/switchboard.db
backends:
  openai:
    kind: openai
    url: {provider.url}/v1
    models: {{mini: {{id: mini, price: {{input: 1 usd/Mtok, output: 2 usd/Mtok}}}}}}
""",
        "routes/support.yaml": """
name: support
value: 0.01 usd
candidates: [{target: openai/mini, quality: 0.9}]
policy: quality
keep: text
metrics: {accepted: {}, judged: {type: score, from: judge}}
right: accepted
""",
        "policies/quality.yaml": "name: quality\n",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    async with serving(configured(provider, keep="text"), tmp_path) as served:
        name = (await asked(served)).headers["x-request-id"]
        await said(served, request=name, metric="accepted", value=True)
        await said(served, request=name, metric="judged", value=4.5)
    done = await ran("quality", "--config", str(tmp_path), "--json")
    (row,) = msgspec.json.decode(done)["rows"]
    assert (row["target"], row["heard"], row["tried"]) == ("openai/mini", 1.0, 0.0)
    assert row["quality"]["mean"] == pytest.approx(19 / 21, abs=1e-4)
    assert row["metrics"]["judged"] == {"n": 1.0, "mean": 4.5}
    assert "judged 4.50 of 1" in await ran("quality", "--config", str(tmp_path))
    shown = await ran("explain", "hello", "--config", str(tmp_path), "--json")
    assert msgspec.json.decode(shown)["qualities"]["openai/mini"]["seen"] > 0.99
    out = tmp_path / "set.jsonl"
    told = await ran("export", "--route", "support", "--out", str(out), "--config", str(tmp_path))
    assert "0 chats" in told
    assert "1 are of backends whose answers may not train" in told
    assert (out.read_text(), out.stat().st_mode & 0o777) == ("", 0o600)
    files["gateway.yaml"] = files["gateway.yaml"].replace(
        "kind: openai", "kind: openai\n    outputs_may_train: true"
    )
    (tmp_path / "gateway.yaml").write_text(files["gateway.yaml"])
    lines = await ran("export", "--route", "support", "--config", str(tmp_path))
    assert '{"role": "assistant", "content": "hello"}' in lines
    begun = await ran(
        "eval", "init", "--from-log", "support", "--out", str(tmp_path), "--config", str(tmp_path)
    )
    assert "1 cases" in begun
    suite = read_suite(tmp_path / "support-log.yaml", {})
    assert [(case.prompt, case.expected) for case in suite.cases] == [("hello", "hello")]
    assert (tmp_path / "support-log.jsonl").stat().st_mode & 0o777 == 0o600


async def ran(*command: str) -> str:
    """What a command prints."""
    done = await asyncio.to_thread(CliRunner().invoke, build(), list(command))
    assert done.exit_code == 0, done.output
    return done.output


async def test_good_and_corrected_answers_are_a_set_to_train_on(
    provider: StandIn, tmp_path: Path
) -> None:
    """But for those of a provider whose terms forbid it, and of other tenants."""
    keeping = configured(provider, keep="text")
    own = msgspec.structs.replace(keeping.targets["openai/mini"], name="own/mini", backend="own")
    both = msgspec.structs.replace(
        keeping,
        targets={**keeping.targets, "own/mini": own},
        backends={
            **keeping.backends,
            "own": msgspec.structs.replace(keeping.backends["openai"], name="own", may_train=True),
        },
    )
    async with serving(both, tmp_path) as served:
        for target_, text, value, words in (
            ("own/mini", "good", True, None),
            ("own/mini", "good", True, None),
            ("own/mini", "bad", False, None),
            ("own/mini", "mended", False, "as it should be"),
            ("openai/mini", "theirs", True, None),
        ):
            body = {"model": target_, "messages": [{"role": "user", "content": text}]}
            answer = await served.client.post("/v1/chat/completions", json=body)
            name = answer.headers["x-request-id"]
            done = await said(
                served, request=name, metric="accepted", value=value, correction=words
            )
            assert done.status_code == 200, done.text
        book = FeedbackBook(served.gateway.store)
        chats = book.spoken_of("support", ACCEPTED, 0.0, None, all_tenants=False)
        assert book.spoken_of("support", ACCEPTED, 0.0, "acme", all_tenants=False) == []
    made = of_chats(chats, lambda target: target.startswith("own/"))
    said_of = [
        [message["content"] for message in msgspec.json.decode(line)["messages"]]
        for line in made.lines
    ]
    assert said_of == [["good", "good"], ["mended", "as it should be"]]
    assert made.corrected == 1
    assert sorted(made.left_out.values()) == [1, 1, 1]
    assert any("may not train" in why for why in made.left_out)
