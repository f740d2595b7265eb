import itertools
import random
import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.classify.base import Classifier, Prediction
from gateway.classify.lexical import LexicalClassifier, fit_lexical
from tests.classify.samples import LEARN, UNSEEN


@pytest.fixture(scope="module")
def classifier() -> LexicalClassifier:
    return fit_lexical(LEARN)


def test_it_is_a_classifier_for_the_event_loop(classifier: LexicalClassifier) -> None:
    fitted: Classifier = classifier
    assert fitted.labels == ("python", "refund", "translate", "weather")
    assert fitted.blocking is False
    assert 0.3 <= fitted.threshold <= 0.7


def test_texts_that_it_has_not_seen_are_recognised(classifier: LexicalClassifier) -> None:
    predictions = [classifier.predict(text) for text, _ in UNSEEN]
    assert [p.label for p in predictions] == [label for _, label in UNSEEN]
    assert all(p.confidence >= classifier.threshold for p in predictions)


@pytest.mark.parametrize("text", ["", " \n\t", "zzyzx qwrtp", "?!", "\ud800", "\x00", "今天天气"])
def test_a_text_without_evidence_goes_to_the_default(
    classifier: LexicalClassifier, text: str
) -> None:
    assert classifier.predict(text).confidence < classifier.threshold


def test_scores_are_the_best_labels_best_first(classifier: LexicalClassifier) -> None:
    prediction = classifier.predict("translate the weather forecast")
    logits = [logit for _, logit in prediction.scores]
    assert prediction.label == prediction.scores[0][0]
    assert logits == sorted(logits, reverse=True)
    assert len({label for label, _ in prediction.scores}) == 3


def test_a_word_that_was_never_seen_is_read_by_its_pieces(classifier: LexicalClassifier) -> None:
    assert classifier.predict("translations").label == "translate"
    assert classifier.predict("temperatures").label == "weather"


def test_the_order_of_the_examples_does_not_matter(classifier: LexicalClassifier) -> None:
    shuffled = random.Random(3).sample(LEARN, len(LEARN))
    again = fit_lexical([*shuffled, *shuffled[:5]])
    assert again.threshold == classifier.threshold
    for text, _ in UNSEEN:
        assert again.predict(text) == classifier.predict(text)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=())))
def test_any_text_gets_a_confidence_and_always_the_same(
    classifier: LexicalClassifier, text: str
) -> None:
    prediction = classifier.predict(text)
    assert 0.0 <= prediction.confidence <= 1.0
    assert prediction.label in classifier.labels
    assert classifier.predict(text) == prediction


def test_what_stands_around_long_material_is_read(classifier: LexicalClassifier) -> None:
    material = "lorem ipsum dolor sit amet " * 100_000
    assert classifier.predict(f"translate this into French: {material}").label == "translate"
    assert classifier.predict(f"{material}\ntranslate this into French").label == "translate"
    hidden = f"{material} translate this into French {material}"
    assert classifier.predict(hidden) == classifier.predict(material[:-1] + " " + material)


def test_two_labels_with_three_examples_each() -> None:
    classifier = fit_lexical([e for e in LEARN if e[1] in ("refund", "weather")][::2])
    assert classifier.predict("is there a refund for my order").label == "refund"
    assert classifier.predict("what is the weather going to be").label == "weather"


def test_one_label_alone_takes_what_is_like_it_and_nothing_else() -> None:
    classifier = fit_lexical([e for e in LEARN if e[1] == "refund"])
    alike = classifier.predict("refund my money for the order")
    other = classifier.predict("is it going to snow")
    assert alike.confidence >= classifier.threshold > other.confidence
    assert alike.scores == (("refund", alike.scores[0][1]),)


def test_one_example_is_enough_to_fit() -> None:
    prediction = fit_lexical([("pay the invoice", "billing")]).predict("pay this invoice")
    assert isinstance(prediction, Prediction)
    assert prediction.label == "billing"


def test_an_example_without_words_is_harmless() -> None:
    classifier = fit_lexical([*LEARN, ("", "refund"), ("  ", "weather")])
    assert classifier.predict("please refund my order").label == "refund"


def test_no_examples_are_refused() -> None:
    with pytest.raises(ValueError, match="no examples"):
        fit_lexical([])


def test_however_many_unknown_words_went_by_a_text_reads_the_same() -> None:
    classifier = fit_lexical([("pay the invoice", "money"), ("book a hotel", "travel")])
    texts = ["paying invoices twice", "hotels and bookings " + "far " * 3]
    before = [classifier.predict(text) for text in texts]
    for start in range(0, 9000, 300):
        classifier.predict(
            " ".join(
                f"hotelx{chr(97 + n % 26)}{chr(97 + n // 26 % 26)}{chr(97 + n // 676)}"
                for n in range(start, start + 300)
            )
        )
    assert [classifier.predict(text) for text in texts] == before


def test_words_that_come_and_go_are_never_read_from_anothers_place() -> None:
    """More unknown words than there is room to remember: some are put out, none of a text's own."""
    classifier = fit_lexical(LEARN)
    letters = string.ascii_lowercase
    words = [
        kind + "".join(end)
        for end in itertools.product(letters, letters, letters)
        for kind in ("weath", "transl", "refun")
    ]
    room = 4096
    for at in range(0, room, 64):
        classifier.predict(" ".join(words[at : at + 64]))
    for n in range(60):
        # The one that was first met longest ago stands beside two that need room.
        text = " ".join([words[2 * n], *words[room + 2 * n : room + 2 * n + 2]])
        fresh = LexicalClassifier(classifier.model)
        assert classifier.predict(text) == fresh.predict(text)
