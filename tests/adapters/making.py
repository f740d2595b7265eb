"""Adapters for tests: as peft writes them, small, and different where a test says so."""

import hashlib
import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from gateway.adapters.manifest import File, manifest_of

LONG_AGO = 1_000_000_000.0
"""Unix seconds; files of this age have settled."""


def weights(seed: int = 0, rank: int = 2) -> bytes:
    """A LoRA's weights as safetensors."""
    draw = np.random.default_rng(seed)
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    return save(
        {
            f"{name}.lora_A.weight": draw.standard_normal((rank, 8)).astype(np.float32),
            f"{name}.lora_B.weight": draw.standard_normal((8, rank)).astype(np.float32),
        }
    )


def files(seed: int = 0) -> dict[str, bytes]:
    """The files of an adapter by name."""
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    return {
        "adapter_config.json": json.dumps(config).encode(),
        "adapter_model.safetensors": weights(seed),
    }


def adapter(directory: Path, seed: int = 0) -> Path:
    """An adapter's directory."""
    directory.mkdir(parents=True)
    for name, content in files(seed).items():
        (directory / name).write_bytes(content)
    return directory


def digest(seed: int = 0) -> str:
    """What the adapter's digest is."""
    listed = [File(name, len(body), sha256(body)) for name, body in files(seed).items()]
    return sha256(manifest_of(listed))


def sha256(body: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(body).hexdigest()
