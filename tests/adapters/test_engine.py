"""What a vLLM engine tells of itself."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.adapters.engine import Engine, read
from gateway.standin.engine import Vllm
from gateway.standin.standin import StandIn

PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="base"} 3.0
vllm:num_requests_waiting{engine="0",model_name="base"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="base",reason="capacity"} 2.0
vllm:kv_cache_usage_perc{engine="0",model_name="base"} 0.25
vllm:engine_sleep_state{engine="0",model_name="base",sleep_state="awake"} 1.0
vllm:engine_sleep_state{engine="0",model_name="base",sleep_state="weights_offloaded"} 0.0
vllm:prompt_tokens_total{engine="0",model_name="base"} 1200.0
vllm:prompt_tokens_created{engine="0",model_name="base"} 1.7e+09
vllm:prefix_cache_hits_total{engine="0",model_name="base"} 640.0
vllm:generation_tokens_total{engine="0",model_name="base"} 88.0
vllm:lora_requests_info{max_lora="4",running_lora_adapters="support@1",waiting_lora_adapters=""} 1.7
vllm:lora_requests_info{max_lora="4",running_lora_adapters="",waiting_lora_adapters=""} 1.8
process_start_time_seconds 1.75e+09
"""


def test_a_page_is_read() -> None:
    assert read(PAGE) == Engine(
        started=1.75e9,
        running=3,
        waiting=2,
        kv_cache=0.25,
        slots=4,
        asleep=False,
        prompt_tokens=1200.0,
        cached_tokens=640.0,
        generation_tokens=88.0,
    )


def test_several_engines_behind_one_page_are_summed() -> None:
    second = PAGE.replace('engine="0"', 'engine="1"')
    both = read(PAGE + second)
    assert (both.running, both.prompt_tokens, both.kv_cache) == (6, 2400.0, 0.25)


def test_one_that_sleeps_is_said_to() -> None:
    asleep = PAGE.replace('"awake"} 1.0', '"awake"} 0.0').replace(
        'offloaded"} 0.0', 'offloaded"} 1.0'
    )
    assert read(asleep).asleep


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "1e999", "1e308"])
def test_what_is_no_number_to_count_with_tells_nothing(value: str) -> None:
    nonsense = re.sub(r"[^ ]+$", value, PAGE, flags=re.MULTILINE)
    assert read(nonsense) == Engine()


@given(st.text())
def test_another_page_tells_nothing(page: str) -> None:
    assert isinstance(read(page), Engine)


async def test_the_stand_in_is_read_as_vllm_is() -> None:
    async with StandIn(vllm=Vllm(max_loras=7)) as vllm:
        assert vllm.engine is not None
        engine = read(vllm.engine.metrics(running=2, waiting=1))
    assert (engine.running, engine.waiting, engine.slots) == (2, 1, 7)
    assert engine.started > 0.0
