"""Reads what an adapter and its base are from their configs and the safetensors header alone."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
LARGEST_HEADER = 100 * 1024 * 1024
"""Bytes: the limit of the safetensors format itself."""

BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
"""Bytes of one element."""


class AdapterError(ValueError):
    """Files that are no adapter's, or not whole. The text names the file, what it has and should
    have."""

    def __init__(self, file: Path, found: str, expected: str, mend: str = "") -> None:
        self.file = file
        self.found = found
        self.expected = expected
        said = f"{file}: {found}; expected {expected}"
        super().__init__(f"{said}; {mend}" if mend else said)


class Tensor(msgspec.Struct, frozen=True):
    """One tensor of a header: `begin` and `end` are bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class AdapterConfig(msgspec.Struct, frozen=True):
    """What PEFT writes, as far as it matters to whoever serves the adapter."""

    r: int
    lora_alpha: float
    target_modules: list[str] | str | None = None
    peft_type: str = "LORA"
    base_model_name_or_path: str | None = None
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    bias: str = "none"
    lora_bias: bool = False
    modules_to_save: list[str] | None = None
    fan_in_fan_out: bool = False
    init_lora_weights: bool | str = True
    alora_invocation_tokens: list[int] | None = None
    layer_replication: list[list[int]] | None = None
    use_qalora: bool = False
    use_bdlora: dict[str, Any] | None = None
    target_parameters: list[str] | None = None
    trainable_token_indices: list[int] | dict[str, list[int]] | None = None

    def rank(self, module: str) -> int:
        """The rank of a module, by its name without `base_model.model.`."""
        return int(_matching(self.rank_pattern, module, self.r))

    def scaling(self, module: str) -> float:
        """What B A is multiplied by: alpha / r, or alpha / sqrt(r) with rsLoRA (Kalajdzievski
        2023)."""
        rank = self.rank(module)
        alpha = _matching(self.alpha_pattern, module, self.lora_alpha)
        return float(alpha / (rank**0.5 if self.use_rslora else rank))


class AdapterFiles(msgspec.Struct, frozen=True):
    """An adapter's directory as read. `header` is the weights' header in bytes, its length too."""

    directory: Path
    config: AdapterConfig
    tensors: dict[str, Tensor]
    header: int

    @property
    def rank(self) -> int:
        """The largest rank of its tensors; 0 without any."""
        halves = ("lora_A", "lora_embedding_A")
        ranks = [
            tensor.shape[0]
            for name, tensor in self.tensors.items()
            if any(half in name for half in halves) and len(tensor.shape) == 2
        ]
        return max(ranks, default=0)

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        total = 0
        for tensor in self.tensors.values():
            count = 1
            for length in tensor.shape:
                count *= length
            total += count
        return total


class BaseConfig(msgspec.Struct, frozen=True):
    """The base's shapes as its `config.json` says them; None is what it does not say."""

    model_type: str
    hidden_size: int
    num_attention_heads: int
    num_hidden_layers: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    vocab_size: int | None = None
    moe_intermediate_size: int | None = None
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    name_or_path: str | None = msgspec.field(default=None, name="_name_or_path")


def _matching(pattern: dict[str, Any] | None, module: str, otherwise: Any) -> Any:
    """PEFT's rule: a key matches a module's name from a dot on, as a regular expression."""
    for key, value in (pattern or {}).items():
        if re.match(rf"(.*\.)?({key})$", module):
            return value
    return otherwise


def read(directory: Path) -> AdapterFiles:
    """An adapter's directory. Raises AdapterError for one that is none, or not whole."""
    config = _config(directory / CONFIG)
    weights = directory / WEIGHTS
    if not weights.is_file():
        pickles = [p.name for p in directory.glob("adapter_model.*") if p.suffix != ".json"]
        raise AdapterError(
            weights,
            f"there is no such file{', but ' + pickles[0] if pickles else ''}",
            "the weights in the safetensors format",
            "save them with `safe_serialization=True`" if pickles else "",
        )
    tensors, header = read_header(weights)
    return AdapterFiles(directory, config, tensors, header)


