"""The bill of our own tokens: it comes to what the hours cost, to the last micro-dollar."""

import asyncio
import itertools
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.metering.hosting import (
    HOUR_S,
    IDLE,
    OTHERS,
    PRIOR,
    Counters,
    HostingMeter,
    Hour,
    Idle,
    Used,
    bill,
    looked,
    shared_out,
    summed,
    weights,
)
from gateway.standin.engine import Vllm
from gateway.standin.standin import StandIn
from gateway.store.hosting import HostingBook, Terms
from gateway.store.store import Store
from tests.cli.running import switchboard
from tests.gateway.support import route, serving, snapshot, target

# Counters of a real vLLM 0.32, looked at every 2 s while it answered 60 chats, six at once, and
# then rested: running requests; prompt, cached and generated tokens.
RECORDED = [
    (0, 0, 0, 0),
    (6, 949, 0, 891),
    (6, 1418, 0, 1875),
    (6, 1892, 0, 2787),
    (6, 2843, 0, 3831),
    (6, 3319, 0, 4989),
    (6, 4263, 0, 5937),
    (6, 4743, 0, 6903),
    (0, 4743, 0, 7200),
    (0, 4743, 0, 7200),
    (0, 4743, 0, 7200),
    (0, 4743, 0, 7200),
]


def recorded() -> Hour:
    hour = Hour("local", "http://a", 0.0)
    looks = [
        Counters(1.0, running, float(prompt), float(cached), float(generated))
        for running, prompt, cached, generated in RECORDED
    ]
    for before, after in itertools.pairwise(looks):
        hour = looked(hour, before, after, 2.0)
    return hour


def billed(used: list[Used], idle: Idle) -> dict[str, int]:
    lines = bill(recorded(), used, replica_hour=2.2, idle=idle)
    return {line.group: line.micro_usd for line in lines}


def test_an_hour_is_what_the_engine_counted() -> None:
    hour = recorded()
    assert (hour.up_s, hour.busy_s) == (22.0, 16.0)
    assert (hour.prompt, hour.cached, hour.generated) == (4743, 0, 7200)


def test_the_lines_of_recorded_counters_are_what_the_time_cost() -> None:
    used = [Used("local/tiny+support", 2400, 0, 3600), Used("local/tiny", 1000, 0, 1800)]
    lines, shared = billed(used, "ours"), billed(used, "shared")
    whole = round(2.2 * 22 / 3600 * 1e6)
    assert sum(lines.values()) == sum(shared.values()) == whole
    assert set(lines) == {"local/tiny+support", "local/tiny", OTHERS, IDLE}
    assert lines[IDLE] == pytest.approx(whole * 6 / 22, abs=1)
    assert IDLE not in shared
    assert shared["local/tiny"] / shared["local/tiny+support"] == pytest.approx(
        lines["local/tiny"] / lines["local/tiny+support"], rel=0.01
    )


amounts = st.floats(0.0, 1e7)
useds = st.lists(
    st.builds(Used, st.sampled_from("abcdef"), amounts, st.just(0.0), amounts),
    max_size=6,
    unique_by=lambda used: used.group,
)


@given(
    hour=st.builds(
        Hour,
        st.just("local"),
        st.just("http://a"),
        st.just(0.0),
        up_s=st.floats(0.0, 3600.0),
        busy_s=st.floats(0.0, 3600.0),
        prompt=amounts,
        cached=amounts,
        generated=amounts,
    ),
    used=useds,
    price=st.floats(0.0, 100.0),
    idle=st.sampled_from(["ours", "shared"]),
)
def test_whatever_was_counted_the_lines_are_the_whole(
    hour: Hour, used: list[Used], price: float, idle: str
) -> None:
    lines = bill(hour, used, replica_hour=price, idle=idle)  # type: ignore[arg-type]
    assert sum(line.micro_usd for line in lines) == round(price * hour.up_s / HOUR_S * 1e6)
    assert all(line.micro_usd > 0 for line in lines)


@given(
    whole=st.integers(0, 10**12),
    shares=st.dictionaries(st.text(max_size=3), st.floats(1e-6, 1e6), min_size=1, max_size=9),
)
def test_what_is_shared_out_is_all_of_it(whole: int, shares: dict[str, float]) -> None:
    parts = shared_out(whole, shares)
    assert sum(parts.values()) == whole
    total = sum(shares.values())
    assert all(abs(parts[g] - whole * s / total) <= 1 + 1e-6 * whole for g, s in shares.items())


