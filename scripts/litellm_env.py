"""Makes `.litellm/`, the environment that litellm's process runs in; nothing else lives there.

    python scripts/litellm_env.py           makes it, or brings it to the lock; else does nothing
    python scripts/litellm_env.py --lock    locks anew, with hashes, what litellm.in asks for

litellm pins older majors of packages that the gateway uses, and brings in dozens of its own. Apart
from the gateway it can neither hold those back nor, if a release is poisoned, see what the gateway
sees. Every file is checked against the hashes in litellm.lock. Standard library only.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
ROOT = SCRIPTS.parent
ENVIRONMENT = ROOT / ".litellm"
WANTED = SCRIPTS / "litellm.in"
LOCK = SCRIPTS / "litellm.lock"
MARK = ENVIRONMENT / ".ready"


def fingerprint() -> str:
    """What the environment was made of: the lock and the Python."""
    return f"{sys.version_info[:2]} {hashlib.sha256(LOCK.read_bytes()).hexdigest()}"


def make() -> None:
    """The environment, made from the lock unless it is already of this lock."""
    if MARK.exists() and MARK.read_text() == fingerprint():
        return
    print(f"==> litellm's environment in {ENVIRONMENT.name}", flush=True)
    venv.create(ENVIRONMENT, with_pip=True, clear=True)
    (ENVIRONMENT / ".gitignore").write_text("*\n")
    pip = [str(ENVIRONMENT / "bin" / "python"), "-m", "pip", "install", "-qq"]
    locked = ["--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)]
    subprocess.run(
        [*pip, *locked],
        check=True,
        env=os.environ | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    )
    MARK.write_text(fingerprint())


def lock() -> None:
    """The lock, written anew by the uv that the gateway's development environment holds."""
    uv = Path(sys.executable).with_name("uv")
    command = [str(uv), "pip", "compile", "-q", str(WANTED.relative_to(ROOT)), "--generate-hashes"]
    command += ["--universal", "--python-version", "3.11", "--no-annotate"]
    command += ["--custom-compile-command", "python scripts/litellm_env.py --lock"]
    subprocess.run([*command, "-o", str(LOCK.relative_to(ROOT))], check=True, cwd=ROOT)


if __name__ == "__main__":
    lock() if "--lock" in sys.argv[1:] else make()
