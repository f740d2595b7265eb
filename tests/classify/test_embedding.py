import random

import pytest

from gateway.classify.base import Classifier
from gateway.classify.embedding import EmbeddingClassifier, fit_embedding
from gateway.classify.lexical import fit_lexical
from tests.classify.samples import LEARN, UNSEEN
from tests.classify.topics import TopicEncoder

_SYNONYMS = [
    ("reimburse me in cash", "refund"),
    ("interpret it as danish", "translate"),
    ("sleet or hail", "weather"),
]


@pytest.fixture(scope="module")
def classifier() -> EmbeddingClassifier:
    return fit_embedding(LEARN, TopicEncoder())


def test_it_is_a_classifier_for_a_thread(classifier: EmbeddingClassifier) -> None:
    fitted: Classifier = classifier
    assert fitted.labels == ("python", "refund", "translate", "weather")
    assert fitted.blocking is True
    assert 0.3 <= fitted.threshold <= 0.7


def test_meaning_counts_where_no_word_was_seen(classifier: EmbeddingClassifier) -> None:
    lexical = fit_lexical(LEARN)
    for text, label in _SYNONYMS:
        assert classifier.predict(text).label == label
        assert classifier.predict(text).confidence >= classifier.threshold
        assert lexical.predict(text).confidence < lexical.threshold


def test_words_count_where_the_encoder_knows_none(classifier: EmbeddingClassifier) -> None:
    assert classifier.predict("what is the temperature tomorrow").label == "weather"
    assert classifier.predict("how do you say good morning").label == "translate"


def test_texts_that_it_has_not_seen_are_recognised(classifier: EmbeddingClassifier) -> None:
    assert [classifier.predict(text).label for text, _ in UNSEEN] == [label for _, label in UNSEEN]


def test_a_text_without_evidence_is_not_confident(classifier: EmbeddingClassifier) -> None:
    for text in ("", "zzyzx qwrtp", "\ud800"):
        assert classifier.predict(text).confidence < classifier.threshold


def test_the_order_of_the_examples_does_not_matter(classifier: EmbeddingClassifier) -> None:
    again = fit_embedding(random.Random(3).sample(LEARN, len(LEARN)), TopicEncoder())
    for text, _ in [*UNSEEN, *_SYNONYMS]:
        assert again.predict(text) == classifier.predict(text)


def test_every_example_is_encoded_once() -> None:
    encoder = TopicEncoder()
    fit_embedding([*LEARN, *LEARN], encoder)
    assert encoder.encoded == len(LEARN) + 4  # and the four labels


def test_one_label_alone_takes_what_is_like_it() -> None:
    classifier = fit_embedding([e for e in LEARN if e[1] == "refund"], TopicEncoder())
    alike, other = classifier.predict("repay the money"), classifier.predict("hail or snow")
    assert alike.label == other.label == "refund"
    assert alike.confidence > other.confidence


def test_no_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="no examples"):
        fit_embedding([], TopicEncoder())