def test_a_restart_loses_no_token_and_counts_none_twice() -> None:
    hour = Hour("local", "http://a", 0.0)
    hour = looked(hour, Counters(1, 0, 900, 0, 90), Counters(1, 0, 1000, 0, 100), 2.0)
    hour = looked(hour, Counters(1, 0, 1000, 0, 100), Counters(9, 0, 40, 0, 4), 2.0)
    assert (hour.prompt, hour.generated) == (140, 14)


def test_a_time_in_which_nobody_looked_is_not_billed() -> None:
    hour = Hour("local", "http://a", 0.0)
    away = looked(hour, Counters(1, 0, 0, 0, 0), Counters(1, 0, 5000, 0, 0), 600.0)
    assert away == hour


def test_the_weights_are_found_from_what_took_time() -> None:
    """Work of known cost: 1 ms an input token, 0.2 ms a cached one, 6 ms an output token."""
    import random

    draw, hour = random.Random(7), Hour("local", "http://a", 0.0)
    prompt = cached = generated = 0.0
    before = Counters(1, 1, 0, 0, 0)
    for _ in range(400):
        new, hit, out = draw.uniform(0, 900), draw.uniform(0, 900), draw.uniform(0, 200)
        prompt, cached, generated = prompt + new + hit, cached + hit, generated + out
        after = Counters(1, 1, prompt, cached, generated)
        busy = 0.001 * new + 0.0002 * hit + 0.006 * out
        hour = looked(hour, before, after, busy)
        before = after
    found = weights([hour])
    assert found[0] == 1.0
    assert found[1] == pytest.approx(0.2, abs=0.1)
    assert found[2] == pytest.approx(6.0, rel=0.25)


def test_before_anything_was_seen_the_weights_are_what_is_usual() -> None:
    assert weights([]) == weights([Hour("local", "http://a", 0.0)]) == PRIOR


def test_a_gateway_goes_on_from_what_was_kept(tmp_path: Path) -> None:
    book = HostingBook(Store.open(f"sqlite:///{tmp_path}/h.db"))
    first = HostingMeter()
    for n in range(5):
        first.saw("local", "http://a", Counters(1, 1, 100.0 * n, 0, 10.0 * n), 7200.0 + 2 * n)
    book.save(first.unsaved(7210.0))
    again = HostingMeter()
    again.known(book.hours(7210.0))
    for n in range(5, 8):
        again.saw("local", "http://a", Counters(1, 1, 100.0 * n, 0, 10.0 * n), 7200.0 + 2 * n)
    book.save(again.unsaved(7220.0))
    (hour,) = book.hours(7200.0)
    # The look between the two gateways is nobody's.
    assert (hour.up_s, hour.prompt) == (12.0, 600.0)


def test_of_two_accounts_of_an_hour_the_longer_is_kept(tmp_path: Path) -> None:
    book = HostingBook(Store.open(f"sqlite:///{tmp_path}/h.db"))
    book.save([Hour("local", "http://a", 3600.0, up_s=900.0)])
    book.save([Hour("local", "http://a", 3600.0, up_s=300.0)])
    assert [hour.up_s for hour in book.hours(3600.0)] == [900.0]


async def test_adapters_and_keys_are_billed_from_a_running_gateway(tmp_path: Path) -> None:
    async with StandIn(vllm=Vllm()) as vllm:
        base = target("local/qwen", vllm.origin, internal=True, served="base")
        plain = snapshot([base], [route("general", "local/qwen", internal=True)])
        async with serving(plain, tmp_path) as served:
            await vllm.arrived(1, path="/metrics")
            await served.chat()
            # What the second told has been read by the time that the third is asked for.
            await vllm.arrived(3, path="/metrics")
            store = served.gateway.store
            await asyncio.to_thread(served.gateway.writer.flush)
            await served.gateway.hours.keep()
            bills = HostingBook(store).bills(0.0, "adapter", {"local": Terms(3600.0)})
    total = summed(bills)
    assert "local/qwen" in total
    assert sum(total.values()) == sum(line.micro_usd for lines in bills for line in lines) > 0


def test_the_bill_is_shown_below_the_usage(tmp_path: Path) -> None:
    from tests.config.trees import write
    from tests.store.world import keep, record, url

    home = write(tmp_path)
    store = Store.open(url(home))
    keep(store, record(1))
    row = record(1)
    hour = Hour("local", row.attempts[0].replica, row.started - row.started % HOUR_S, up_s=3600.0)
    busy = msgspec.structs.replace(hour, busy_s=1800.0, prompt=1000.0, generated=100.0)
    HostingBook(store).save([busy])
    store.close()
    ran = switchboard("usage", "--by", "adapter", "--since", "2000-01-01", home=home)
    assert ran.code == 0, ran.err
    assert "what our own servers' hours cost" in ran.out
    assert ran.out.splitlines()[-2].split() == ["in", "all", "2.200000", "100.0%"]
