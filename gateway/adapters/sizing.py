"""What a base model with adapters takes of a GPU, and the most tokens a second it can give. Pure.

Weights. Counted from `config.json` for models of the Llama family and its kin (grouped queries,
gated MLP, RMS norms). What quantization leaves in 16 bit: embeddings, output head, norms, biases.

    attention  hidden x heads x head + 2 x hidden x kv_heads x head + heads x head x hidden
    MLP        3 x hidden x intermediate
    layer      attention + MLP + 2 x hidden (+ biases, + 2 x head with norms of queries and keys)
    model      layers x layer + vocabulary x hidden x (1, or 2 without tied embeddings) + hidden

4-bit formats keep, for each group of 128 weights, a scale of 16 bit and a zero of 4 (AWQ, Lin et
al. 2024; GPTQ, Frantar et al. 2023), or for each block of 64 a scale of 8 bit and, for each 256
blocks, one of 32 (NF4 with double quantization, Dettmers et al. 2023).

KV cache (Kwon et al. 2023): 2 x layers x kv_heads x head x bytes for each token.

Adapters. vLLM sets `--max-loras` slots aside on the GPU, each of `--max-lora-rank` for every module
that may have one, whatever the adapters have, and takes `--max-cpu-loras` of them into memory of
the host (vLLM 0.32, `lora/layers/base_linear.py`): rank x (in + out) numbers a module.

Speed: a roofline (Williams, Waterman and Patterson 2009), an upper bound. One decoding step of a
batch of b reads all weights and the batch's KV cache once, and does 2 x parameters x b operations:

    step s = max((weights + b x context x KV a token + slots in use) / bandwidth, 2 P b / compute)
"""

import math
from typing import Literal

import msgspec

from gateway.adapters.check import RANKS, module_sizes
from gateway.adapters.files import BaseConfig

GIB = 2**30

Quantization = Literal["bf16", "fp16", "fp8", "awq", "gptq", "bnb4"]
BITS: dict[str, float] = {
    "bf16": 16.0,
    "fp16": 16.0,
    "fp8": 8.0,
    "awq": 4.0 + 20.0 / 128,
    "gptq": 4.0 + 20.0 / 128,
    "bnb4": 4.0 + 8.0 / 64 + 32.0 / (64 * 256),
}
"""Bits of one quantized weight, its share of scales and zeros included."""

UTILIZATION = 0.92
"""vLLM 0.32's `--gpu-memory-utilization`: the share of the card that it uses."""

BATCHED_TOKENS = 8192
"""Tokens of one prefill step: what activations are made for."""

RUNTIME_BYTES = 1.0 * GIB
"""CUDA's context, kernels and graphs: an estimate; vLLM measures it when it starts."""


class SizingError(ValueError):
    """A model whose size cannot be told from its config; the text says why."""


class Gpu(msgspec.Struct, frozen=True):
    """A card by its data sheet: bytes, bytes a second, and dense 16-bit operations a second."""

    name: str
    memory: float
    bandwidth: float
    compute: float


GPUS = {
    gpu.name.lower(): gpu
    for gpu in (
        Gpu("T4", 16e9, 320e9, 65e12),
        Gpu("L4", 24e9, 300e9, 121e12),
        Gpu("A10G", 24e9, 600e9, 70e12),
        Gpu("RTX3060-12GB", 12e9, 360e9, 51e12),
        Gpu("RTX4090", 24e9, 1008e9, 165e12),
        Gpu("L40S", 48e9, 864e9, 362e12),
        Gpu("A100-40GB", 40e9, 1555e9, 312e12),
        Gpu("A100-80GB", 80e9, 2039e9, 312e12),
        Gpu("H100", 80e9, 3350e9, 989e12),
        Gpu("H200", 141e9, 4800e9, 989e12),
    )
}
"""By name in lower case. From the vendors' data sheets, without sparsity."""


class Ask(msgspec.Struct, frozen=True):
    """What is to run: `context` in tokens, `concurrency` requests at once, of `adapters` so many of
    `rank`, `slots` on the GPU at once."""

    quantization: Quantization = "bf16"
    context: int = 8192
    concurrency: int = 16
    adapters: int = 0
    rank: int = 16
    slots: int = 0
    kv_bytes: int = 2
    gpus: int = 1


