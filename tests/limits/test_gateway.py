"""Limits of a whole gateway in one process: refusals, headers, budgets, and what is kept."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest

from gateway.app import Gateway
from gateway.serving import listening
from gateway.standin.behaviour import Behaviour, Fault, FaultKind, to_length
from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.store.store import Store
from gateway.types.backends import Price
from gateway.types.limits import Quota, Quotas, Rate
from gateway.types.snapshot import Snapshot
from tests.gateway.support import Served, route, serving, serving_client, snapshot, target

MINUTE = 60.0
USD = 1e-4
"""What a token costs here, so that few are a lot."""


@pytest.fixture
async def provider() -> AsyncIterator[StandIn]:
    """Says as many words as it is let, up to 40."""
    words = to_length("word", 40)
    async with StandIn(Behaviour(answer=lambda _: words)) as standin:
        yield standin


def configured(
    provider: StandIn, *, input: float = USD, usual: float = 20.0, **changes: Any
) -> Snapshot:
    price = Price(input=input, cached_input=input, output=USD)
    declared = target("openai/mini", provider.url, price=price, output_tokens=usual)
    return snapshot([declared], **changes)


def error_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 429, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


async def spent(served: Served) -> float:
    """By the rows of the log."""
    await asyncio.to_thread(served.gateway.writer.flush)
    rows = served.gateway.reader.recent(limit=1000)
    return float(sum(row["cost_usd"] for row in rows))


async def test_a_keys_requests_are_counted_and_told(provider: StandIn, tmp_path: Path) -> None:
    quota = Quota(requests=Rate(3, MINUTE), tokens=Rate(1000, MINUTE))
    async with serving(
        configured(provider), tmp_path, key=True, quota=quota, role="read"
    ) as served:
        left = []
        for _ in range(3):
            answer = await served.chat(max_tokens=5)
            assert answer.status_code == 200, answer.text
            assert answer.headers["x-ratelimit-limit-requests"] == "3"
            assert answer.headers["x-ratelimit-limit-tokens"] == "1000"
            assert re.fullmatch(r"1m[0-2]s", answer.headers["x-ratelimit-reset-requests"])
            left.append(int(answer.headers["x-ratelimit-remaining-requests"]))
        assert left == [2, 1, 0]

        refused = await served.chat(max_tokens=5)
        error = error_of(refused)
        assert error["type"] == "requests"
        assert error["code"] == "rate_limit_exceeded"
        assert error["message"].startswith(
            "Rate limit reached for key 'test': 3 requests per minute, 3 made. Try again in"
        )
        assert 1 <= int(refused.headers["retry-after"]) <= 62
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"

        await asyncio.to_thread(served.gateway.writer.flush)
        row = served.gateway.reader.recent(limit=1)[-1]
        assert (row["status"], row["outcome"], row["cost_usd"]) == (429, "refused", 0.0)
        page = (await served.client.get("/metrics")).text
        assert 'switchboard_limit_refusals_total{limit="requests",whose="key"} 1.0' in page


async def test_tokens_are_reserved_and_settled(provider: StandIn, tmp_path: Path) -> None:
    quota = Quota(tokens=Rate(300, MINUTE))
    async with serving(configured(provider), tmp_path, key=True, quota=quota) as served:
        first = await served.chat("hello", max_tokens=200)
        used = first.json()["usage"]["total_tokens"]
        assert used < 60
        # Of the 200 that were reserved those not used are there again.
        second = await served.chat("hello", max_tokens=200)
        assert second.status_code == 200
        left = int(second.headers["x-ratelimit-remaining-tokens"])
        assert 0 <= left <= 300 - 200 - used
        error = error_of(await served.chat("hello", max_tokens=290))
        assert error["type"] == "tokens"
        assert "300 tokens per minute" in error["message"]
        never = await served.chat("hello", max_tokens=400)
        assert "more than the whole limit" in error_of(never)["message"]
        assert never.headers["x-should-retry"] == "false"
        assert "retry-after" not in never.headers


async def test_a_budget_is_not_overrun_and_outlasts_a_restart(
    provider: StandIn, tmp_path: Path
) -> None:
    quota = Quota(day=0.05)
    async with serving(configured(provider), tmp_path, key=True, quota=quota) as served:
        answers = await asyncio.gather(*(served.chat("hello", max_tokens=10) for _ in range(60)))
        assert {answer.status_code for answer in answers} == {200, 429}
        while (await served.chat("hello", max_tokens=10)).status_code == 200:
            pass
        assert 0.03 < await spent(served) <= 0.05
        error = error_of(await served.chat("hello", max_tokens=10))
        assert error["type"] == error["code"] == "insufficient_quota"
        assert "Budget reached for key 'test': $0.05 a day" in error["message"]
        assert "UTC" in error["message"]
        key = served.key

    store = Store.open(f"sqlite:///{tmp_path}/switchboard.db")
    configuration = configured(provider)
    gateway = Gateway(configuration, store)
    await gateway.start()
    async with listening(gateway, "127.0.0.1", 0, configuration.server) as port:
        async with serving_client(gateway, port, key) as served:
            assert (await served.chat("hello", max_tokens=10)).status_code == 429
            Keys(store).limit("test", lambda quota: msgspec.structs.replace(quota, day=0.06))
            async with asyncio.timeout(20):
                while (await served.chat("hello", max_tokens=10)).status_code != 200:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
    await gateway.stop()


@pytest.mark.parametrize(
    ("had", "added"), [(Quota(day=1.0), Quota(month=1.0)), (Quota(month=1.0), Quota(day=1.0))]
)
async def test_a_budget_beside_another_begins_with_what_was_spent(
    provider: StandIn, tmp_path: Path, had: Quota, added: Quota
) -> None:
    """It is declared while the gateway runs, and what was spent in its time is the log's to say."""
    async with serving(configured(provider), tmp_path, key=True, quota=had) as served:
        for _ in range(3):
            assert (await served.chat("hello", max_tokens=10)).status_code == 200
        Keys(served.gateway.store).limit("test", added.over)
        cost = pytest.approx(await spent(served))
        async with asyncio.timeout(20):
            used: dict[str, float] = {}
            while used != {"day": cost, "month": cost}:
                await asyncio.sleep(0.05)
                (row,) = await served.gateway.limiter.shown()
                used = {what: limit["used"] for what, limit in row["limits"].items()}


