"""Small LoRA adapters as PEFT writes them, well made or with whatever is asked for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

HIDDEN, HEADS, KV_HEADS, HEAD, INNER, LAYERS, VOCABULARY = 32, 4, 2, 8, 64, 2, 96

BASE: Mapping[str, Any] = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCABULARY,
}

SIZES = {
    "q_proj": (HIDDEN, HEADS * HEAD),
    "k_proj": (HIDDEN, KV_HEADS * HEAD),
    "v_proj": (HIDDEN, KV_HEADS * HEAD),
    "o_proj": (HEADS * HEAD, HIDDEN),
    "gate_proj": (HIDDEN, INNER),
    "up_proj": (HIDDEN, INNER),
    "down_proj": (INNER, HIDDEN),
}
"""(in, out) features."""

Tensors = dict[str, npt.NDArray[Any]]


def path_of(layer: int, module: str) -> str:
    """A module's name in the base."""
    block = "mlp" if module in ("gate_proj", "up_proj", "down_proj") else "self_attn"
    return f"model.layers.{layer}.{block}.{module}"


def tensors(
    modules: Sequence[str] = ("q_proj", "v_proj"),
    rank: int = 4,
    *,
    layers: Sequence[int] = range(LAYERS),
    seed: int = 0,
    dtype: str = "float32",
) -> Tensors:
    """Random pairs."""
    draw = np.random.default_rng(seed)
    made: Tensors = {}
    for layer in layers:
        for module in modules:
            into, out = SIZES[module]
            name = f"base_model.model.{path_of(layer, module)}"
            made[f"{name}.lora_A.weight"] = draw.normal(size=(rank, into)).astype(dtype)
            made[f"{name}.lora_B.weight"] = draw.normal(size=(out, rank)).astype(dtype)
    return made


def config(modules: Sequence[str] = ("q_proj", "v_proj"), rank: int = 4, **more: Any) -> Any:
    """What PEFT writes beside them."""
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": "base",
        "r": rank,
        "lora_alpha": 2 * rank,
        "target_modules": list(modules),
        "bias": "none",
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
        **more,
    }


def write(folder: Path, made: Tensors | None = None, said: Any = None) -> Path:
    """An adapter's directory."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors() if made is None else made, folder / "adapter_model.safetensors")
    text = json.dumps(config() if said is None else said)
    (folder / "adapter_config.json").write_text(text)
    return folder


def write_base(folder: Path, **more: Any) -> Path:
    """The base's config.json; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps({**BASE, **more}))
    return path