class Plan(msgspec.Struct, frozen=True):
    """Bytes of each part on one card, and what comes of them.

    `left` is what remains (below 0: what is missing); `tokens` how many fit into the KV cache.
    `decode` and `prefill` are tokens a second at best, of all cards together.
    """

    parameters: int
    usable: float
    weights: float
    activations: float
    runtime: float
    adapters: float
    kv: float
    left: float
    host: float
    adapter_bytes: float
    max_rank: int
    tokens: int
    most_requests: int
    most_slots: int
    decode: float
    prefill: float

    @property
    def fits(self) -> bool:
        """Whether all that was asked for fits."""
        return self.left >= 0.0


def parameters(base: BaseConfig) -> tuple[int, int]:
    """(of the matrices that quantization shrinks, of all else). Raises SizingError."""
    if base.moe_intermediate_size is not None or base.intermediate_size is None:
        raise SizingError("a mixture of experts is not counted; give --parameters and try the rest")
    if base.vocab_size is None:
        raise SizingError("its config says no vocab_size")
    sizes = module_sizes(base)
    matrices = 0
    for module in LINEAR:
        into, out = sizes[module]
        assert into is not None
        assert out is not None
        matrices += into * out
    head = base.head_dim or base.hidden_size // base.num_attention_heads
    keys = (base.num_key_value_heads or base.num_attention_heads) * head
    layer = 2 * base.hidden_size
    if base.attention_bias or base.model_type == "qwen2":
        layer += base.num_attention_heads * head + 2 * keys
    if base.model_type in ("qwen3", "gemma3_text"):
        layer += 2 * head
    outside = base.vocab_size * base.hidden_size * (1 if base.tie_word_embeddings else 2)
    layers = base.num_hidden_layers
    return layers * matrices, layers * layer + outside + base.hidden_size


LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The modules of a layer that are quantized, and may have adapters."""


def adapter_numbers(base: BaseConfig, rank: int) -> int:
    """Numbers of one slot, or of an adapter of that rank on every module."""
    sizes = module_sizes(base)
    a_layer = sum((into or 0) + (out or 0) for into, out in (sizes[name] for name in LINEAR))
    return rank * a_layer * base.num_hidden_layers


def kv_per_token(base: BaseConfig, bytes_each: int) -> int:
    """Bytes of one token's keys and values."""
    head = base.head_dim or base.hidden_size // base.num_attention_heads
    heads = base.num_key_value_heads or base.num_attention_heads
    return 2 * base.num_hidden_layers * heads * head * bytes_each


def plan(base: BaseConfig, gpu: Gpu, ask: Ask) -> Plan:
    """What comes of it. Raises SizingError for what cannot be told."""
    quantized, rest = parameters(base)
    rank = next((each for each in RANKS if each >= ask.rank), None)
    if rank is None:
        raise SizingError(f"vLLM takes ranks up to {RANKS[-1]}, not {ask.rank}")
    weights = quantized * BITS[ask.quantization] / 8 + rest * 2
    slots = ask.slots or ask.adapters
    # Tensor parallelism splits the weights and the KV cache; vLLM keeps A whole on each card, which
    # is left out here: it is counted as split too.
    slot = adapter_numbers(base, rank) * 2.0
    widest = max(base.intermediate_size or 0, base.hidden_size)
    # The widest intermediate of one step and the logits of every sequence, in 16 and 32 bit.
    activations = BATCHED_TOKENS * (2 * widest + 2 * base.hidden_size) * 2.0
    activations += ask.concurrency * (base.vocab_size or 0) * 4.0
    kv_token = kv_per_token(base, ask.kv_bytes)
    usable = gpu.memory * UTILIZATION
    fixed = weights / ask.gpus + slot * slots / ask.gpus + activations + RUNTIME_BYTES
    kv = ask.context * ask.concurrency * kv_token / ask.gpus
    room = max(0.0, usable - fixed)
    tokens = int(room * ask.gpus / kv_token)
    without = usable - (fixed - slot * slots / ask.gpus) - kv
    used = min(slots, ask.concurrency) * slot
    read = (weights + used + kv * ask.gpus) / ask.gpus / gpu.bandwidth
    work = 2.0 * (quantized + rest) / ask.gpus / gpu.compute
    return Plan(
        parameters=quantized + rest,
        usable=usable,
        weights=weights / ask.gpus,
        activations=activations,
        runtime=RUNTIME_BYTES,
        adapters=slot * slots / ask.gpus,
        kv=kv,
        left=usable - fixed - kv,
        host=slot * ask.adapters,
        adapter_bytes=adapter_numbers(base, ask.rank) * 2.0,
        max_rank=rank,
        tokens=tokens,
        most_requests=tokens // ask.context,
        most_slots=max(0, math.floor(without / (slot / ask.gpus))) if slot else 0,
        decode=ask.concurrency / max(read, work * ask.concurrency),
        prefill=1.0 / work,
    )
