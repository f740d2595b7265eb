"""Runs a command so that nothing of it outlives whoever started it.

    python -I -S guard.py GRACE_S COMMAND...

The guard leads a process group of its own, and whatever the command starts is in it. Its standard
input is a pipe that the starter holds open: when that closes, however the starter ended, the group
is ended, first kindly. When the command ends by itself, what it left behind is ended, too. Only
what is quick to import is used: one guard runs for each server.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time

POLL_S = 0.05
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
NO_COMMAND = 127
"""The exit code where the command cannot be run, as shells have it."""


def main(grace_s: float, command: list[str]) -> int:
    """Runs the command; its exit code, or 128 more than the signal that ended it."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    _adopt_orphans()
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    except OSError as error:
        print(f"{command[0]} cannot be run: {error.strerror}", flush=True)
        return NO_COMMAND
    if told.is_set():  # it came before there was a command to hear it
        child.terminate()
    threading.Thread(target=_end_when_alone, args=(grace_s,), daemon=True).start()
    code = child.wait()
    _end_what_is_left(grace_s)
    return code if code >= 0 else 128 - code


def _adopt_orphans() -> None:
    """Workers whose own parent ends become the guard's children, so that it can wait for them."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_when_alone(grace_s: float) -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGTERM)
    time.sleep(grace_s)
    os.killpg(0, signal.SIGKILL)


def _end_what_is_left(grace_s: float) -> None:
    """Returns when no worker is left; stubborn ones take the guard with them."""
    until = time.monotonic() + grace_s
    if _has_children():
        os.killpg(0, signal.SIGTERM)
    while _has_children():
        if time.monotonic() > until:
            os.killpg(0, signal.SIGKILL)
        time.sleep(POLL_S)


def _has_children() -> bool:
    """Whether a child still runs; ended ones are reaped."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
