"""The demo as a process, on stand-ins: its sums are the log's, and it leaves nothing behind."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo import processes, questions, run, show
from demo.processes import Guarded
from gateway.store.reader import Reader
from gateway.store.store import Store

ROOT = Path(__file__).parents[2]
GONE_S = 40.0
RESULT = r"^(\S+) +\d+ of (\d+) \(\d+%\) +([\d.]+)"


@contextmanager
def demonstrating(folder: Path, *more: str) -> Iterator[Guarded]:
    """The demo in a process group of its own, as a shell starts it."""
    log_path = folder / "demo.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "demo.run", "--stand-ins", *more],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield Guarded(process, log_path)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def groups_under(pid: int) -> set[int]:
    """The process groups of a process and of all that it has started, however deep."""
    parents: dict[int, list[tuple[int, int]]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        parents.setdefault(int(fields[1]), []).append((int(stat.parent.name), int(fields[2])))
    found, open_ = {os.getpgid(pid)}, [pid]
    while open_:
        for child, group in parents.get(open_.pop(), ()):
            found.add(group)
            open_.append(child)
    return found


def sums_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, tuple[int, str]]:
    """How many requests each model was asked, and dollars for a thousand of them, by the log."""
    costs: dict[str, list[float]] = {}
    for row in rows:
        costs.setdefault(row["model"], []).append(row["cost_usd"])
    return {
        model: (len(each), f"{sum(each) / len(each) * 1000:.4f}") for model, each in costs.items()
    }


def parts_of(store_url: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The log's rows of the first part, where everything is asked, and of the second."""
    store = Store.open(store_url)
    rows = Reader(store).recent(limit=None)
    store.close()
    first = 3 * len(questions.questions())
    return rows[:first], rows[first:]


def shown_in(printed: str, row: str) -> dict[str, tuple[int, str]]:
    """What a table's rows say: the name, how many were asked, dollars for a thousand of them."""
    return {name: (int(of), usd) for name, of, usd in re.findall(row, printed, re.MULTILINE)}


def test_its_totals_are_those_of_the_gateways_rows_and_ctrl_c_leaves_nothing(
    tmp_path: Path,
) -> None:
    with demonstrating(tmp_path, "--keep") as demo:
        store_url = demo.wait_for_line(r"log --store (\S+)\n", 120)
        printed = demo.printed()
        everything, notes = parts_of(store_url)
        shown = shown_in(printed, rf"{RESULT} +\S+ +\d+$")
        assert set(shown) == {run.AUTO, run.COMMERCIAL, run.BASE}
        assert shown == sums_of(everything)
        of_notes = shown_in(printed, rf"{RESULT} +\S+% +\d+% +\d+$")
        assert set(of_notes) == {*shown, run.CASCADE}
        assert of_notes == sums_of(notes)
        table = [
            line
            for line in printed.splitlines()
            if re.search(r" (right|wrong) +[\d.]+ +\d+$", line)
        ]
        assert len(table) == shown[run.AUTO][0]
        assert max(len(line) for line in table) <= show.WIDTH
        groups = groups_under(demo.process.pid)
        assert len(groups) == 4  # the demo, two stand-ins, the gateway
        os.killpg(demo.process.pid, signal.SIGINT)
        assert demo.process.wait(GONE_S) == 128 + signal.SIGINT
        assert [group for group in groups if processes.members(group)] == []
        assert [path.name for path in tmp_path.iterdir()] == ["demo.log"]
        assert "Traceback" not in demo.printed()


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (lambda pid: os.kill(pid, signal.SIGTERM), 128 + signal.SIGTERM),
        (lambda pid: os.kill(pid, signal.SIGKILL), -signal.SIGKILL),
    ],
    ids=["terminated", "killed"],
)
def test_however_it_ends_in_the_middle_nothing_is_left(
    tmp_path: Path, end: Callable[[int], None], status: int
) -> None:
    with demonstrating(tmp_path) as demo:
        demo.wait_for_line(r"(requests to auto)", 120)
        groups = groups_under(demo.process.pid)
        assert len(groups) == 4
        end(demo.process.pid)
        assert demo.process.wait(GONE_S) == status
        for group in groups:
            assert processes.wait_until_gone(group, GONE_S)
