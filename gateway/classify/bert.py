"""A BERT sentence encoder from a sentence-transformers directory, run by onnxruntime without torch.

Read are `config.json`, `modules.json`, the pooling's and transformer's own configurations,
`tokenizer.json` and `model.safetensors`. The weights of the matrix products are rounded to seven
bits with one scale a column, and activations on the fly, which on one core is a few times faster
than float32. Token embeddings stay a memory map of the file.

A vector has two halves of length one: the model's own sentence vector, and the mean of the states
of its middle layer, which still tells words apart that the last one takes for synonyms.
Needs the `embedding` extra (onnxruntime, tokenizers); they are imported when an encoder is made.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from gateway.classify.encoder import EncoderError
from gateway.classify.graph import Graph
from gateway.classify.softmax import Floats

# Longer texts are cut by the tokenizer; before it, so that a huge text is not tokenized in vain.
_CHARACTERS_PER_TOKEN = 16
_ID_VERSION = "bert-int8-2"

_LEVELS = 63
"""Seven bits: a processor with AVX2 alone adds two products of eight bits in sixteen, and where
both are large that is cut off, without a word."""

T = TypeVar("T")


class _Config(msgspec.Struct):
    model_type: str
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    max_position_embeddings: int
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    position_embedding_type: str = "absolute"


class _Module(msgspec.Struct):
    type: str
    path: str


class _Pooling(msgspec.Struct):
    pooling_mode_cls_token: bool = False
    pooling_mode_mean_tokens: bool = True
    pooling_mode_max_tokens: bool = False
    pooling_mode_mean_sqrt_len_tokens: bool = False


class _Transformer(msgspec.Struct):
    max_seq_length: int = 256


class BertEncoder:
    """Encodes on one core, one text after the other; see above for the vectors. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        """Raises EncoderError if the directory is not a BERT that this code can run exactly."""
        try:
            import onnxruntime  # type: ignore[import-untyped]
            import tokenizers
        except ImportError as error:
            raise EncoderError(
                f"{directory}: running a BERT needs the extra: pip install 'switchboard[embedding]'"
            ) from error

        config = _config(directory)
        pooling, length = _modules(directory)
        length = min(length, config.max_position_embeddings)
        weights = _safetensors(directory / "model.safetensors")
        self._tokens = weights["embeddings.word_embeddings.weight"]
        self._positions = (
            weights["embeddings.position_embeddings.weight"][:length]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        if self._tokens.shape[1] != config.hidden_size:
            raise EncoderError(
                f"{directory}: config.json's hidden_size is {config.hidden_size}, but the token "
                f"embeddings in model.safetensors have {self._tokens.shape[1]} columns"
            )
        self._first_only = pooling.pooling_mode_cls_token
        self._limit = length * _CHARACTERS_PER_TOKEN
        self._tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(length)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            _graph(config, weights), options, providers=["CPUExecutionProvider"]
        )
        self.dim = 2 * config.hidden_size
        self.depth = slice(config.hidden_size, self.dim)
        self.id = f"{_ID_VERSION} {_content_hash(directory)}"

    def encode(self, texts: Sequence[str]) -> Floats:
        """[n, dim]."""
        rows = np.empty((len(texts), self.dim), np.float32)
        for at, text in enumerate(texts):
            rows[at] = self._encode(text)
        return rows

    def _encode(self, text: str) -> Floats:
        # The tokenizer takes no lone surrogates.
        clean = text[: self._limit].encode("utf-8", "replace").decode()
        ids = self._tokenizer.encode(clean).ids
        states = self._tokens[ids] + self._positions[: len(ids)]
        last, middle = self._session.run(None, {"states": states[None]})
        own = last[0, 0] if self._first_only else last[0].mean(axis=0)
        return np.concatenate([_unit(own), _unit(middle[0].mean(axis=0))])


def _unit(vector: Floats) -> Floats:
    return vector / np.float32(max(float(np.sqrt(vector @ vector)), 1e-12))


def _config(directory: Path) -> _Config:
    config = _read(directory / "config.json", _Config)
    supported = (
        config.model_type == "bert"
        and config.hidden_act == "gelu"
        and config.position_embedding_type == "absolute"
    )
    if not supported:
        raise EncoderError(
            f"{directory / 'config.json'}: only BERT with gelu and absolute positions can be run; "
            "serve other models behind an OpenAI-compatible embeddings endpoint"
        )
    return config


def _modules(directory: Path) -> tuple[_Pooling, int]:
    modules = _read(directory / "modules.json", list[_Module])
    kinds = [module.type.rsplit(".", 1)[-1] for module in modules]
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise EncoderError(
            f"{directory / 'modules.json'}: the modules are {kinds}; "
            "supported are Transformer, Pooling and an optional Normalize"
        )
    pooling = _read(directory / modules[1].path / "config.json", _Pooling)
    if pooling.pooling_mode_cls_token == pooling.pooling_mode_mean_tokens or (
        pooling.pooling_mode_max_tokens or pooling.pooling_mode_mean_sqrt_len_tokens
    ):
        raise EncoderError(
            f"{directory / modules[1].path / 'config.json'}: supported is pooling by the mean or "
            "by the first token"
        )
    own = directory / "sentence_bert_config.json"
    length = _read(own, _Transformer).max_seq_length if own.exists() else 256
    return pooling, length


