"""What an answer is worth beside the one that was wanted, from 0 to 1. Pure but for libraries.

| kind | score |
|---|---|
| exact, normalised, contains, regex | 1 or 0 |
| number | 1 where the last number said is the expected one, within a tolerance |
| schema | 1 where the answer is JSON that fits a schema |
| fields | F1 of the leaf fields of a JSON answer: path and value both as expected |
| bleu | sacreBLEU's sentence BLEU, over 100 |
| rouge | ROUGE-L's F-measure |
| similarity | cosine of the sentence encoder's vectors, negatives as 0 |
| code, judge, python | elsewhere: they need a process, a model, or a function |
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from gateway.config.json_schemas import checked

Score = Callable[[str, str], float]
"""(what was said, what was expected) -> 0 to 1."""

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_FENCE = re.compile(r"\A\s*```[a-zA-Z]*\n(?P<inside>.*?)\n?```\s*\Z", re.DOTALL)


def exact(said: str, expected: str) -> float:
    """But for space around it."""
    return float(said.strip() == expected.strip())


def same_words(said: str, expected: str) -> float:
    """But for case, punctuation and spaces."""
    return float(normalised(said) == normalised(expected))


def contains(said: str, expected: str) -> float:
    """The expected stands in it."""
    return float(expected in said)


def matches(said: str, expected: str) -> float:
    """The expected is a pattern that the whole of it matches."""
    return float(re.fullmatch(expected, said.strip(), re.DOTALL) is not None)


def normalised(text: str) -> str:
    """Without case, punctuation and more than one space in a row."""
    words = text.casefold().translate(str.maketrans("", "", string.punctuation)).split()
    return " ".join(words)


def number(absolute: float, relative: float) -> Score:
    """The last number that is said is the expected one, within either tolerance."""

    def score(said: str, expected: str) -> float:
        found, wanted = number_in(said), number_in(expected)
        if found is None or wanted is None:
            return 0.0
        return float(abs(found - wanted) <= max(absolute, relative * abs(wanted)))

    return score


def number_in(text: str) -> float | None:
    """The last number in a text, thousands by commas or not."""
    found = _NUMBER.findall(text)
    return float(found[-1].replace(",", "")) if found else None


def json_in(said: str) -> Any:
    """The JSON value that an answer is, out of a code fence if it is in one.

    Raises msgspec.DecodeError.
    """
    fenced = _FENCE.match(said)
    return msgspec.json.decode(fenced["inside"] if fenced else said)


def fits(schema: dict[str, Any]) -> Score:
    """The answer is JSON that fits the schema.

    References lead within it; nothing is fetched. Raises ValueError for what is no schema, or
    refers to what is not there.
    """
    from jsonschema.validators import validator_for
    from referencing.jsonschema import EMPTY_REGISTRY

    checked(schema)
    validator = validator_for(schema)(schema, registry=EMPTY_REGISTRY)

    def score(said: str, expected: str) -> float:
        try:
            return float(validator.is_valid(json_in(said)))
        except (msgspec.DecodeError, RecursionError):
            return 0.0

    return score


def field_f1(said: str, expected: str) -> float:
    """F1 = 2 x right / (said + expected), over (path, value) of the leaves of both JSON values.

    Items of a list are told apart by their value, not their place.
    """
    try:
        found, wanted = Counter(leaves(json_in(said))), Counter(leaves(json_in(expected)))
    except (msgspec.DecodeError, RecursionError):
        return 0.0
    both, either = (found & wanted).total(), found.total() + wanted.total()
    return 1.0 if either == 0 else 2.0 * both / either


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of a JSON value, with the path to it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from leaves(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from leaves(inner, f"{path}[]")
    else:
        yield path, normalised(value) if isinstance(value, str) else repr(value)


def bleu(said: str, expected: str) -> float:
    """sacreBLEU of one sentence, with its effective order; 0 to 1."""
    from sacrebleu.metrics.bleu import BLEU

    return float(BLEU(effective_order=True).sentence_score(said, [expected]).score) / 100.0


def rouge(said: str, expected: str) -> float:
    """ROUGE-L's F-measure of words: 2 x LCS / (words said + words expected), by Lin (2004).

    Our own, as the library of that name that can be had as a wheel counts each word once.
    """
    one, other = normalised(said).split(), normalised(expected).split()
    if not one or not other:
        return 0.0
    return 2.0 * _common(one, other) / (len(one) + len(other))


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(other) + 1)
    for word in one:
        diagonal = 0
        for place, against in enumerate(other, 1):
            above = row[place]
            row[place] = diagonal + 1 if word == against else max(above, row[place - 1])
            diagonal = above
    return row[-1]
