"""Makes the environments of the SDKs that are tested against the gateway: `make sdks`.

Each SDK lives in an environment of its own under `.sdks/`, made from a lock with hashes. Running
this again does nothing where a stamp says that an environment was made from the same inputs.
Only the standard library is used, so that it runs before anything is installed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent / ".sdks"
LOCKS = HERE / "locks"


class Env(NamedTuple):
    """One environment: what it is made from, and what is done besides installing its lock, which
    makes the folder `besides`."""

    name: str
    inputs: tuple[Path, ...]
    finish: Callable[[Path], None]
    besides: Path | None = None

    @property
    def path(self) -> Path:
        """Where it is."""
        return ROOT / self.name

    def stamp(self) -> str:
        """Changes with the inputs, with this file and with the Python that makes it."""
        digest = hashlib.sha256(sys.version.encode())
        for file in (*self.inputs, Path(__file__)):
            digest.update(file.read_bytes())
        return digest.hexdigest()

    def is_current(self) -> bool:
        """The environment is there, whole, and made from today's inputs."""
        stamp = self.path / ".stamp"
        if self.besides is not None and not self.besides.is_dir():
            return False
        return stamp.is_file() and stamp.read_text() == self.stamp()


def nothing(_: Path) -> None:
    """For environments that only need their lock."""


def add_node_modules(env: Path) -> None:
    """Installs the packages of `package-lock.json` with the environment's own Node."""
    path = f"{env / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    run([str(env / "bin" / "npm"), "ci", "--ignore-scripts"], cwd=HERE, path=path)


def add_own_tests(env: Path) -> None:
    """Unpacks openai-python's own tests, which its source distribution carries."""
    into = env / "sdist"
    into.mkdir()
    run(
        [
            *(str(env / "bin" / "python"), "-m", "pip", "download", "-q", "--no-deps"),
            *("--no-binary", "openai", "--require-hashes", "-d", str(into)),
            *("-r", str(LOCKS / "openai-own.sdist")),
        ]
    )
    (archive,) = into.glob("openai-*.tar.gz")
    # Only the tests: the code that they import is the installed one.
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts[1:]
            if not member.isfile() or parts[:1] != ("tests",) or ".." in parts:
                continue
            content = tar.extractfile(member)
            assert content is not None
            target = env.joinpath(*parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.read())
    shutil.rmtree(into)


ENVS = {
    env.name: env
    for env in (
        Env("openai2", (LOCKS / "openai2.lock",), nothing),
        Env("langchain", (LOCKS / "langchain.lock",), nothing),
        Env(
            "openai-own",
            (LOCKS / "openai-own.lock", LOCKS / "openai-own.sdist"),
            add_own_tests,
        ),
        Env(
            "node",
            (LOCKS / "node.lock", HERE / "package.json", HERE / "package-lock.json"),
            add_node_modules,
            HERE / "node_modules",
        ),
    )
}


def run(command: Sequence[str], *, cwd: Path | None = None, path: str | None = None) -> None:
    """Runs a command; SystemExit with its output when it fails."""
    environ = dict(os.environ, PIP_DISABLE_PIP_VERSION_CHECK="1")
    if path is not None:
        environ["PATH"] = path
    done = subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def make(env: Env) -> None:
    """Makes the environment anew, unless it is current."""
    if env.is_current():
        return
    print(f"==> the SDK environment .sdks/{env.name}", flush=True)
    shutil.rmtree(env.path, ignore_errors=True)
    venv.create(env.path, with_pip=True)
    python = str(env.path / "bin" / "python")
    lock = env.inputs[0]
    run(
        [
            *(python, "-m", "pip", "install", "-q", "--require-hashes", "--only-binary", ":all:"),
            *("-r", str(lock)),
        ]
    )
    env.finish(env.path)
    (env.path / ".stamp").write_text(env.stamp())


def main(names: Sequence[str]) -> None:
    """Makes the named environments, or all of them."""
    ROOT.mkdir(exist_ok=True)
    (ROOT / ".gitignore").write_text("*\n")
    for name in names or ENVS:
        if name not in ENVS:
            raise SystemExit(f"no SDK environment is called {name}; there are {', '.join(ENVS)}")
        make(ENVS[name])


if __name__ == "__main__":
    main(sys.argv[1:])
