"""Processes that end with whoever started them, however that ended, and leave nothing behind.

Only the standard library is used, so that any Python can do it. Each process runs under a guard
(this file as a script): a small parent in a process group of its own, which takes in whatever its
child leaves behind and ends the whole group when its standard input, a pipe from the starter,
closes.
"""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

STOP_GRACE_S = 15.0
POLL_S = 0.05
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class DidNotStart(Exception):
    """A process ended, or said nothing of what was waited for; the text holds its log's end."""


class Guarded:
    """A running process with its group. `stop` it, or use it as a context manager."""

    def __init__(self, process: "subprocess.Popen[bytes]", log_path: Path | None) -> None:
        self.process = process
        self._log_path = log_path

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def is_running(self) -> bool:
        return self.process.poll() is None

    def wait_for_line(self, pattern: str, deadline_s: float = 60.0) -> str:
        """The first group of the first line that fits, as soon as it is printed.

        Raises DidNotStart when the process ends first or the deadline passes.
        """
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            running = self.is_running()
            if found := re.search(pattern, self.printed()):
                return found.group(1)
            if not running:
                raise DidNotStart(f"it ended with {self.process.returncode}: {self.log_end()}")
            time.sleep(POLL_S)
        raise DidNotStart(f"it did not start within {deadline_s:.0f} s: {self.log_end()}")

    def stop(self) -> None:
        """Ends the whole group, asking first; returns when none of it is left."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if not self._signal(number):
                break
            if wait_until_gone(self.process.pid, STOP_GRACE_S):
                break
        self._reap()

    def kill(self) -> None:
        """Ends the whole group at once, as a crash of its host would."""
        self._signal(signal.SIGKILL)
        self._reap()

    def printed(self) -> str:
        """All that it has printed so far; nothing where it prints to our own output."""
        return self._log_path.read_text(errors="replace") if self._log_path else ""

    def log_end(self) -> str:
        """The last lines of what it has printed, and where the rest is."""
        lines = [line for line in self.printed().splitlines() if line.strip()]
        return f"the end of {self._log_path}:\n  " + "\n  ".join(lines[-15:])

    def _reap(self) -> None:
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()

    def _signal(self, number: signal.Signals) -> bool:
        try:
            os.killpg(self.process.pid, number)
        except ProcessLookupError:
            return False
        return True


def popen(
    command: Sequence[str], *, log_path: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """The guard's process, whose id is its group's; it prints to `log_path`, or where we print."""
    guarded = [sys.executable, "-P", __file__, *command]
    if log_path is None:
        return _popen(guarded, None, env)
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with log_path.open("wb") as log:
        return _popen(guarded, log.fileno(), env)


def launch(
    command: Sequence[str], *, log_path: Path | None = None, env: Mapping[str, str] | None = None
) -> Guarded:
    """Starts a command and returns at once. `env` is the whole environment; ours unless given."""
    return Guarded(popen(command, log_path=log_path, env=env), log_path)


def members(group: int) -> list[int]:
    """The processes of a process group that still run; ended ones not yet reaped are left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        if int(fields[2]) == group and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found


def wait_until_gone(group: int, deadline_s: float) -> bool:
    """True as soon as no process of the group runs, False when some still do at the deadline."""
    until = time.monotonic() + deadline_s
    while members(group):
        if time.monotonic() > until:
            return False
        time.sleep(POLL_S)
    return True


def _popen(
    guarded: Sequence[str], out: int | None, env: Mapping[str, str] | None
) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        guarded,
        env=env,
        stdin=subprocess.PIPE,
        stdout=out,
        stderr=None if out is None else subprocess.STDOUT,
        start_new_session=True,  # ctrl-C is for the starter, which ends this in its turn
    )


# ---------------------------------------------------------------- the guard's own process


def guard(command: Sequence[str]) -> int:
    """Runs a command and gives its exit status; nothing of its group is left by then."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    _take_in_orphans()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    if told:  # before there was a command to hear it; later ones reach it with the group
        child.terminate()
    threading.Thread(target=_end_when_alone, daemon=True).start()
    status = child.wait()
    if _reap_children(block=False):
        threading.Thread(target=_end_group, daemon=True).start()
        _reap_children(block=True)
    return status if status >= 0 else 128 - status


def _take_in_orphans() -> None:
    """Workers whose own parent ends become ours, so that each is waited for."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap_children(*, block: bool) -> bool:
    """Takes note of every ended child; True while there are running ones."""
    try:
        while os.waitpid(-1, 0 if block else os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _end_when_alone() -> None:
    os.read(0, 1)  # not sys.stdin: its lock would be held when the interpreter ends
    _end_group()


def _end_group() -> None:
    os.killpg(0, signal.SIGTERM)
    time.sleep(STOP_GRACE_S)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(guard(sys.argv[1:]))