def read_header(path: Path) -> tuple[dict[str, Tensor], int]:
    """The tensors of a safetensors file, and how many bytes come before their data.

    The format: 8 bytes of little-endian length, so many bytes of JSON, the data without gaps.
    Raises AdapterError, OSError.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(LARGEST_HEADER, size - 8):
            raise AdapterError(path, f"{size:,} bytes with no whole header", "a safetensors file")
        text = file.read(length)
    try:
        entries = json.loads(text)
        tensors = {
            name: _tensor(path, name, entry)
            for name, entry in entries.items()
            if name != "__metadata__"
        }
    except (ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, AdapterError):
            raise
        raise AdapterError(path, f"a header that is no JSON object ({error})", "one") from error
    _whole(path, tensors, size - 8 - length)
    return tensors, 8 + length


def _tensor(path: Path, name: str, entry: Any) -> Tensor:
    try:
        shape, (begin, end) = tuple(entry["shape"]), entry["data_offsets"]
        known = Tensor(entry["dtype"], shape, begin, end)
        whole = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
        named = isinstance(known.dtype, str)
    except (KeyError, TypeError, ValueError) as error:
        raise AdapterError(path, f"no dtype, shape and place for {name}", "all three") from error
    if not whole or not named:
        raise AdapterError(
            path, f"{name} with shape {entry['shape']}", "whole numbers of 0 or more"
        )
    count = BYTES.get(known.dtype, 0)
    for length in shape:
        count *= length
    if count and known.end - known.begin != count:
        raise AdapterError(
            path,
            f"{known.end - known.begin:,} bytes for {name}",
            f"{count:,} for {known.dtype} {list(shape)}",
        )
    return known


def _whole(path: Path, tensors: dict[str, Tensor], size: int) -> None:
    """The data must be there to its end, each byte of it one tensor's."""
    at = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != at or tensor.end < tensor.begin:
            raise AdapterError(path, f"{name} from byte {tensor.begin:,}", f"it from {at:,}")
        at = tensor.end
    if at != size:
        raise AdapterError(
            path,
            f"{size:,} bytes of data",
            f"{at:,}",
            "copy it again: it is not whole" if at > size else "",
        )


def _config(path: Path) -> AdapterConfig:
    if not path.is_file():
        raise AdapterError(path, "there is no such file", "the adapter's config as PEFT writes it")
    try:
        raw = json.loads(path.read_bytes())
        if not isinstance(raw, dict):
            raise AdapterError(path, f"a {type(raw).__name__}", "a JSON object")
        if raw.get("peft_type", "LORA") != "LORA":
            raise AdapterError(path, f"peft_type {raw['peft_type']}", "LORA: vLLM serves no other")
        return msgspec.convert({k: v for k, v in raw.items() if v is not None}, AdapterConfig)
    except msgspec.ValidationError as error:
        raise AdapterError(path, str(error), "what PEFT writes for a LoRA") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise AdapterError(path, f"not JSON ({error})", "a JSON object") from error


def read_base(path: Path) -> BaseConfig:
    """A base's `config.json`, or the one in a directory. Raises AdapterError."""
    file = path / "config.json" if path.is_dir() else path
    try:
        raw = json.loads(file.read_bytes())
        inner = raw.get("text_config") if isinstance(raw, dict) else None
        return msgspec.convert(raw | inner if isinstance(inner, dict) else raw, BaseConfig)
    except OSError as error:
        raise AdapterError(
            file, f"cannot be read ({error.strerror})", "the base's config"
        ) from error
    except msgspec.ValidationError as error:
        raise AdapterError(file, str(error), "the config of a language model") from error
    except ValueError as error:
        raise AdapterError(file, f"not JSON ({error})", "a JSON object") from error
