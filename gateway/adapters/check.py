"""Whether an adapter is one that vLLM serves rightly on its base. Pure.

vLLM itself loads most of the mistakes found here without a word, and then answers as the base does,
or wrongly.
"""

import re
from collections.abc import Iterator
from typing import Literal

import msgspec

from gateway.adapters.files import CONFIG, WEIGHTS, AdapterFiles, BaseConfig

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes as `--max-lora-rank`."""

FLOATS = ("F32", "F16", "BF16")
PREFIX = "base_model.model."
PLAIN_INITS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Ways of beginning the training that leave the base's weights as they are."""

_NAME = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<half>[AB])(\.weight)?"
)
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


class Finding(msgspec.Struct, frozen=True):
    """One thing that is wrong or doubtful: where, what was found, what was expected, the mend."""

    adapter: str
    file: str
    found: str
    expected: str
    mend: str = ""
    severity: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        mend = f"; {self.mend}" if self.mend else ""
        return f"{self.adapter}: {self.file}: {self.found}; expected {self.expected}{mend}"


def check(
    files: AdapterFiles,
    base: BaseConfig | None,
    *,
    name: str,
    base_id: str | None = None,
    max_rank: int | None = None,
    base_matches: bool = False,
) -> list[Finding]:
    """Everything that is wrong with an adapter, and then what is doubtful.

    Without the base's config its shapes are not looked at. `max_rank` is what replicas were started
    with, `base_id` what the backend calls the base.
    """
    found = [
        *_kind(files, name),
        *_names(files, name),
        *_ranks(files, name, max_rank),
        *_targets(files, name),
        *(_shapes(files, name, base) if base is not None else _unchecked(name)),
        *(() if base_matches else _base_name(files, name, base, base_id)),
    ]
    return sorted(found, key=lambda finding: finding.severity)


def _kind(files: AdapterFiles, name: str) -> Iterator[Finding]:
    """What vLLM does not implement, or would take for a plain LoRA."""
    config = files.config

    def wrong(found: str, expected: str, mend: str = "") -> Finding:
        return Finding(name, CONFIG, found, expected, mend)

    if config.use_dora:
        yield wrong("use_dora: true", "a plain LoRA", "train it without DoRA")
    if config.bias != "none" or config.lora_bias:
        which = "lora_bias: true" if config.lora_bias else f"bias: {config.bias}"
        yield wrong(which, "no bias", "train it with bias: none")
    if config.modules_to_save:
        yield wrong(
            f"modules_to_save: {', '.join(config.modules_to_save)}",
            "low-rank pairs only",
            "train it without modules_to_save",
        )
    init = config.init_lora_weights
    if isinstance(init, str) and init.lower() not in PLAIN_INITS:
        yield wrong(
            f"init_lora_weights: {init}",
            "one that leaves the base's weights alone",
            "convert it with PEFT's path_initial_model_for_weight_conversion",
        )
    for key in ("alora_invocation_tokens", "layer_replication", "use_qalora", "use_bdlora"):
        if getattr(config, key):
            yield wrong(f"{key}: {getattr(config, key)}", "a plain LoRA")
    for key in ("target_parameters", "trainable_token_indices"):
        if getattr(config, key):
            yield wrong(f"{key}: {getattr(config, key)}", "low-rank pairs of modules only")
    if config.fan_in_fan_out:
        yield wrong("fan_in_fan_out: true", "weights stored as (out, in)")


def _names(files: AdapterFiles, name: str) -> Iterator[Finding]:
    """Each tensor is half of a pair, of a type that is loaded as it is."""
    halves: dict[str, set[str]] = {}
    for tensor, known in files.tensors.items():
        match = _NAME.fullmatch(tensor)
        if match is None:
            mend = "it is no part of a LoRA"
            if "magnitude" in tensor:
                mend = "train it without DoRA"
            elif not tensor.startswith(PREFIX):
                mend = f"PEFT's names begin with {PREFIX}"
            yield Finding(name, WEIGHTS, f"tensor {tensor}", "….lora_A.weight or .lora_B", mend)
            continue
        halves.setdefault(match["module"], set()).add(match["half"])
        if known.dtype not in FLOATS:
            yield Finding(name, WEIGHTS, f"{tensor} in {known.dtype}", f"one of {_or(FLOATS)}")
    if not files.tensors:
        yield Finding(name, WEIGHTS, "no tensors", "pairs of lora_A and lora_B")
    for module, has in halves.items():
        if len(has) == 1:
            missing = "B" if has == {"A"} else "A"
            yield Finding(
                name, WEIGHTS, f"{module} without lora_{missing}", "both halves of each pair"
            )


