"""Code that a model wrote, run to see whether it works.

It runs as a process of its own: Python without site packages, in a room (`jail.py`) that holds
Python, the system's libraries, an empty directory and nothing else of this machine, without the
environment's variables, without network, with limits on CPU time, memory, disk and processes, and
is killed with whatever it has started when its time is over. It is no wall against somebody who
attacks the kernel.
"""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.evals import jail
from gateway.evals.scoring import ScorerError

_FENCED = re.compile(r"```[a-zA-Z]*\n(?P<code>.*?)```", re.DOTALL)
_FIELD = re.compile(r"\{(\w+)\}")
_ALONE = re.compile(r"^\{output\}[ \t]*$", re.MULTILINE)
_ENDS_ITSELF = re.compile(r"exit|unittest")
MARK = f"__import__('os').write({jail.REPORTS}, b'P')  # not ended before"
"""What stands behind an answer's code: one that ends the program itself has not passed."""
FILES, FILE_BYTES, DISK, PROCESSES = 64, 16 << 20, 64 << 20, 32
LATE = "not done after"
TOLD = 2000
"""Characters of what went wrong that are kept."""


_numbers = itertools.count(os.getpid() * 64)


def code_in(said: str) -> str:
    """The code of an answer: what is in its first fence, or all of it."""
    fenced = _FENCED.search(said)
    return fenced["code"] if fenced else said


def program(template: str, said: str, fields: Mapping[str, str]) -> str:
    """What is run: the template with the answer's code as `{output}` and the case's fields.

    Other braces stay as they are. The end has to be got to (`MARK`); of a template that may end the
    program itself, what stands below a line with `{output}` alone.
    """
    if _ENDS_ITSELF.search(template):
        template = _ALONE.sub(lambda found: f"{found[0]}\n{MARK}", template)
    else:
        template = f"{template}\n{MARK}\n"
    known = {**fields, "output": code_in(said)}
    return _FIELD.sub(lambda found: known.get(found[1], found[0]), template)


async def works(source: str, timeout_s: float, memory: int) -> tuple[bool, str]:
    """Whether it ends with 0 in that time, and the end of what it said on the error output.

    Raises ScorerError where no room can be made for it here.
    """
    folder = Path(tempfile.mkdtemp(prefix="switchboard-code-"))
    reports, reported = os.pipe2(os.O_NONBLOCK)
    try:
        (folder / "main.py").write_text(source, "utf-8", errors="replace")
        (folder / "room.json").write_bytes(_room(folder, reported, timeout_s, memory))
        try:
            process = await asyncio.create_subprocess_exec(
                *(_python(), "-I", "-S", jail.__file__, str(folder / "room.json")),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
                pass_fds=(reported,),
                env={},
            )
            worked, said = await _watched(process, timeout_s)
        finally:
            os.close(reported)
        with contextlib.suppress(BlockingIOError):
            told = os.read(reports, 4096)
            if told.startswith(jail.READY):
                if worked and MARK in source and b"P" not in told:
                    return False, "the answer ended the program before it was checked"
                return worked, said
        if said.startswith(LATE):
            return False, said
        raise ScorerError(
            f"no room can be made here for code that is run: {said.strip()}; it needs namespaces of"
            " its own: in a container `--cap-add SYS_ADMIN`, elsewhere the right to make user"
            " namespaces (the sysctls kernel.unprivileged_userns_clone and"
            " kernel.apparmor_restrict_unprivileged_userns)"
        )
    finally:
        os.close(reports)
        shutil.rmtree(folder, ignore_errors=True)


async def _watched(process: asyncio.subprocess.Process, timeout_s: float) -> tuple[bool, str]:
    assert process.stderr is not None
    said = b""
    try:
        async with asyncio.timeout(timeout_s):
            while piece := await process.stderr.read(65_536):
                said = (said + piece)[-4 * TOLD :]
            await process.wait()
    except TimeoutError:
        return False, f"{LATE} {timeout_s:g} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return process.returncode == 0, said.decode(errors="replace")[-TOLD:]


def _room(folder: Path, reports: int, timeout_s: float, memory: int) -> bytes:
    return msgspec.json.encode(
        {
            "at": str(folder),
            "reports": reports,
            "python": _python(),
            "prefix": sys.base_prefix,
            "number": next(_numbers) % 1_000_000,
            "disk": DISK,
            "limits": {
                "RLIMIT_CPU": int(timeout_s) + 1,
                "RLIMIT_AS": memory,
                "RLIMIT_FSIZE": FILE_BYTES,
                "RLIMIT_NOFILE": FILES,
                "RLIMIT_NPROC": PROCESSES,
                "RLIMIT_CORE": 0,
            },
        }
    )


def _python() -> str:
    """The interpreter itself, outside of any virtual environment."""
    found: str = getattr(sys, "_base_executable", "") or sys.executable
    return os.path.realpath(found)
