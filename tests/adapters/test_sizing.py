"""Sizes of models whose sizes are known, and sums that must be so."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo import vllm_server
from gateway.adapters.files import BaseConfig, read_base, read_header
from gateway.adapters.sizing import GIB, GPUS, Ask, adapter_numbers, kv_per_token, parameters, plan

SHAPES: dict[str, tuple[int, dict[str, Any]]] = {
    "Llama-2-7B": (
        6_738_415_616,
        {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32,
         "num_hidden_layers": 32, "intermediate_size": 11008, "vocab_size": 32000},
    ),
    "Llama-3.1-8B": (
        8_030_261_248,
        {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32,
         "num_key_value_heads": 8, "num_hidden_layers": 32, "intermediate_size": 14336,
         "vocab_size": 128256},
    ),
    "Mistral-7B": (
        7_241_732_096,
        {"model_type": "mistral", "hidden_size": 4096, "num_attention_heads": 32,
         "num_key_value_heads": 8, "num_hidden_layers": 32, "intermediate_size": 14336,
         "vocab_size": 32000},
    ),
    "Qwen2.5-7B": (
        7_615_616_512,
        {"model_type": "qwen2", "hidden_size": 3584, "num_attention_heads": 28,
         "num_key_value_heads": 4, "num_hidden_layers": 28, "intermediate_size": 18944,
         "vocab_size": 152064},
    ),
    "Qwen3-8B": (
        8_190_735_360,
        {"model_type": "qwen3", "hidden_size": 4096, "num_attention_heads": 32, "head_dim": 128,
         "num_key_value_heads": 8, "num_hidden_layers": 36, "intermediate_size": 12288,
         "vocab_size": 151936},
    ),
    "Qwen2.5-0.5B": (
        494_032_768,
        {"model_type": "qwen2", "hidden_size": 896, "num_attention_heads": 14,
         "num_key_value_heads": 2, "num_hidden_layers": 24, "intermediate_size": 4864,
         "vocab_size": 151936, "tie_word_embeddings": True},
    ),
}  # fmt: skip
"""Published numbers of parameters, with the shapes that lead to them."""


def base(name: str) -> BaseConfig:
    return msgspec.convert(SHAPES[name][1], BaseConfig)


@pytest.mark.parametrize("name", SHAPES)
def test_a_known_models_parameters_are_as_published(name: str) -> None:
    assert sum(parameters(base(name))) == SHAPES[name][0]


def test_the_demos_base_is_exactly_its_file() -> None:
    tensors, _ = read_header(vllm_server.BASE / "model.safetensors")
    stored = 0
    for tensor in tensors.values():
        count = 1
        for length in tensor.shape:
            count *= length
        stored += count
    assert sum(parameters(read_base(vllm_server.BASE))) == stored


def test_the_demos_adapters_are_exactly_their_files() -> None:
    tensors, _ = read_header(vllm_server.ADAPTERS / "support" / "adapter_model.safetensors")
    stored = sum(tensor.shape[0] * tensor.shape[1] for tensor in tensors.values())
    assert adapter_numbers(read_base(vllm_server.BASE), 8) == stored


def test_a_token_of_llama_3_takes_128_kib() -> None:
    assert kv_per_token(base("Llama-3.1-8B"), 2) == 128 * 1024


def test_a_4_bit_7b_with_50_adapters_fits_a_card_of_12_gb() -> None:
    ask = Ask("awq", context=4096, concurrency=4, adapters=50, rank=16, slots=8)
    for name in ("Qwen2.5-7B", "Llama-2-7B"):
        found = plan(base(name), GPUS["rtx3060-12gb"], msgspec.structs.replace(ask, concurrency=2))
        assert found.fits, (name, found)
    assert not plan(base("Llama-2-7B"), GPUS["rtx3060-12gb"], Ask("bf16", 4096, 2)).fits


asks = st.builds(
    Ask,
    quantization=st.sampled_from(["bf16", "fp16", "fp8", "awq", "gptq", "bnb4"]),
    context=st.integers(128, 32768),
    concurrency=st.integers(1, 64),
    adapters=st.integers(0, 100),
    rank=st.integers(1, 128),
    slots=st.integers(0, 16),
)
names = st.sampled_from(sorted(SHAPES))


@given(name=names, ask=asks, card=st.sampled_from(sorted(GPUS)))
def test_the_parts_are_the_whole(name: str, ask: Ask, card: str) -> None:
    found = plan(base(name), GPUS[card], ask)
    parts = found.weights + found.activations + found.runtime + found.adapters + found.kv
    assert parts + found.left == pytest.approx(found.usable)
    assert found.fits == (parts <= found.usable)
    if found.fits:
        assert found.most_requests >= ask.concurrency


@given(name=names, ask=asks, more=st.integers(1, 20))
def test_more_of_anything_leaves_less(name: str, ask: Ask, more: int) -> None:
    card = GPUS["h100"]
    left = plan(base(name), card, ask).left
    for changes in (
        {"context": ask.context + 128 * more},
        {"concurrency": ask.concurrency + more},
        {"slots": (ask.slots or ask.adapters) + more},
    ):
        assert plan(base(name), card, msgspec.structs.replace(ask, **changes)).left < left


def test_a_card_cannot_give_more_than_its_bandwidth() -> None:
    found = plan(base("Llama-3.1-8B"), GPUS["h100"], Ask("bf16", 1024, 1))
    assert found.decode <= GPUS["h100"].bandwidth / (16e9 - 1e9)


def test_it_is_shown_as_a_table_and_as_json(tmp_path: Path) -> None:
    from tests.cli.running import switchboard

    config = tmp_path / "config.json"
    config.write_text(json.dumps(SHAPES["Qwen2.5-7B"][1]))
    asked = "--gpu RTX3060-12GB --quantization awq --adapters 50 --slots 8 --context 4096"
    words = ["plan", "--base", str(config), *asked.split(), "--concurrency", "4"]
    ran = switchboard(*words, "--hour", "0.2")
    assert ran.code == 0, ran.out
    assert "It fits." in ran.out
    assert "8 slots of rank 16" in ran.out
    assert "peak_tokens_per_second: " in ran.out
    told = json.loads(switchboard(*words, "--json").out)["plan"]
    assert told["parameters"] == SHAPES["Qwen2.5-7B"][0]
    assert told["weights"] / GIB == pytest.approx(5.5, abs=0.6)


def test_what_does_not_fit_ends_with_1_and_says_what_would(tmp_path: Path) -> None:
    from tests.cli.running import switchboard

    config = tmp_path / "config.json"
    config.write_text(json.dumps(SHAPES["Llama-3.1-8B"][1]))
    ran = switchboard("plan", "--base", str(config), "--gpu", "T4")
    assert ran.code == 1
    assert "It does not fit" in ran.out
    assert switchboard("plan", "--base", str(config), "--gpu", "TPU").code == 2
    assert switchboard("plan", "--base", str(tmp_path / "nothing")).code == 2
