"""A request that was answered is gone at once: nothing of it waits for the collector of cycles."""

import gc
from collections import Counter

import pytest

from gateway.http.cycle import Cycle
from gateway.journey import Journey
from gateway.resilience.base import Ask
from tests.gateway.support import Served


@pytest.mark.parametrize("stream", [False, True])
async def test_nothing_of_a_request_is_left(served: Served, stream: bool) -> None:
    await served.chat(stream=stream)
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            answer = await served.chat(stream=stream)
            assert answer.status_code == 200
        left = Counter(type(each) for each in gc.get_objects())
    finally:
        gc.enable()
    # The last one may still be looked at.
    assert max(left[Journey], left[Ask], left[Cycle]) <= 1
