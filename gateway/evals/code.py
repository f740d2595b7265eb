"""Code that a model wrote, run to see whether it works.

It runs as a process of its own: Python without site packages, in an empty directory that is removed
afterwards, without the environment's variables, without network (a namespace of its own), with
limits on CPU time, memory, the size and number of files, and is killed with whatever it
has started when its time is over. It is no wall against somebody who attacks the kernel, and it can
read what this user can read. Run suites of untrusted models in a container of their own.
"""

import asyncio
import contextlib
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.evals.scoring import ScorerError

_FENCED = re.compile(r"```[a-zA-Z]*\n(?P<code>.*?)```", re.DOTALL)
_FIELD = re.compile(r"\{(\w+)\}")
FILES, FILE_BYTES = 64, 16 << 20
TOLD = 2000
"""Characters of what went wrong that are kept."""


def code_in(said: str) -> str:
    """The code of an answer: what is in its first fence, or all of it."""
    fenced = _FENCED.search(said)
    return fenced["code"] if fenced else said


def program(template: str, said: str, fields: Mapping[str, str]) -> str:
    """What is run: the template with the answer's code as `{output}` and the case's fields.

    Other braces stay as they are.
    """
    known = {**fields, "output": code_in(said)}
    return _FIELD.sub(lambda found: known.get(found[1], found[0]), template)


async def works(source: str, timeout_s: float, memory: int) -> tuple[bool, str]:
    """Whether it ends with 0 in that time, and the end of what it said on the error output.

    Raises ScorerError where processes cannot be cut off from the network here.
    """
    cut_off = _without_network()
    folder = Path(tempfile.mkdtemp(prefix="switchboard-code-"))
    try:
        (folder / "main.py").write_text(source, "utf-8", errors="replace")
        process = await asyncio.create_subprocess_exec(
            *cut_off,
            sys.executable,
            "-I",
            "-S",
            "main.py",
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "TMPDIR": str(folder)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_limited(timeout_s, memory),
        )
        return await _watched(process, timeout_s)
    finally:
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
        return False, f"not done after {timeout_s:g} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    return process.returncode == 0, said.decode(errors="replace")[-TOLD:]


def _limited(timeout_s: float, memory: int) -> Callable[[], None]:
    cpu = int(timeout_s) + 1

    def limit() -> None:
        for what, most in (
            (resource.RLIMIT_CPU, cpu),
            (resource.RLIMIT_AS, memory),
            (resource.RLIMIT_FSIZE, FILE_BYTES),
            (resource.RLIMIT_NOFILE, FILES),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(what, (most, most))

    return limit


def _without_network() -> list[str]:
    """The command that runs another in a network namespace of its own. Raises ScorerError."""
    unshare = shutil.which("unshare")
    if unshare is None:
        raise ScorerError(
            "a scorer by code needs the command `unshare` (util-linux), to cut what it runs off"
            " from the network"
        )
    return [
        unshare,
        "--user",
        "--map-current-user",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
        "--",
    ]