async def test_where_nothing_bounds_an_answer_the_overrun_is_what_was_under_way(
    tmp_path: Path,
) -> None:
    """As docs/limits.md has it: requests under way x (longest answer - reserved output) x price."""
    longest, reserved = 400, 56  # 2.8 times the usual, before one was seen
    long = Behaviour(answer=lambda _: to_length("word", longest), first_token_s=0.5)
    async with StandIn(long) as provider:
        budget = 8 * reserved * USD  # so that it is full with no more than eight
        configuration = configured(provider, input=0.0)
        async with serving(configuration, tmp_path, key=True, quota=Quota(day=budget)) as served:
            answers = await asyncio.gather(*(served.chat("hello") for _ in range(30)))
            error_of(await served.chat("hello"))
            under_way = [answer.status_code for answer in answers].count(200)
            most = under_way * (longest - reserved) * USD
            assert budget < await spent(served) <= budget + most + 1e-9


async def test_a_stream_that_passes_its_budget_finishes_and_the_next_is_refused(
    provider: StandIn, tmp_path: Path
) -> None:
    configuration = configured(provider, input=0.0, usual=2.0)
    quota = Quota(month=0.002)
    async with serving(configuration, tmp_path, key=True, quota=quota) as served:
        one, other = await asyncio.gather(served.events("hello"), served.events("hello"))
        assert one[-1] == other[-1] == "[DONE]"
        assert await spent(served) == pytest.approx(2 * 40 * USD)
        refused = await served.chat("hello", stream=True)
        assert "$0.002 a month, $0.008 spent" in error_of(refused)["message"]


