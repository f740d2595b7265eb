import pickle
from pathlib import Path

import numpy as np
import pytest

from gateway.classify.base import Classifier
from gateway.classify.fit import Kind, fit
from tests.classify.samples import LEARN, UNSEEN
from tests.classify.topics import TopicEncoder

_KINDS: tuple[Kind, ...] = ("lexical", "embedding")


def _same(one: Classifier, two: Classifier) -> bool:
    texts = [text for text, _ in UNSEEN]
    return (one.labels, one.threshold, one.blocking) == (
        two.labels,
        two.threshold,
        two.blocking,
    ) and [one.predict(text) for text in texts] == [two.predict(text) for text in texts]


@pytest.mark.parametrize("kind", _KINDS)
def test_a_fit_comes_back_from_its_file(tmp_path: Path, kind: Kind) -> None:
    encoder = TopicEncoder()
    fitted = fit(kind, LEARN, tmp_path / "fits", encoder)
    (path,) = (tmp_path / "fits").iterdir()
    written = path.stat().st_mtime_ns
    encoded = encoder.encoded
    again = fit(kind, LEARN[::-1], tmp_path / "fits", encoder)
    assert encoder.encoded == encoded
    assert path.stat().st_mtime_ns == written
    assert _same(fitted, again)
    assert _same(fitted, fit(kind, LEARN, None, encoder))


@pytest.mark.parametrize("kind", _KINDS)
@pytest.mark.parametrize("damage", [b"", b"garbage", b"PK\x03\x04garbage", pickle.dumps([1])])
def test_a_file_that_cannot_be_read_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: Kind, damage: bytes
) -> None:
    fitted = fit(kind, LEARN, tmp_path, TopicEncoder())
    (path,) = tmp_path.iterdir()
    whole = path.stat().st_size
    path.write_bytes(damage)
    assert _same(fit(kind, LEARN, tmp_path, TopicEncoder()), fitted)
    assert path.name in caplog.text
    assert path.stat().st_size == whole


@pytest.mark.parametrize("cut", [100, 2000, -10])
def test_a_file_that_was_cut_is_made_anew(tmp_path: Path, cut: int) -> None:
    fitted = fit("lexical", LEARN, tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:cut])
    assert _same(fit("lexical", LEARN, tmp_path), fitted)


def test_a_file_with_other_shapes_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fitted = fit("lexical", LEARN, tmp_path)
    (path,) = tmp_path.iterdir()
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, allow_pickle=False, **(arrays | {"rows": arrays["rows"][:, 1:]}))
    assert _same(fit("lexical", LEARN, tmp_path), fitted)
    assert "'rows' is" in caplog.text


def test_other_examples_kinds_and_encoders_have_other_files(tmp_path: Path) -> None:
    fit("lexical", LEARN, tmp_path)
    fit("lexical", LEARN[1:], tmp_path)
    fit("embedding", LEARN, tmp_path, TopicEncoder("one"))
    fit("embedding", LEARN, tmp_path, TopicEncoder("two"))
    assert len(list(tmp_path.iterdir())) == 4


def test_the_encoder_does_not_matter_to_a_lexical_fit(tmp_path: Path) -> None:
    fit("lexical", LEARN, tmp_path, TopicEncoder("one"))
    fit("lexical", LEARN, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def test_only_the_newest_fits_are_kept(tmp_path: Path) -> None:
    for count in range(1, 13):
        fit("lexical", LEARN[:count], tmp_path)
    assert len(list(tmp_path.iterdir())) == 8


def test_an_embedding_needs_an_encoder() -> None:
    with pytest.raises(ValueError, match="needs an encoder"):
        fit("embedding", LEARN)
