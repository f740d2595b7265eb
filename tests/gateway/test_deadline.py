"""One budget of time for the whole answer, and as many tries as a policy allows."""

import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.standin.behaviour import Behaviour
from gateway.standin.standin import StandIn
from gateway.types.backends import Timeouts
from gateway.types.policies import Policy
from gateway.types.snapshot import Snapshot
from tests.backends.test_vllm_server import free_port
from tests.gateway.files import GATEWAY, ROUTE, write
from tests.gateway.support import (
    Served,
    events_of,
    route,
    serving,
    serving_home,
    snapshot,
    target,
)

HANGS = Behaviour(first_token_s=30.0)


def candidates(*urls: str, first_byte: float = 0.3, **policy: Any) -> Snapshot:
    """Targets of several providers, the better the earlier, under one policy; the first of them
    has `first_byte` seconds to begin."""
    targets = [target(f"p{n}/model", url) for n, url in enumerate(urls)]
    made = snapshot(
        targets,
        [route("general", *(each.name for each in targets))],
        policies={"quality": Policy("quality", **policy)},
    )
    quick = Timeouts(connect=5, first_byte=first_byte, between=5, total=20)
    backends = {
        name: msgspec.structs.replace(each, timeouts=quick) if name == "p0" else each
        for name, each in made.backends.items()
    }
    return msgspec.structs.replace(made, backends=backends)


async def asked(served: Served, timeout: str | None = None, **more: Any) -> httpx.Response:
    headers = {} if timeout is None else {"x-request-timeout": timeout}
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], **more}
    return await served.client.post("/v1/chat/completions", json=body, headers=headers)


@pytest.mark.parametrize("written", ["soon", "0", "-1", "3 weeks"])
async def test_a_time_that_is_none_is_refused_with_the_headers_name(
    written: str, tmp_path: Path
) -> None:
    async with StandIn() as provider, serving(candidates(provider.url), tmp_path) as served:
        answer = await asked(served, written)
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "x-request-timeout"
        assert not provider.seen


@pytest.mark.parametrize("written", ["20", "20 s", "20000ms"])
async def test_a_time_that_is_enough_changes_nothing(written: str, tmp_path: Path) -> None:
    async with StandIn() as provider, serving(candidates(provider.url), tmp_path) as served:
        assert (await asked(served, written)).status_code == 200


async def test_when_the_clients_time_is_over_it_is_told_and_the_backend_is_not_blamed(
    tmp_path: Path,
) -> None:
    async with StandIn(HANGS) as first, StandIn(HANGS) as second:
        made = candidates(first.url, second.url)
        async with serving(made, tmp_path) as served:
            answer = await asked(served, "200 ms")
            assert answer.status_code == 504
            assert "total timeout after 0.2 s" in answer.json()["error"]["message"]
            estimate = served.gateway.live.estimate(made.targets["p0/model"], first.url)
            assert estimate.failures.lost_s == 0.0
    assert not second.seen


async def test_the_policys_time_is_one_budget_for_all_tries(tmp_path: Path) -> None:
    """The first backend takes 0.3 s of the second that there is; the second gets the rest."""
    async with StandIn(HANGS) as first, StandIn(HANGS) as second:
        made = candidates(first.url, second.url, total_s=1.0)
        async with serving(made, tmp_path) as served:
            answer = await asked(served)
            assert answer.status_code == 504
            message = answer.json()["error"]["message"]
    assert "p0/model: " in message
    assert "first byte timeout after 0.3 s" in message
    assert "p1/model: total timeout after 1 s" in message


@pytest.mark.parametrize(("header", "total_s", "less"), [("0.3 s", 5.0, 0.3), ("5 s", 0.4, 0.4)])
@pytest.mark.parametrize(("first_byte", "asks_second"), [(5.0, False), (0.05, True)])
async def test_the_clients_time_and_the_policys_are_one_budget_the_less_of_both(
    header: str,
    total_s: float,
    less: float,
    first_byte: float,
    asks_second: bool,
    tmp_path: Path,
) -> None:
    """Whether the first backend takes all of it, or leaves a second one the rest."""
    async with StandIn(HANGS) as first, StandIn(HANGS) as second:
        made = candidates(first.url, second.url, first_byte=first_byte, total_s=total_s)
        async with serving(made, tmp_path) as served:
            began = time.monotonic()
            answer = await asked(served, header)
            took = time.monotonic() - began
            assert answer.status_code == 504
            last = "p1/model" if asks_second else "p0/model"
            message = answer.json()["error"]["message"]
            assert message.endswith(f"{last}: total timeout after {less} s")
    # A timer may fire some milliseconds early; and a busy machine takes long for all else.
    assert less - 0.01 < took < 2.5
    assert (len(first.seen), len(second.seen)) == (1, int(asks_second))


async def test_a_policy_may_allow_more_tries(tmp_path: Path) -> None:
    gone = f"http://127.0.0.1:{free_port()}/v1"
    also = f"http://127.0.0.1:{free_port()}/v1"
    async with StandIn() as third:
        async with serving(candidates(gone, also, third.url, tries=3), tmp_path) as served:
            answer = await asked(served)
            assert answer.headers["x-switchboard-target"] == "p2/model"
        (tmp_path / "two").mkdir()
        async with serving(candidates(gone, also, third.url), tmp_path / "two") as served:
            assert (await asked(served)).status_code == 502


async def test_a_stream_that_takes_longer_breaks_off_with_an_error_event(tmp_path: Path) -> None:
    slow = Behaviour(between_tokens_s=0.1, output_tokens=100)
    async with StandIn(slow) as provider, serving(candidates(provider.url), tmp_path) as served:
        answer = await asked(served, "0.5", stream=True)
        assert answer.status_code == 200
        events = events_of(answer.content)
        assert events[-1]["error"]["code"] == "stream_truncated"
        row = await served.decision(answer)
        assert row["outcome"] == "truncated"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_streams_first_token_has_a_time_of_its_own_and_a_whole_answer_none(
    stream: bool, tmp_path: Path
) -> None:
    async with StandIn(Behaviour(first_token_s=1.5)) as first, StandIn() as second:
        _, _, of_second = GATEWAY.format(url=second.url).partition("backends:\n")
        write(tmp_path, first.url, of_second.replace("openai:", "second:", 1))
        best = "{target: openai/mini, quality: 0.9}"
        both = ROUTE.format(name="general").replace(
            best, f"{best}, {{target: second/mini, quality: 0.8}}"
        )
        (tmp_path / "routes/general.yaml").write_text(both)
        (tmp_path / "policies/balanced.yaml").write_text(
            "name: balanced\non_failure: {first_token: 500 ms}\n"
        )
        async with serving_home(tmp_path) as served:
            answer = await asked(served, stream=stream)
            row = await served.decision(answer)
            attempts = [
                (each["target"], each["outcome"], each["error"]) for each in row["attempts"]
            ]
            assert answer.headers["x-switchboard-target"] == attempts[-1][0]
            if stream:
                late = "first token timeout after 0.5 s"
                assert attempts == [("openai/mini", "error", late), ("second/mini", "ok", "")]
                await (await first.arrived()).aborted.wait()
            else:
                assert attempts == [("openai/mini", "ok", "")]


async def test_a_replica_that_takes_no_connection_is_known_for_all_its_targets(
    tmp_path: Path,
) -> None:
    gone = f"http://127.0.0.1:{free_port()}/v1"
    async with StandIn() as other, serving(candidates(gone, other.url), tmp_path) as served:
        assert (await asked(served)).headers["x-switchboard-target"] == "p1/model"
        assert served.gateway.live.server(gone).lost_s > 0.0
