"""A BERT of a few kilobytes in the layout of sentence-transformers, and its arithmetic in numpy.

The arithmetic is written as the paper has it, in float64 and one step after the other, so that it
can tell whether the graph that the gateway builds computes the same.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

HIDDEN, WIDE, HEADS, LAYERS, LENGTH = 32, 64, 4, 2, 16
WORDS = "the a bank card money lost stolen weather rain sun tomorrow today my is in".split()

Weights = Mapping[str, np.ndarray]


def make(directory: Path, pooling: str = "mean_tokens") -> Weights:
    """Write the directory; gives its weights."""
    weights = _weights()
    (directory / "pool").mkdir(parents=True)
    _json(
        directory / "config.json",
        {
            "model_type": "bert",
            "hidden_size": HIDDEN,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "max_position_embeddings": LENGTH,
            "hidden_act": "gelu",
        },
    )
    modules = [("", "Transformer"), ("pool", "Pooling"), ("norm", "Normalize")]
    _json(
        directory / "modules.json",
        [{"type": f"sentence_transformers.models.{kind}", "path": at} for at, kind in modules],
    )
    modes = {f"pooling_mode_{mode}": mode == pooling for mode in ("mean_tokens", "cls_token")}
    _json(directory / "pool" / "config.json", modes)
    _json(directory / "sentence_bert_config.json", {"max_seq_length": LENGTH})
    _tokenizer().save(str(directory / "tokenizer.json"))
    _save(directory / "model.safetensors", weights)
    return weights


def reference(weights: Weights, ids: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The states after half of the layers and after the last, [tokens, hidden] each."""
    states = weights["embeddings.word_embeddings.weight"][ids].astype(float)
    states += weights["embeddings.position_embeddings.weight"][: len(ids)]
    states += weights["embeddings.token_type_embeddings.weight"][0]
    states = _norm(states, weights, "embeddings.LayerNorm")
    kept = [states]
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        mixed = _dense(_attend(states, weights, at), weights, f"{at}.attention.output.dense")
        states = _norm(states + mixed, weights, f"{at}.attention.output.LayerNorm")
        wide = _gelu(_dense(states, weights, f"{at}.intermediate.dense"))
        narrow = _dense(wide, weights, f"{at}.output.dense")
        states = _norm(states + narrow, weights, f"{at}.output.LayerNorm")
        kept.append(states)
    return kept[LAYERS // 2], kept[-1]


def _weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(7)
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (len(WORDS) + 4, HIDDEN),
        "embeddings.position_embeddings.weight": (LENGTH, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    for layer in range(LAYERS):
        at = f"encoder.layer.{layer}"
        for name in ("query", "key", "value"):
            shapes[f"{at}.attention.self.{name}.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{at}.attention.output.dense.weight"] = (HIDDEN, HIDDEN)
        shapes[f"{at}.intermediate.dense.weight"] = (WIDE, HIDDEN)
        shapes[f"{at}.output.dense.weight"] = (HIDDEN, WIDE)
    norms = ["embeddings.LayerNorm"] + [
        f"encoder.layer.{layer}.{part}.LayerNorm"
        for layer in range(LAYERS)
        for part in ("attention.output", "output")
    ]
    biased = {
        name.removesuffix(".weight"): shape[0]
        for name, shape in shapes.items()
        if name.startswith("encoder")
    }
    made = {name: random.normal(0, 0.3, shape) for name, shape in shapes.items()}
    made |= {f"{name}.bias": random.normal(0, 0.1, size) for name, size in biased.items()}
    for name in norms:
        made[f"{name}.weight"] = random.normal(1, 0.1, HIDDEN)
        made[f"{name}.bias"] = random.normal(0, 0.1, HIDDEN)
    return {name: values.astype(np.float32) for name, values in made.items()}


def _tokenizer() -> Tokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: at for at, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    # As sentence-transformers' own files do; the encoder has no use for it.
    tokenizer.enable_padding(length=LENGTH)
    return tokenizer


def _save(path: Path, weights: Weights) -> None:
    header, body = {}, b""
    for name, values in weights.items():
        raw = values.tobytes()
        offsets = [len(body), len(body) + len(raw)]
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": offsets}
        body += raw
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def _dense(states: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    product: np.ndarray = states @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]
    return product


def _attend(states: np.ndarray, weights: Weights, at: str) -> np.ndarray:
    size = HIDDEN // HEADS
    out = np.empty_like(states)
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        query, key, value = (
            _dense(states, weights, f"{at}.attention.self.{name}")[:, part]
            for name in ("query", "key", "value")
        )
        scores = np.exp(query @ key.T / math.sqrt(size))
        out[:, part] = scores / scores.sum(axis=1, keepdims=True) @ value
    return out


def _norm(states: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    centred = states - states.mean(axis=1, keepdims=True)
    scaled = centred / np.sqrt(centred.var(axis=1, keepdims=True) + 1e-12)
    normed: np.ndarray = scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]
    return normed


def _gelu(values: np.ndarray) -> np.ndarray:
    smooth: np.ndarray = values * 0.5 * (1 + np.vectorize(math.erf)(values / math.sqrt(2)))
    return smooth
