import numpy as np

from gateway.classify import features
from gateway.classify.softmax import fit_dual, softmax
from gateway.classify.table import Reader, fold
from tests.classify.samples import LEARN, UNSEEN


def _dense(texts: list[list[str]], vocabulary: features.Vocabulary) -> np.ndarray:
    rows = features.matrix(texts, vocabulary)
    dense = np.zeros((len(texts), rows.width), np.float32)
    for i in range(len(texts)):
        mine = slice(rows.starts[i], rows.starts[i + 1])
        dense[i, rows.columns[mine]] = rows.values[mine]
    return dense


def test_the_fit_is_where_the_loss_is_flat() -> None:
    random = np.random.default_rng(5)
    points = random.normal(size=(60, 8)).astype(np.float32)
    target = random.integers(0, 4, 60)
    kernel = points @ points.T
    coefficients = fit_dual(kernel, target, 4, 0.5)
    shares = softmax((kernel @ coefficients).astype(np.float32))
    gradient = shares - np.eye(4)[target] + 0.5 * coefficients
    # In the weights' own space the kernel's null directions vanish.
    assert np.abs(points.T @ gradient).max() < 0.01 * np.abs(points.T @ np.eye(4)[target]).max()


def test_the_fit_stands_still_where_there_is_nothing_to_learn() -> None:
    coefficients = fit_dual(np.zeros((3, 3), np.float32), np.array([0, 1, 1]), 2, 0.01)
    assert np.isfinite(coefficients).all()


def test_the_gram_matrix_is_the_product_of_the_rows() -> None:
    texts = [features.split(text) for text, _ in LEARN] + [[]]
    vocabulary = features.learn(texts, 10_000)
    dense = _dense(texts, vocabulary)
    kernel = features.gram(features.matrix(texts, vocabulary))
    assert np.allclose(kernel, dense @ dense.T, atol=1e-5)


def test_the_table_gives_the_same_logits_as_the_vectors() -> None:
    texts = [features.split(text) for text, _ in LEARN]
    vocabulary = features.learn(texts, 10_000)
    coefficients = np.random.default_rng(1).normal(size=(len(texts), 3)).astype(np.float32)
    reader = Reader(fold(features.matrix(texts, vocabulary), coefficients, vocabulary))
    weights = _dense(texts, vocabulary).T @ coefficients
    for text, _ in [*UNSEEN, ("an unheard-of word, translationally", "")]:
        logits, scale = reader.read(features.split(text))
        expected = _dense([features.split(text)], vocabulary)[0] @ weights
        assert np.allclose(scale * logits, expected, atol=1e-4)


def test_a_limited_vocabulary_keeps_what_most_texts_have() -> None:
    texts = [["pay", "now"], ["pay", "later"], ["pay"]]
    vocabulary = features.learn(texts, 12)
    assert len(vocabulary.weights) == 12
    assert "pay" in vocabulary.index
    assert "later" not in vocabulary.index
