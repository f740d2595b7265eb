"""A request that has ended is gone at once, however it ended: nothing of it waits for the collector
of cycles, which looks seldom, and a request may hold megabytes."""

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from gateway.http.cycle import Cycle
from gateway.journey import Journey, Opened
from gateway.resilience.base import Ask, AttemptFailed
from gateway.standin.behaviour import Fault, FaultKind
from gateway.standin.standin import StandIn
from gateway.transport.lean import LeanReply
from tests.gateway.support import Served

OURS = (Journey, Ask, AttemptFailed, Cycle, LeanReply, Opened)


async def answered(served: Served, provider: StandIn) -> None:
    assert (await served.chat()).status_code == 200


async def streamed(served: Served, provider: StandIn) -> None:
    assert (await served.chat(stream=True)).status_code == 200


async def failed(served: Served, provider: StandIn) -> None:
    provider.fault = Fault(kind=FaultKind.STATUS, status=500)
    assert (await served.chat()).status_code in (502, 503)


async def cut(served: Served, provider: StandIn) -> None:
    provider.next(Fault(kind=FaultKind.CUT, after=1))
    assert b"stream_truncated" in (await served.chat(stream=True)).content


async def given_up(served: Served, provider: StandIn) -> None:
    body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    provider.next(Fault(kind=FaultKind.HANG, after=1))
    async with served.client.stream("POST", "/v1/chat/completions", json=body) as answer:
        async for _ in answer.aiter_bytes():
            break
    async with asyncio.timeout(10):
        while provider.running:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("ask", [answered, streamed, failed, cut, given_up])
async def test_nothing_of_a_request_is_left(
    served: Served, provider: StandIn, ask: Callable[[Served, StandIn], Awaitable[None]]
) -> None:
    await ask(served, provider)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            await ask(served, provider)
        left = Counter(type(each) for each in gc.get_objects())
    finally:
        gc.enable()
    # The last one may still be looked at.
    assert {kind.__name__: left[kind] for kind in OURS if left[kind] > 1} == {}
