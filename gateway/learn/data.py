"""Prompts with what each of several models scored on them, and what that cost.

Read are RouteLLM's folders (`mmlu/responses/*.csv`, `gsm8k/gsm8k_responses.csv`, with the prompts
of `contaminated_prompts.jsonl` dropped) and any CSV that has a column `prompt` and one of scores
from 0 to 1 (or `True` and `False`) for each model. What an answer cost, in dollars, stands in a
column named after its model, such as `NAME|total_cost`, `NAME_cost` or `NAME cost`; where there is
none, prices are given with the command, and for RouteLLM's pair they are known. A row without a
cost has the mean of its model's. A CSV with the columns `prompt`, `model` and `score`, and perhaps
`cost`, has one answer a row. Prompts without a score of some model are left out, and counted.
"""

import csv
import json
import math
from collections import Counter
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
PER_TOKEN = {
    "gpt-4-1106-preview": 24.7e-6,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": 0.24e-6,
}
"""Dollars a token, of input and output together, as RouteLLM states them (Ong et al. 2024,
arXiv:2406.18665v4, section 5.4 and appendix D): GPT-4's is (95 x $10 + 264 x $30) a million / 359,
by its prices then and their prompts' and answers' mean tokens; Mixtral's is the same both ways."""
CHARACTERS = 4.0
"""Characters a token, where only the text is there to count."""
LONG = ("prompt", "model", "score")
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
    pools = _read(path, prices)
    models = list(dict.fromkeys(model for pool in pools for model in pool.models))
    unknown = [name for name in prices if name not in models]
    if unknown:
        raise DataError(
            f"a price is given of {', '.join(unknown)}; the models are: {', '.join(models)}"
        )
    return pools


def _read(path: Path, prices: Mapping[str, float]) -> list[Pool]:
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
        if set(LONG) <= set(columns):
            return _long(name, path, prices)
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
    cost = _filled(np.array(costs))
    return Pool(name, tuple(prompts), tuple(models), np.array(scores), cost, left_out)


def _filled(cost: Matrix) -> Matrix:
    """Costs that are not there are their model's mean, if there is one."""
    there = ~np.isnan(cost)
    means = np.where(there, cost, 0.0).sum(axis=0) / np.maximum(there.sum(axis=0), 1)
    found: Matrix = np.where(there | ~there.any(axis=0), cost, means)
    return found


def _long(name: str, path: Path, prices: Mapping[str, float]) -> Pool:
    """One answer a row; several of one model to one prompt count by their mean."""
    answers: dict[str, dict[str, list[tuple[float, float]]]] = {}
    models: dict[str, None] = {}
    for place, row in _rows(path):
        model, costs = row["model"], row.get("cost") or ""
        models.setdefault(model)
        score = _score(place, model, row["score"])
        price = prices.get(model)
        cost = _dollars(place, model, costs) if price is None else price
        of = answers.setdefault(row["prompt"], {})
        if not math.isnan(score):
            of.setdefault(model, []).append((score, cost))
    if len(models) < 2:
        raise DataError(f"{path}: scores of two models or more are needed; found: {list(models)}")
    whole = {prompt: of for prompt, of in answers.items() if len(of) == len(models)}
    if len(whole) < 2:
        raise DataError(f"{path} has no two prompts with a score of every model")
    means = np.array(
        [[np.mean(of[model], axis=0) for model in models] for of in whole.values()], float
    )
    paid = {
        model: [cost for of in answers.values() for _, cost in of.get(model, []) if cost == cost]
        for model in models
    }
    usual = np.array([np.mean(costs) if costs else math.nan for costs in paid.values()])
    filled: Matrix = np.where(np.isnan(means[:, :, 1]), usual, means[:, :, 1])
    left_out = len(answers) - len(whole)
    return Pool(name, tuple(whole), tuple(models), means[:, :, 0], filled, left_out)


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
    asked = [
        name
        for name in columns
        if name not in named and name != "prompt" and not any(part in name for part in NO_MODEL)
    ]
    good, bad = Counter[str](), Counter[str]()
    rows = 0
    for _, row in _rows(path):
        rows += 1
        for name in asked:
            if text := (row.get(name) or "").strip():
                (good if _is_score(text) else bad)[name] += 1
    if not rows:
        raise DataError(f"{path} has no rows")
    # One that is wrong in most rows is something else; one wrong here and there is a mistake.
    found = [name for name in asked if good[name] and good[name] >= bad[name]]
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


def _is_score(text: str) -> bool:
    try:
        return 0.0 <= _number(text) <= 1.0
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
    if column is not None:
        return _dollars(place, model, row[column])
    if model not in PER_TOKEN:
        return math.nan
    answer = row.get(f"{model}_response") or ""
    return PER_TOKEN[model] * (len(row["prompt"]) + max(len(answer), CHARACTERS)) / CHARACTERS


def _dollars(place: str, model: str, text: str | None) -> float:
    """NaN for nothing."""
    if not (text or "").strip():
        return math.nan
    try:
        value = float(text or "")
    except ValueError:
        value = -1.0
    if not 0.0 <= value < math.inf:
        raise DataError(f"{place}: `{text}` is no cost of {model}")
    return value
