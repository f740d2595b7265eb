"""A guarded process: its words, its status, and nothing of its group left when it has ended."""

import os
import sys
from pathlib import Path

import pytest

from demo import processes

FORKS_AND_ENDS = """
import os, sys, time
if os.fork() == 0:
    time.sleep(600)
print("forked", flush=True)
sys.exit(7)
"""


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    log_path = tmp_path / "it.log"
    with processes.launch([sys.executable, "-c", FORKS_AND_ENDS], log_path=log_path) as guarded:
        assert guarded.wait_for_line("(forked)") == "forked"
        assert guarded.process.wait(30) == 7
        assert processes.members(guarded.process.pid) == []


def test_the_environment_is_the_one_given(tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "COLOUR": "green"}
    command = [sys.executable, "-c", "import os; print('it is', os.environ['COLOUR'])"]
    with processes.launch(command, log_path=tmp_path / "it.log", env=env) as guarded:
        assert guarded.wait_for_line(r"it is (\w+)") == "green"


def test_one_that_ends_before_it_says_the_word_is_told_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no such door')"]
    with (
        processes.launch(command, log_path=tmp_path / "it.log") as guarded,
        pytest.raises(processes.DidNotStart, match=r"ended with 1: (?s:.*)no such door"),
    ):
        guarded.wait_for_line("(ready)")


def test_one_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    with processes.launch(command, log_path=tmp_path / "it.log") as guarded:
        with pytest.raises(processes.DidNotStart, match="did not start within 0 s"):
            guarded.wait_for_line("(ready)", 0.2)
        assert guarded.is_running()
    assert processes.members(guarded.process.pid) == []
