import json
from pathlib import Path

import numpy as np
import pytest

from gateway.classify.bert import BertEncoder
from gateway.classify.encoder import Encoder, EncoderError
from tests.classify import tiny_bert

_TEXTS = ["my card is lost", "Rain tomorrow!", "the weather in the sun today is a rain", ""]


def _unit(vector: np.ndarray) -> np.ndarray:
    scaled: np.ndarray = vector / np.sqrt(vector @ vector)
    return scaled


@pytest.mark.parametrize("pooling", ["mean_tokens", "cls_token"])
def test_vectors_are_the_papers_up_to_rounding(tmp_path: Path, pooling: str) -> None:
    weights = tiny_bert.make(tmp_path / "bert", pooling)
    encoder: Encoder = BertEncoder(tmp_path / "bert")
    vectors = encoder.encode(_TEXTS)
    assert vectors.shape == (len(_TEXTS), encoder.dim)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *tiny_bert.WORDS]
    for text, vector in zip(_TEXTS, vectors, strict=True):
        words = text.lower().replace("!", " !").split()
        ids = [vocabulary.index(word) if word in vocabulary else 1 for word in words]
        middle, last = tiny_bert.reference(weights, [2, *ids, 3])
        own = last[0] if pooling == "cls_token" else last.mean(axis=0)
        halves = vector[: tiny_bert.HIDDEN], vector[tiny_bert.HIDDEN :]
        assert halves[0] @ _unit(own) > 0.995
        assert halves[1] @ _unit(middle.mean(axis=0)) > 0.995


def test_different_texts_have_different_vectors(tmp_path: Path) -> None:
    tiny_bert.make(tmp_path / "bert")
    vectors = BertEncoder(tmp_path / "bert").encode(_TEXTS[:3])
    assert (vectors @ vectors.T / 2 + np.eye(3) < 1.0001).sum() == 6


def test_any_text_can_be_encoded(tmp_path: Path) -> None:
    tiny_bert.make(tmp_path / "bert")
    vectors = BertEncoder(tmp_path / "bert").encode(["\ud800", "\x00", "card " * 100_000, "今天"])
    assert np.isfinite(vectors).all()


def test_no_texts_give_no_vectors(tmp_path: Path) -> None:
    tiny_bert.make(tmp_path / "bert")
    encoder = BertEncoder(tmp_path / "bert")
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_the_id_follows_the_weights(tmp_path: Path) -> None:
    tiny_bert.make(tmp_path / "one")
    tiny_bert.make(tmp_path / "two")
    one, two = BertEncoder(tmp_path / "one"), BertEncoder(tmp_path / "two")
    assert one.id == two.id
    path = tmp_path / "two" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    assert BertEncoder(tmp_path / "two").id != one.id


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"nowhere.*sentence-transformers directory"):
        BertEncoder(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"model_type": "roberta"}, "only BERT with gelu"),
        ("config.json", {"position_embedding_type": "relative_key"}, "absolute positions"),
        ("config.json", {"hidden_size": "wide"}, "hidden_size"),
        ("pool/config.json", {"pooling_mode_max_tokens": True}, "mean or by the first token"),
    ],
)
def test_what_cannot_be_run_exactly_is_refused(
    tmp_path: Path, file: str, change: dict[str, object], message: str
) -> None:
    tiny_bert.make(tmp_path / "bert")
    path = tmp_path / "bert" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(EncoderError, match=message):
        BertEncoder(tmp_path / "bert")


def test_a_size_that_is_not_the_weights_is_refused(tmp_path: Path) -> None:
    tiny_bert.make(tmp_path / "bert")
    path = tmp_path / "bert" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_size": 48}))
    with pytest.raises(EncoderError, match="hidden_size is 48"):
        BertEncoder(tmp_path / "bert")


def test_other_modules_are_refused(tmp_path: Path) -> None:
    tiny_bert.make(tmp_path / "bert")
    path = tmp_path / "bert" / "modules.json"
    dense = {"type": "sentence_transformers.models.Dense", "path": "dense"}
    path.write_text(json.dumps([*json.loads(path.read_text()), dense]))
    with pytest.raises(EncoderError, match="Dense"):
        BertEncoder(tmp_path / "bert")


@pytest.mark.parametrize("content", [b"", b"\x08", b"\x02" + bytes(7) + b"{}", b"\xff" * 64])
def test_a_broken_weights_file_is_named(tmp_path: Path, content: bytes) -> None:
    tiny_bert.make(tmp_path / "bert")
    (tmp_path / "bert" / "model.safetensors").write_bytes(content)
    with pytest.raises(EncoderError, match=r"model\.safetensors"):
        BertEncoder(tmp_path / "bert")


def test_a_weight_that_is_missing_is_named(tmp_path: Path) -> None:
    tiny_bert.make(tmp_path / "bert")
    path = tmp_path / "bert" / "model.safetensors"
    path.write_bytes(path.read_bytes().replace(b"layer.1.output.dense", b"layer.9.output.dense"))
    with pytest.raises(EncoderError, match=r"encoder\.layer\.1\.output\.dense\.weight"):
        BertEncoder(tmp_path / "bert")
