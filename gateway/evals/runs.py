"""What a run of a suite found, as files: `run.json`, and a line of `results.jsonl` for each answer.

    .switchboard/evals/SUITE/RUN/run.json
    .switchboard/evals/SUITE/RUN/results.jsonl

Lines stand in the order of the suite's cases, then targets, then repetitions, whatever order the
answers came in. A run that was interrupted has the lines that it got to, and is not `complete`.
"""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from gateway.errors import SwitchboardError

HOME = Path(".switchboard/evals")
"""Where runs are kept, from the configuration's directory."""


class RunError(SwitchboardError):
    """There is no such run, or it cannot be read; the text says which."""


class Result(msgspec.Struct, frozen=True):
    """One answer of a target to a case, and its scores by scorer; `right` None where none says.

    `error` is why there is no answer. Dollars of the answer, and of judging it; seconds.
    """

    case: str
    target: str
    rep: int
    input: str
    expected: str
    output: str
    error: str | None
    scores: dict[str, float]
    right: bool | None
    cost_usd: float
    judge_usd: float
    first_token_s: float | None
    total_s: float | None
    input_tokens: int
    output_tokens: int
    cached: bool = False


class Asked(msgspec.Struct, frozen=True):
    """A target of a run: what it answers as (`model`, with an adapter's digest), and what of the
    suite is its own. Of one that is asked in several ways, `target` is the way's name and `way_of`
    the target."""

    target: str
    model: str
    system: str | None = None
    prompt: str | None = None
    way_of: str | None = None


class Run(msgspec.Struct, frozen=True):
    """A run of a suite, with what is needed to make it again. Instants are Unix seconds.

    `right` is the scorer that says whether an answer is right; `judges` are those of the scorers by
    which a model judges. The hashes are SHA-256 in hex, of the suite's file, of its data, and of
    the configuration that answered.
    """

    id: str
    suite: str
    route: str | None
    suite_file: str
    suite_hash: str
    data_hash: str
    snapshot: str
    targets: tuple[Asked, ...]
    scorers: tuple[str, ...]
    right: str | None
    cases: int
    repetitions: int
    seed: int
    started: float
    finished: float | None
    complete: bool
    asked: int
    cached: int
    errors: int
    cost_usd: float
    judge_usd: float
    versions: dict[str, str]
    note: str = ""
    judges: tuple[str, ...] = ()


def new_id(started: float) -> str:
    """Of a run that began then: ids sort as runs began."""
    instant = time.strftime("%Y%m%d-%H%M%S", time.gmtime(started))
    return f"{instant}-{int(started * 1e3) % 1000:03}"


def write(home: Path, run: Run, results: Iterable[Result]) -> Path:
    """Writes a run's files below `home`; the directory. What was there of it is replaced."""
    folder = home / run.suite / run.id
    folder.mkdir(parents=True, exist_ok=True)
    lines = b"".join(msgspec.json.encode(each) + b"\n" for each in results)
    _whole(folder / "results.jsonl", lines)
    _whole(folder / "run.json", msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n")
    return folder


def _whole(path: Path, content: bytes) -> None:
    beside = path.with_suffix(path.suffix + ".new")
    beside.write_bytes(content)
    os.replace(beside, path)


def read(folder: Path) -> tuple[Run, list[Result]]:
    """A run and its results. Raises RunError."""
    try:
        run = msgspec.json.decode((folder / "run.json").read_bytes(), type=Run)
        lines = (folder / "results.jsonl").read_bytes().splitlines()
        return run, [_result(folder, n, line) for n, line in enumerate(lines, 1)]
    except FileNotFoundError as error:
        raise RunError(f"{folder} is no run: it has no {Path(error.filename).name}") from error
    except (OSError, msgspec.DecodeError) as error:
        raise RunError(f"{folder} cannot be read: {error}") from error


def _result(folder: Path, number: int, line: bytes) -> Result:
    try:
        return msgspec.json.decode(line, type=Result)
    except msgspec.DecodeError as error:
        raise RunError(f"{folder / 'results.jsonl'}:{number}: {error}") from error


def found(home: Path, name: str) -> Path:
    """The directory of a run: a path, `SUITE/RUN`, or `SUITE` for its latest; a suite's file is as
    good as its name. Raises RunError."""
    for folder in (Path(name), home / name):
        if (folder / "run.json").is_file():
            return folder
    asked = name
    if name.endswith((".yaml", ".yml")):
        asked = _named_in(Path(name)) or Path(name).stem
    runs = latest(home / asked)
    if runs:
        return runs[0]
    known = sorted({each.parents[1].name for each in home.glob("*/*/run.json")})
    there = f"there are runs of: {', '.join(known)}" if known else "there is none yet"
    raise RunError(f"there is no run '{name}' in {home}; {there}")


def _named_in(file: Path) -> str | None:
    """The name that a suite's file says it has."""
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    names = (line[5:].strip().strip("'\"") for line in lines if line.startswith("name:"))
    return next(names, None)


def latest(folder: Path) -> list[Path]:
    """The runs of a suite's directory, the latest first."""
    if not folder.is_dir():
        return []
    return sorted((each.parent for each in folder.glob("*/run.json")), reverse=True)


def named(run: Run) -> str:
    """What people and evidence call it."""
    return f"{run.suite}/{run.id}"


def lacking(run: Run) -> str:
    """Why a run is not complete; empty for one that is."""
    if run.complete:
        return ""
    failed = f"{run.errors} answers failed" if run.errors else ""
    return "; ".join(filter(None, (failed, run.note)))


def as_json(run: Run) -> dict[str, Any]:
    """For programs."""
    told: dict[str, Any] = msgspec.to_builtins(run)
    return told
