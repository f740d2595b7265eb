"""Makes `.vllm/`: the demo's own environment with a real vLLM for CPUs.

    python3 demo/vllm_env.py

Everything is pinned with hashes in `vllm-requirements.lock`, and comes through plain pip as the
user has set it up. A second run with the same lock is instant. Exit codes: 0 ready, 3 vLLM cannot
be had on this machine (the reason is printed).
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEMO = Path(__file__).resolve().parent
LOCK = DEMO / "vllm-requirements.lock"
HOME = DEMO.parent / ".vllm"
STAMP = HOME / ".ready"
LOG = HOME / "install.log"
PYTHON = HOME / "bin" / "python"

CANNOT = 3
NEEDED_GB = 5.0  # the environment itself is 2.5 GB; downloads pass through the same disk
CHECK = "import torch, transformers, peft, vllm; print('torch', torch.__version__)"


class CannotInstall(Exception):
    """vLLM cannot be had here; the text says why and what would mend it."""


def fingerprint() -> str:
    """What the environment is made from: a change of any part makes it anew."""
    parts = (LOCK.read_bytes(), b"3.11", str(HOME.resolve()).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def is_ready(wanted: str) -> bool:
    return PYTHON.exists() and STAMP.exists() and STAMP.read_text().strip() == wanted


def why_not() -> str | None:
    """The reason that this machine cannot have it, known before anything is downloaded."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        return f"the locked wheels are for Linux on x86_64; this is {system} on {machine}"
    if sys.version_info[:2] != (3, 11):
        return (
            f"the locked wheels are for Python 3.11; this is {platform.python_version()} and no "
            "python3.11 is on the PATH: install it, or call this script with it"
        )
    if HOME.is_symlink():
        return (
            f"{HOME} is a link to {HOME.resolve()}, which others may use and is of another lock: "
            "make it anew there, or remove the link"
        )
    free = shutil.disk_usage(DEMO.parent).free / 1e9
    if free < NEEDED_GB:
        return f"{free:.1f} GB are free under {DEMO.parent}; {NEEDED_GB:.0f} GB are needed"
    return None


@contextmanager
def alone() -> Iterator[None]:
    """Two runs at once would tear down each other's work: the second waits for the first."""
    handle = os.open(DEMO, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another run is installing vLLM: waiting for it", flush=True)
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def pins() -> int:
    return sum(1 for line in LOCK.read_text().splitlines() if "==" in line and line[0].isalpha())


def install() -> None:
    """Fetches and installs the locked packages, with a line of progress as pip goes.

    Raises CannotInstall with the end of pip's words.
    """
    command = [
        str(PYTHON), "-m", "pip", "install", "--no-deps", "--require-hashes",
        "--only-binary", ":all:", "--progress-bar", "off", "--disable-pip-version-check",
        "-r", str(LOCK),
    ]  # fmt: skip
    total, seen, tail = pins(), 0, [""]
    with (
        LOG.open("w") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as pip,
    ):
        assert pip.stdout is not None
        for line in pip.stdout:
            log.write(line)
            if not line.startswith("WARNING"):
                tail = [*tail[-8:], line.rstrip()]
            if line.startswith(("Collecting ", "Processing ")):
                seen += 1
                if seen % 25 == 0 or seen == total:
                    print(f"    {seen} of {total} packages fetched", flush=True)
            elif line.startswith("Installing collected"):
                print("    installing them", flush=True)
    if pip.returncode != 0:
        words = "\n    ".join(tail)
        raise CannotInstall(f"pip ended with {pip.returncode} (all of it in {LOG}):\n    {words}")


def check() -> None:
    """Imports what the demo needs. Raises CannotInstall when an import fails."""
    done = subprocess.run([PYTHON, "-P", "-c", CHECK], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CannotInstall(f"installed, but it does not import:\n{done.stderr[-2000:]}")


def make(wanted: str) -> None:
    if reason := why_not():
        raise CannotInstall(reason)
    began = time.monotonic()
    print(f"==> vLLM (CPU) into {HOME}: about 2.5 GB, two to three minutes", flush=True)
    STAMP.unlink(missing_ok=True)
    try:
        venv.EnvBuilder(clear=True, with_pip=True).create(HOME)
    except (subprocess.CalledProcessError, OSError) as error:
        raise CannotInstall(f"no environment can be made in {HOME}: {error}") from error
    install()
    print("    first import", flush=True)
    check()
    STAMP.write_text(wanted + "\n")
    print(f"    ready in {time.monotonic() - began:.0f} s", flush=True)


def with_fitting_python() -> None:
    """Starts over under python3.11 when this Python is another and that one is at hand."""
    fitting = shutil.which("python3.11")
    if sys.version_info[:2] != (3, 11) and fitting:
        os.execv(fitting, [fitting, str(Path(__file__).resolve()), *sys.argv[1:]])


def main() -> int:
    with_fitting_python()
    with alone():
        wanted = fingerprint()
        if is_ready(wanted):
            STAMP.touch()  # make compares times: a checkout may leave the lock newer
            return 0
        try:
            make(wanted)
        except CannotInstall as reason:
            print(f"vLLM cannot be installed: {reason}", file=sys.stderr)
            return CANNOT
    return 0


if __name__ == "__main__":
    sys.exit(main())
