"""Fit a classifier, or take one that was fitted on the same examples before.

A fit is a matter of seconds, so what it leaves is kept in a file named by the hash of all that it
depends on. Such a file holds numbers and JSON only (no pickle): reading one runs no code.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.classify.base import Classifier
from gateway.classify.calibration import Calibration, Example
from gateway.classify.embedding import (
    EmbeddingClassifier,
    EmbeddingModel,
    Linear,
    fit_embedding,
)
from gateway.classify.encoder import Encoder
from gateway.classify.features import Vocabulary
from gateway.classify.lexical import LexicalClassifier, LexicalModel, fit_lexical
from gateway.classify.table import Table

Kind = Literal["lexical", "embedding"]

# To be raised with every change to features, fits or the file's layout.
_VERSION = 1
_KEPT = 8
_log = logging.getLogger(__name__)


def fit(
    kind: Kind,
    examples: Sequence[Example],
    cache_dir: Path | None = None,
    encoder: Encoder | None = None,
) -> Classifier:
    """A classifier fitted on (text, label) pairs, from `cache_dir` if it holds this very fit.

    The directory is made when it is missing, and the newest eight fits are kept in it. A file that
    cannot be read is reported in the log and made anew. Raises ValueError without examples, and
    for the kind "embedding" without an encoder.
    """
    if kind == "embedding" and encoder is None:
        raise ValueError("a classifier by embedding needs an encoder; give one, or use lexical")
    if cache_dir is None:
        return _fit(kind, examples, encoder)
    path = cache_dir / f"{kind}-{_key(kind, examples, encoder)}.npz"
    cached = _load(path, encoder)
    if cached is not None:
        return cached
    classifier = _fit(kind, examples, encoder)
    cache_dir.mkdir(parents=True, exist_ok=True)
    _store(path, classifier)
    _prune(cache_dir)
    return classifier


def _fit(
    kind: Kind, examples: Sequence[Example], encoder: Encoder | None
) -> LexicalClassifier | EmbeddingClassifier:
    if kind == "embedding" and encoder is not None:
        return fit_embedding(examples, encoder)
    return fit_lexical(examples)


def _key(kind: Kind, examples: Sequence[Example], encoder: Encoder | None) -> str:
    of = encoder.id if kind == "embedding" and encoder is not None else ""
    content = json.dumps([kind, _VERSION, sorted(set(examples)), of])
    return hashlib.sha256(content.encode()).hexdigest()[:32]


def _store(path: Path, classifier: LexicalClassifier | EmbeddingClassifier) -> None:
    """Written whole or not at all, so that another process never reads half a file."""
    if isinstance(classifier, LexicalClassifier):
        table, calibration = classifier.model.table, classifier.model.calibration
        dense: dict[str, NDArray[np.float32]] = {}
    else:
        linear, calibration = classifier.model.linear, classifier.model.calibration
        table, dense = linear.table, {"mean": linear.mean, "dense": linear.weights}
    words = {
        "labels": classifier.labels,
        "keys": list(table.vocabulary.index),
        "calibration": msgspec.to_builtins(calibration),
    }
    text = np.frombuffer(json.dumps(words).encode(), np.uint8)
    numbers = {"weights": table.vocabulary.weights, "rows": table.rows, **dense}
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
        np.savez(file, allow_pickle=False, text=text, **numbers)
    os.replace(file.name, path)


class _Words(msgspec.Struct):
    labels: tuple[str, ...]
    keys: list[str]
    calibration: Calibration


def _load(path: Path, encoder: Encoder | None) -> Classifier | None:
    try:
        # Opened here, because numpy leaves a file that is no archive open.
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            return _restore(dict(arrays), encoder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile) as error:
        _log.warning("%s cannot be read (%s); fitting anew", path, error)
        return None


def _restore(arrays: Mapping[str, NDArray[Any]], encoder: Encoder | None) -> Classifier:
    words = msgspec.convert(json.loads(arrays["text"].tobytes()), _Words)
    classes, features = len(words.labels), len(words.keys)
    _expect(arrays, "weights", (features,))
    _expect(arrays, "rows", (features, classes + 1))
    index = {key: at for at, key in enumerate(words.keys)}
    table = Table(Vocabulary(index, arrays["weights"]), arrays["rows"])
    if encoder is None or "dense" not in arrays:
        return LexicalClassifier(LexicalModel(words.labels, table, words.calibration))
    _expect(arrays, "mean", (encoder.dim,))
    _expect(arrays, "dense", (encoder.dim, classes))
    linear = Linear(words.labels, arrays["mean"], arrays["dense"], table)
    return EmbeddingClassifier(EmbeddingModel(linear, words.calibration), encoder)


def _expect(arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, ...]) -> None:
    found = arrays[name]
    if found.shape != shape or found.dtype != np.float32:
        raise ValueError(f"'{name}' is {found.dtype}{list(found.shape)}, not float32{list(shape)}")


def _prune(directory: Path) -> None:
    fits = sorted(directory.glob("*.npz"), key=lambda path: path.stat().st_mtime, reverse=True)
    for stale in fits[_KEPT:]:
        stale.unlink(missing_ok=True)
