"""What is said of answers: whose, of which, and what is kept of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest

from gateway.standin.standin import StandIn
from gateway.store.feedback import FeedbackBook
from gateway.store.keys import Keys
from gateway.types import Metric, Snapshot
from tests.gateway.support import Served, route, serving, snapshot, target

ACCEPTED = Metric("accepted", "boolean", comparison="=", bound=1.0, within_s=3600.0)
JUDGED = Metric("judged", "score", "judge", ">=", 4.0)


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
    body = {"model": "support", "messages": [{"role": "user", "content": "hello"}]}
    answer = await served.client.post("/v1/chat/completions", json=body, headers=headers)
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
