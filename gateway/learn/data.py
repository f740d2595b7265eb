"""Prompts with what each of several models scored on them, and what that cost.

Read are RouteLLM's folders (`mmlu/responses/*.csv`, `gsm8k/gsm8k_responses.csv`, with the prompts
of `contaminated_prompts.jsonl` dropped) and any CSV that has a column `prompt` and one of scores
from 0 to 1 (or `True` and `False`) for each model. What an answer cost, in dollars, stands in a
column named after its model, such as `NAME|total_cost`, `NAME_cost` or `NAME cost`; where there is
none, prices are given with the command. Rows without a score of some
model are left out, and counted.
"""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from gateway.errors import SwitchboardError
from gateway.learn.curves import Matrix

COSTS = ("|total_cost", "_cost", " cost", "|cost", ":cost")
NO_MODEL = ("|", "_response", " response")
"""What a column's name has that is of no score."""
FOLDERS = {"mmlu": "responses", "gsm8k": ""}
_WORDS = {"true": 1.0, "false": 0.0}

csv.field_size_limit(1 << 27)


class DataError(SwitchboardError):
    """The data cannot be used; the text says where and why."""


class Pool(msgspec.Struct, frozen=True):
    """Prompts, the models, and two matrices [prompts, models]: scores, and dollars an answer."""

    name: str
    prompts: tuple[str, ...]
    models: tuple[str, ...]
    quality: Matrix
    cost: Matrix
    left_out: int = 0


def read(path: Path, prices: Mapping[str, float]) -> list[Pool]:
    """The pools of a folder in RouteLLM's layout, or the one of a CSV. Raises DataError."""
    if path.is_file():
        return [_pool(path.stem, [path], frozenset(), prices)]
    pools = []
    for name, below in FOLDERS.items():
        folder = path / name
        if not folder.is_dir():
            continue
        files = sorted((folder / below).glob("*.csv"))
        if not files:
            raise DataError(f"{folder / below} has no CSV files")
        pools.append(_pool(name, files, _contaminated(folder), prices))
    if not pools:
        raise DataError(f"{path} is neither a CSV file nor a folder with mmlu/ or gsm8k/ in it")
    return pools


def _contaminated(folder: Path) -> frozenset[str]:
    path = folder / "contaminated_prompts.jsonl"
    if not path.exists():
        return frozenset()
    return frozenset(json.loads(line)["eval_prompt"] for line in path.open(encoding="utf-8"))


def _pool(
    name: str, files: Sequence[Path], drop: frozenset[str], prices: Mapping[str, float]
) -> Pool:
    prompts: list[str] = []
    scores: list[list[float]] = []
    costs: list[list[float]] = []
    models: list[str] = []
    left_out = 0
    for path in files:
        columns = _columns(path)
        found = _models(path, columns)
        if models and found != models:
            raise DataError(f"{path} is of the models {found}, the files before of {models}")
        models = found
        for place, row in _rows(path):
            if row["prompt"] in drop:
                continue
            values = [_score(place, model, row[model]) for model in models]
            if any(math.isnan(value) for value in values):
                left_out += 1
                continue
            prompts.append(row["prompt"])
            scores.append(values)
            costs.append([_cost(place, model, columns, row, prices) for model in models])
    if len(prompts) < 2:
        raise DataError(f"{files[0]} has no two rows with a score of every model")
    return Pool(name, tuple(prompts), tuple(models), np.array(scores), np.array(costs), left_out)


def _columns(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            columns = next(csv.reader(file), None)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if columns is None:
        raise DataError(f"{path} is empty")
    return columns


def _models(path: Path, columns: Sequence[str]) -> list[str]:
    """The columns of scores: those that are no prompt, cost or response, and hold numbers."""
    if "prompt" not in columns:
        raise DataError(f"{path}:1: there is no column `prompt`; there are: {', '.join(columns)}")
    named = {name for model in columns for end in COSTS if (name := model + end) in columns}
    first = next(_rows(path), None)
    if first is None:
        raise DataError(f"{path} has no rows")
    found = [
        name
        for name in columns
        if name not in named
        and name != "prompt"
        and not any(part in name for part in NO_MODEL)
        and _is_score(first[1].get(name))
    ]
    if len(found) < 2:
        raise DataError(f"{path}:1: scores of two models or more are needed; found: {found}")
    return found


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            for row in reader:
                yield f"{path}:{reader.line_num}", row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error


def _is_score(text: str | None) -> bool:
    try:
        return text is None or text == "" or 0.0 <= _number(text) <= 1.0
    except ValueError:
        return False


def _number(text: str) -> float:
    word = _WORDS.get(text.strip().lower())
    return float(text) if word is None else word


def _score(place: str, model: str, text: str | None) -> float:
    if text is None or not text.strip():
        return math.nan
    try:
        value = _number(text)
    except ValueError:
        raise DataError(f"{place}: `{text}` is no score of {model}") from None
    if not 0.0 <= value <= 1.0:
        raise DataError(f"{place}: the score of {model} is {text}; it must be from 0 to 1")
    return value


def _cost(
    place: str,
    model: str,
    columns: Sequence[str],
    row: Mapping[str, str],
    prices: Mapping[str, float],
) -> float:
    if model in prices:
        return prices[model]
    column = next((model + end for end in COSTS if model + end in columns), None)
    if column is None:
        return math.nan
    try:
        return float(row[column])
    except (ValueError, TypeError):
        raise DataError(f"{place}: `{row[column]}` is no cost of {model}") from None
