"""scripts/system.py, run as itself with a PATH of the test's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "system.py"


def program(folder: Path, name: str, lines: str = "") -> None:
    """A small program on the PATH."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)


def run(path: Path, *wanted: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, str(SCRIPT), *wanted],
        env={"PATH": str(path)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A PATH with `env` only, and an apt-get and a sudo that write down how they were called."""
    note = f'echo "$0 $*" >> {tmp_path}/called'
    program(tmp_path, "apt-get", note)
    program(tmp_path, "sudo", f'{note}\nshift; [ "$1" = true ] || exec "$@"')
    os.symlink("/usr/bin/env", tmp_path / "env")
    os.symlink("/bin/true", tmp_path / "true")
    return tmp_path


def called(path: Path) -> str:
    file = path / "called"
    return file.read_text() if file.exists() else ""


def test_what_is_there_is_left_alone(path: Path) -> None:
    program(path, "redis-server")
    program(path, "google-chrome")  # as good as the one that is asked for
    done = run(path, "redis-server", "chromium")
    assert (done.returncode, done.stdout, done.stderr, called(path)) == (0, "", "", "")


def test_what_is_missing_is_installed_where_that_is_allowed(path: Path) -> None:
    done = run(path, "redis-server", "chromium")
    assert done.returncode == 0, done.stderr
    assert "redis-server chromium" in done.stdout
    calls = [line for line in called(path).splitlines() if "/apt-get " in line.split("$")[0]]
    assert any(line.endswith("apt-get update -qq") for line in calls)
    assert any(line.endswith("apt-get install -y -qq redis-server chromium") for line in calls)


def test_what_cannot_be_installed_is_told_with_the_command_that_would(path: Path) -> None:
    program(path, "apt-get", "echo no such package >&2; exit 100")
    done = run(path, "redis-server")
    assert done.returncode == 1
    assert "no such package" in done.stderr
    assert "sudo apt-get install redis-server" in done.stderr


def test_a_system_without_apt_get_is_told_what_is_needed(path: Path) -> None:
    (path / "apt-get").unlink()
    done = run(path, "redis-server")
    assert done.returncode == 1
    assert "this system has no apt-get" in done.stderr
    assert "redis-server" in done.stderr


def test_a_program_that_it_does_not_know_is_named(path: Path) -> None:
    done = run(path, "redis-sever")
    assert done.returncode == 1
    assert "unknown: redis-sever" in done.stderr
