"""Two gateways before the same backends, with one Redis: what one learns, the other knows."""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from gateway.standin.behaviour import Behaviour, Fault, FaultKind
from gateway.standin.engine import Vllm
from gateway.standin.standin import StandIn
from gateway.types.snapshot import Server
from tests.gateway.support import serving, snapshot, target, with_adapters
from tests.servers import RealServer


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not holds():  # noqa: ASYNC110 - another gateway's state has no event here
            await asyncio.sleep(0.01)


async def test_a_breaker_that_opens_at_one_is_open_at_the_other(
    tmp_path: Path, redis_server: RealServer
) -> None:
    broken = Behaviour(fault=Fault(kind=FaultKind.STATUS, status=500))
    server = Server(coordinator=redis_server.url, coordinator_name="breakers")
    async with StandIn(broken) as provider:
        configuration = snapshot([target("openai/mini", provider.url)], server=server)
        async with (
            serving(configuration, tmp_path) as one,
            serving(configuration, tmp_path) as two,
        ):
            await two.chat()  # it has an estimate of the target, and one failure is not enough
            assert two.gateway.resilience.breakers.shown(time.perf_counter()) == []
            async with asyncio.timeout(30):
                while not two.gateway.resilience.breakers.shown(time.perf_counter()):
                    await one.chat()
            (shown,) = two.gateway.resilience.breakers.shown(time.perf_counter())
    assert shown["target"] == "openai/mini"


async def test_an_adapter_is_loaded_once_and_a_promotion_holds_at_both(
    tmp_path: Path, redis_server: RealServer
) -> None:
    server = Server(coordinator=redis_server.url, coordinator_name="adapters")
    async with StandIn(vllm=Vllm()) as vllm:
        url = vllm.url.removesuffix("/v1")
        base = target("local/qwen", url, internal=True, served="base")
        plain = snapshot([base], server=server)
        configuration = with_adapters(plain, tmp_path, legal=["v1", "v2"])
        async with (
            serving(configuration, tmp_path) as one,
            serving(configuration, tmp_path) as two,
        ):
            gateways = (one.gateway, two.gateway)
            for gateway in gateways:
                await gateway.adapters_present()

            def serves(version: str) -> bool:
                return all(
                    each.fleet.shown("local/qwen+legal")["live"] == version
                    and each.fleet.shown("local/qwen+legal")["replicas"][url]["loaded"]
                    for each in gateways
                )

            await until(lambda: serves("v1"))
            loads = [each for each in vllm.seen if each.path.endswith("load_lora_adapter")]
            assert len(loads) == len({bytes(each.body) for each in loads})  # none twice
            assert sum(gateway.leads() for gateway in gateways) == 1
            await asyncio.gather(
                *(each.fleet.promote("local/qwen+legal", "v2", "me") for each in gateways)
            )
            await until(lambda: serves("v2"))
            answers = [await each.chat(model="local/qwen+legal") for each in (one, two)]
    assert {answer.status_code for answer in answers} == {200}
