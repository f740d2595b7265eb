"""Traffic that falls to a tenth and comes back: our own servers do not price themselves away."""

from random import Random

import msgspec
import pytest

from gateway.policy.decide import decide
from gateway.policy.live import Live
from gateway.types.backends import Price, Target
from gateway.types.records import Usage
from gateway.types.snapshot import Snapshot

from .world import ROUTE, policy, question, route, snapshot, target

HOUR = 2.2
PEAK = 2000.0
FULL = HOUR / 3600 / PEAK
"""Dollars a token of our own server at full batch."""

MINI = target("openai/mini", input_price=2e-6, output_price=2e-6, first_token_s=0.4)
INPUT, OUTPUT = 400, 100


def own(price: float) -> Target:
    plain = target("local/qwen", internal=True, first_token_s=0.3)
    return msgspec.structs.replace(plain, price=Price(price, price, price))


def world(price: float) -> Snapshot:
    return snapshot(
        [route([("local/qwen", 0.9), ("openai/mini", 0.9)])], [own(price), MINI], policy()
    )


def shares(*, on_the_average: bool) -> list[float]:
    """Our own server's share in each of twelve hours: four at full traffic, four at a tenth, four
    at full traffic again. Prices by the average are those that the hour before came to."""
    random, live = Random(3), Live()
    full = 0.5 * PEAK * 3600 / (INPUT + OUTPUT)
    price, found, now = FULL, [], 0.0
    asked = msgspec.structs.replace(
        question(), needs=msgspec.structs.replace(question().needs, input_tokens=INPUT)
    )
    for hour in range(12):
        traffic = full * (0.1 if 4 <= hour < 8 else 1.0)
        sample, ours = 60, 0
        for _ in range(sample):
            now += 3600 / sample
            live.advance(now)
            choice = decide(asked, world(price), live, random.random()).ranked[0]
            ours += choice.target == "local/qwen"
            chosen = own(price) if choice.target == "local/qwen" else MINI
            flight = live.started(chosen, choice.replica, ROUTE, now)
            live.finished(flight, now + 1.0, Usage(input=INPUT, output=OUTPUT))
        found.append(ours / sample)
        if on_the_average:
            tokens = traffic * found[-1] * (INPUT + OUTPUT)
            price = HOUR / max(tokens, 1.0)
    return found


def test_at_the_price_of_a_full_batch_traffic_that_falls_changes_nothing() -> None:
    assert shares(on_the_average=False) == [1.0] * 12


def test_at_the_average_price_it_would_spiral_and_never_come_back() -> None:
    found = shares(on_the_average=True)
    assert found[:4] == [1.0] * 4
    assert found[-1] == pytest.approx(0.0)