async def test_what_failed_or_was_given_up_is_settled_too(
    provider: StandIn, tmp_path: Path
) -> None:
    quota = Quota(concurrent=1, day=1.0, tokens=Rate(10_000, MINUTE))
    async with serving(configured(provider), tmp_path, key=True, quota=quota) as served:
        (account,) = [a for a in served.gateway.limiter.accounts() if a.id.startswith("key:")]
        provider.fault = Fault(kind=FaultKind.STATUS, status=500)
        assert (await served.chat("hello", max_tokens=50)).status_code >= 500
        provider.fault = None
        assert (account.running, account.reserved) == (0, 0)
        assert account.tokens_used == 0
        provider.next(Fault(kind=FaultKind.CUT, after=3))
        cut = await served.chat("hello", stream=True, max_tokens=50)
        assert b"stream_truncated" in cut.content
        assert (account.running, account.reserved) == (0, 0)
        assert account.day is not None
        assert 0 < account.day.spent < 50e5

        provider.next(Fault(kind=FaultKind.HANG_BEFORE_HEAD))
        with pytest.raises(httpx.ReadTimeout):
            await served.client.post(
                "/v1/chat/completions",
                json={"model": "auto", "messages": [{"role": "user", "content": "x"}]},
                timeout=0.3,
            )
        async with asyncio.timeout(10):
            while account.running:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert account.reserved == 0


async def test_tenants_and_routes_have_limits_too(provider: StandIn, tmp_path: Path) -> None:
    small = Quota(requests=Rate(2, MINUTE))
    routes = [
        route("general", "openai/mini"),
        route("small", "openai/mini", quota=small),
    ]
    declared = configured(
        provider,
        routes=routes,
        quotas=Quotas(
            every_key=Quota(concurrent=50),
            every_tenant=Quota(requests=Rate(100, MINUTE)),
            tenants={"acme": Quota(requests=Rate(4, MINUTE))},
        ),
    )
    async with serving(declared, tmp_path, key=True, tenant="acme", role="read") as served:
        other = Keys(served.gateway.store).create("other", tenant="acme").secret
        await asyncio.to_thread(served.gateway.keyring.refresh)
        for _ in range(2):
            assert (await served.chat(model="small")).status_code == 200
        refused = error_of(await served.chat(model="small"))
        assert "route 'small'" in refused["message"]
        as_other = {"authorization": f"Bearer {other}"}
        body = {"model": "general", "messages": [{"role": "user", "content": "x"}]}
        codes = [
            (await served.client.post("/v1/chat/completions", json=body, headers=as_other))
            for _ in range(3)
        ]
        assert [each.status_code for each in codes] == [200, 200, 429]
        assert "tenant 'acme'" in error_of(codes[-1])["message"]

        shown = (await served.client.get("/admin/limits")).json()["data"]
        by_who = {row["who"]: row["limits"] for row in shown}
        assert by_who["tenant 'acme'"]["requests"] == {"limit": 4, "per_s": 60.0, "used": 4}
        assert by_who["route 'small'"]["requests"]["used"] == 2
        assert by_who["key 'test'"]["concurrent"] == {"limit": 50, "used": 0}


OVER_ONE: dict[str, Quota] = {
    "requests": Quota(requests=Rate(1, MINUTE)),
    "tokens": Quota(tokens=Rate(80, MINUTE)),
    "concurrent": Quota(concurrent=1),
    "day": Quota(day=60 * USD),
    "month": Quota(month=60 * USD),
}
"""Limits within which one request of 40 tokens is, and a second one is not."""


