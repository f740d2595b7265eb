"""A plan: what `diff` saw, so that exactly that is applied, or nothing."""

import os
from pathlib import Path
from typing import Literal

import msgspec

from gateway.errors import SwitchboardError
from gateway.revisions.report import Report


class PlanError(SwitchboardError):
    """A plan that is none, or that no longer holds."""


class Plan(msgspec.Struct, frozen=True):
    """Files, the revision that they were compared with, and what was found."""

    files: dict[str, str]
    environment: str | None
    report: Report
    made: float
    switchboard: Literal["plan 1"] = "plan 1"


def write(plan: Plan, file: Path) -> None:
    """Writes a plan for its owner's eyes alone: secrets may stand in the files of it."""
    handle = os.open(file, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(plan)))


def read(file: Path) -> Plan:
    """A plan again. Raises PlanError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Plan)
    except OSError as error:
        raise PlanError(f"{file}: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise PlanError(
            f"{file} is no plan: {error}; `switchboard diff --out` makes one"
        ) from error