def _ranks(files: AdapterFiles, name: str, max_rank: int | None) -> Iterator[Finding]:
    config = files.config
    if config.r <= 0:
        yield Finding(name, CONFIG, f"r: {config.r}", "a rank above 0")
        return
    largest = 0
    for module, half, tensor, shape in _pairs(files):
        rank, said = shape[0] if half == "A" else shape[1], config.rank(module)
        largest = max(largest, rank)
        if rank != said:
            where = "rank_pattern" if said != config.r else "r"
            yield Finding(
                name,
                WEIGHTS,
                f"{tensor} has rank {rank}",
                f"{said}, as {CONFIG} says under {where}",
            )
    if max_rank is not None and max(largest, config.r) > max_rank:
        fits = next((rank for rank in RANKS if rank >= largest), RANKS[-1])
        yield Finding(
            name,
            WEIGHTS,
            f"rank {max(largest, config.r)}",
            f"at most {max_rank}, the replicas' --max-lora-rank",
            f"start them with --max-lora-rank {fits}",
        )


def _targets(files: AdapterFiles, name: str) -> Iterator[Finding]:
    """Modules that the config names and the weights lack, and the other way round."""
    declared = files.config.target_modules
    if not isinstance(declared, list):
        return  # a regular expression, or all-linear: any module may be meant
    modules = {module for module, *_ in _pairs(files)}
    for target in declared:
        if not any(module == target or module.endswith(f".{target}") for module in modules):
            yield Finding(
                name,
                CONFIG,
                f"target_modules has {target}",
                "tensors for it in the weights; there are none",
                severity="warning",
            )
    for module in sorted(modules):
        if not any(module == target or module.endswith(f".{target}") for target in declared):
            last = module.rsplit(".", 1)[-1]
            yield Finding(
                name,
                WEIGHTS,
                f"tensors of {module}",
                f"only of target_modules {', '.join(declared)}",
                f"add {last} to target_modules",
            )
            return


def _shapes(files: AdapterFiles, name: str, base: BaseConfig) -> Iterator[Finding]:
    """Every module is one of the base's, and every half as wide as it."""
    sizes = module_sizes(base)
    for module, half, tensor, shape in _pairs(files):
        layer = _LAYER.search(f".{module}.")
        if layer is not None and int(layer[1]) >= base.num_hidden_layers:
            yield Finding(
                name,
                WEIGHTS,
                f"{tensor}, of layer {layer[1]}",
                f"layers 0 to {base.num_hidden_layers - 1}, as the base has",
            )
            continue
        last = module.rsplit(".", 1)[-1]
        if last not in sizes:
            if "experts" in module or base.moe_intermediate_size is not None:
                continue  # what experts look like the config does not say
            known = ", ".join(sizes)
            yield Finding(name, WEIGHTS, f"module {last}", f"one that the base has: {known}")
            continue
        into, out = sizes[last]
        expected, place = (into, 1) if half == "A" else (out, 0)
        if expected is not None and shape[place] != expected:
            want = f"({shape[0]}, {expected})" if half == "A" else f"({expected}, {shape[1]})"
            yield Finding(name, WEIGHTS, f"{tensor} of shape {shape}", f"{want}, as the base has")


def _unchecked(name: str) -> Iterator[Finding]:
    yield Finding(
        name,
        WEIGHTS,
        "shapes that were not checked",
        "the base's config to check them by",
        "declare the model's `config`",
        severity="warning",
    )


def _base_name(
    files: AdapterFiles, name: str, base: BaseConfig | None, base_id: str | None
) -> Iterator[Finding]:
    said = files.config.base_model_name_or_path
    known = [each for each in (base_id, base.name_or_path if base else None) if each]
    if not said or not known or any(_same_base(said, each) for each in known):
        return
    yield Finding(
        name,
        CONFIG,
        f"base_model_name_or_path: {said}",
        _or(known),
        "write `base_matches: true` if it is the same model",
    )


def _same_base(one: str, other: str) -> bool:
    """Whether two names end alike: a local path and the Hub's name may mean the same model."""
    return _last(one) == _last(other)


def _last(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].lower()


def module_sizes(base: BaseConfig) -> dict[str, tuple[int | None, int | None]]:
    """(in, out) features by the last part of a module's name; None is not known.

    Names of the Llama family and its kin, and the fused ones of Phi-3 and its kin.
    """
    hidden, inner, vocabulary = base.hidden_size, base.intermediate_size, base.vocab_size
    head = base.head_dim or hidden // base.num_attention_heads
    queries = base.num_attention_heads * head
    keys = (base.num_key_value_heads or base.num_attention_heads) * head
    return {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "qkv_proj": (hidden, queries + 2 * keys),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "gate_up_proj": (hidden, None if inner is None else 2 * inner),
        "down_proj": (inner, hidden),
        "lm_head": (hidden, vocabulary),
        "embed_tokens": (vocabulary, hidden),
    }


def _pairs(files: AdapterFiles) -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    """(module, half, tensor, shape) of every understood tensor of two dimensions."""
    for tensor, known in files.tensors.items():
        match = _NAME.fullmatch(tensor)
        if match is not None and len(known.shape) == 2:
            yield match["module"], match["half"], tensor, known.shape


def _or(words: tuple[str, ...] | list[str]) -> str:
    return " or ".join(words)