@pytest.mark.parametrize("limit", OVER_ONE)
@pytest.mark.parametrize("whose", ["tenant 'acme'", "route 'small'"])
async def test_each_limit_of_a_tenant_and_of_a_route_refuses_the_second_and_nobody_else(
    provider: StandIn, tmp_path: Path, whose: str, limit: str
) -> None:
    quota = OVER_ONE[limit]
    of_tenant = whose.startswith("tenant")
    small = route("small", "openai/mini", quota=Quota() if of_tenant else quota)
    declared = configured(
        provider,
        input=0.0,
        routes=[route("general", "openai/mini"), small],
        quotas=Quotas(tenants={"acme": quota} if of_tenant else {}),
    )
    async with serving(declared, tmp_path, key=True, tenant="acme") as served:
        keys = Keys(served.gateway.store)
        of = {name: keys.create(name, tenant=name.split()[0]).secret for name in ("acme b", "else")}
        await asyncio.to_thread(served.gateway.keyring.refresh)

        async def asked(name: str, model: str) -> httpx.Response:
            headers = {"authorization": f"Bearer {of[name]}"}
            messages = [{"role": "user", "content": "hello"}]
            body = {"model": model, "messages": messages, "max_tokens": 40}
            return await served.client.post("/v1/chat/completions", json=body, headers=headers)

        if limit == "concurrent":
            provider.next(Fault(kind=FaultKind.HANG_BEFORE_HEAD))
        first = asyncio.create_task(served.chat(model="small", max_tokens=40))
        await (provider.arrived() if limit == "concurrent" else first)
        # One limit for all of a tenant's keys, and for all tenants that come to a route.
        refused = error_of(await asked("acme b" if of_tenant else "else", "small"))
        others = await asked(*(("else", "small") if of_tenant else ("acme b", "general")))
        assert others.status_code == 200, others.text
        first.cancel()
    assert whose in refused["message"]
    kinds = {"day": "a day", "month": "a month", "concurrent": "at once"}
    assert kinds.get(limit, f"{limit} per") in refused["message"]


@pytest.mark.parametrize("rates", [True, False], ids=["beside rates", "alone"])
async def test_a_budgets_refusal_tells_what_is_left_of_rates_where_there_are_any(
    provider: StandIn, tmp_path: Path, rates: bool
) -> None:
    quota = Quota(day=60 * USD)
    if rates:
        quota = Quota(requests=Rate(9, MINUTE), tokens=Rate(1000, MINUTE)).over(quota)
    async with serving(configured(provider, input=0.0), tmp_path, key=True, quota=quota) as served:
        assert (await served.chat(max_tokens=40)).status_code == 200
        refused = await served.chat(max_tokens=40)
    assert error_of(refused)["code"] == "insufficient_quota"
    assert refused.headers["x-should-retry"] == "false"
    told = {name: text for name, text in refused.headers.items() if name.startswith("x-ratelimit-")}
    resets = {told.pop(f"x-ratelimit-reset-{what}", None) for what in ("requests", "tokens")}
    if not rates:
        assert (told, resets) == ({}, {None})
        return
    assert all(re.fullmatch(r"1m[0-2]s|[0-9]{2}s", str(each)) for each in resets)
    assert told.pop("x-ratelimit-remaining-tokens") in map(str, range(900, 960))
    assert told == {
        "x-ratelimit-limit-requests": "9",
        "x-ratelimit-remaining-requests": "8",
        "x-ratelimit-limit-tokens": "1000",
    }


async def test_openais_client_sees_a_rate_limit_error(provider: StandIn, tmp_path: Path) -> None:
    quota = Quota(requests=Rate(1, MINUTE))
    async with serving(configured(provider), tmp_path, key=True, quota=quota) as served:
        async with openai.AsyncOpenAI(
            base_url=served.url, api_key=served.key, max_retries=0
        ) as client:
            asked: Any = {"model": "auto", "messages": [{"role": "user", "content": "x"}]}
            raw = await client.chat.completions.with_raw_response.create(**asked)
            assert raw.headers["x-ratelimit-remaining-requests"] == "0"
            with pytest.raises(openai.RateLimitError) as caught:
                await client.chat.completions.create(**asked)
            assert caught.value.code == "rate_limit_exceeded"


async def test_without_limits_nothing_is_done(provider: StandIn, tmp_path: Path) -> None:
    async with serving(configured(provider), tmp_path, key=True) as served:
        answer = await served.chat()
        assert not [name for name in answer.headers if name.startswith("x-ratelimit")]
        assert not served.gateway.limiter.on