def _read(path: Path, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError) as error:
        raise EncoderError(
            f"{path}: {error}; is this a sentence-transformers directory?"
        ) from error


class _Weights(dict[str, Floats]):
    """Tensors by name; one that is missing is said by name and file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def __missing__(self, name: str) -> Floats:
        raise EncoderError(
            f"{self._path}: the float32 tensor '{name}', which config.json asks for, is not in it"
        )


def _safetensors(path: Path) -> Mapping[str, Floats]:
    """The float32 tensors of a file, by name: 8 bytes length, a JSON header, then raw values."""
    try:
        data = np.memmap(path, np.uint8, "r")
        size = int.from_bytes(data[:8].tobytes(), "little")
        header: dict[str, Any] = json.loads(data[8 : 8 + size].tobytes())
        header.pop("__metadata__", None)
        body = data[8 + size :]
        found = _Weights(path)
        found |= {
            name.removeprefix("bert."): body[slice(*entry["data_offsets"])]
            .view(np.float32)
            .reshape(entry["shape"])
            for name, entry in header.items()
            if entry["dtype"] == "F32"
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EncoderError(f"{path}: not a safetensors file: {error}") from error
    return found


def _graph(config: _Config, weights: Mapping[str, Floats]) -> bytes:
    """From summed embeddings, [1, tokens, hidden], to the states of the last and middle layers."""
    graph = Graph()
    epsilon = {"epsilon": config.layer_norm_eps}
    shape = (1, "tokens", config.hidden_size)
    norm = [graph.tensor(weights[f"embeddings.LayerNorm.{part}"]) for part in ("weight", "bias")]
    states = graph.input("states", shape)
    (states,) = graph.node("LayerNormalization", [states, *norm], attributes=epsilon)
    middle = states
    for layer in range(config.num_hidden_layers):
        if layer == config.num_hidden_layers // 2:
            middle = states
        prefix = f"encoder.layer.{layer}"
        attended = _attention(graph, states, weights, f"{prefix}.attention", config)
        states = _add_and_norm(
            graph, attended, states, weights, f"{prefix}.attention.output", epsilon
        )
        wide = _product(graph, states, weights, [f"{prefix}.intermediate.dense"])
        (wide,) = graph.node("Gelu", [wide], contrib=True)
        narrow = _product(graph, wide, weights, [f"{prefix}.output.dense"])
        states = _add_and_norm(graph, narrow, states, weights, f"{prefix}.output", epsilon)
    graph.output(states, shape)
    graph.output(middle, shape)
    return graph.serialize()


def _attention(
    graph: Graph, states: str, weights: Mapping[str, Floats], prefix: str, config: _Config
) -> str:
    names = [f"{prefix}.self.{part}" for part in ("query", "key", "value")]
    mixed = _product(graph, states, weights, names)
    parts = graph.node("Split", [mixed], outputs=3, attributes={"axis": 2})
    (attended,) = graph.node(
        "MultiHeadAttention",
        parts,
        contrib=True,
        attributes={"num_heads": config.num_attention_heads},
    )
    return _product(graph, attended, weights, [f"{prefix}.output.dense"])


def _product(graph: Graph, states: str, weights: Mapping[str, Floats], names: Sequence[str]) -> str:
    """States times the named weights side by side, plus their biases."""
    matrix = np.concatenate([weights[f"{name}.weight"] for name in names]).T
    bias = np.concatenate([weights[f"{name}.bias"] for name in names])
    scale = np.maximum(np.abs(matrix).max(axis=0), 1e-12) / np.float32(_LEVELS)
    rounded = np.rint(matrix / scale).astype(np.int8)
    (product,) = graph.node(
        "DynamicQuantizeMatMul",
        [
            states,
            graph.tensor(rounded),
            graph.tensor(scale.astype(np.float32)),
            graph.tensor(np.zeros(len(scale), np.int8)),
            graph.tensor(bias),
        ],
        contrib=True,
    )
    return product


def _add_and_norm(
    graph: Graph,
    change: str,
    states: str,
    weights: Mapping[str, Floats],
    prefix: str,
    epsilon: Mapping[str, float],
) -> str:
    norm = [graph.tensor(weights[f"{prefix}.LayerNorm.{part}"]) for part in ("weight", "bias")]
    (total,) = graph.node("Add", [change, states])
    (normed,) = graph.node("LayerNormalization", [total, *norm], attributes=epsilon)
    return normed


def _content_hash(directory: Path) -> str:
    digest = hashlib.sha256()
    for name in ("config.json", "modules.json", "tokenizer.json", "model.safetensors"):
        with (directory / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
