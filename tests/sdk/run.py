"""Runs a check in the environment of its SDK."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from tests.sdk.setup_envs import ENVS

CHECKS = Path(__file__).parent / "checks"
TIMEOUT_S = 120.0


def program(env: str) -> str:
    """The interpreter of an SDK's environment; an error that says how to make it."""
    if env == "main":
        return sys.executable
    if not ENVS[env].is_current():
        raise FileNotFoundError(
            f"the SDK environment .sdks/{env} is missing or out of date: run `make sdks`"
        )
    return str(ENVS[env].path / "bin" / ("node" if env == "node" else "python"))


async def run(*command: str, cwd: Path | None = None, **environ: str) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command; it gets no proxy and no key of this machine."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env={**kept, **environ},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def check(env: str, script: str, given: Mapping[str, Any], *more: str) -> dict[str, Any]:
    """The report of a check."""
    told = msgspec.json.encode(given).decode()
    status, out, err = await run(program(env), str(CHECKS / script), told, *more)
    if status:
        raise AssertionError(f"{script} in .sdks/{env} ended with {status}:\n{err}")
    report: dict[str, Any] = msgspec.json.decode(out)
    return report
