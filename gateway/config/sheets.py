"""What was read from each file, and how to point at a place in it."""

from collections.abc import Mapping, Sequence
from pathlib import Path as FilePath
from typing import Generic, TypeVar

import msgspec
from pydantic import BaseModel

from gateway.config.files.gateway import GatewayFile
from gateway.config.files.policies import PolicyFile
from gateway.config.files.routes import RouteFile
from gateway.config.yaml import Document, Path
from gateway.errors import Problem

M = TypeVar("M", bound=BaseModel)


class Sheet(msgspec.Struct, Generic[M], frozen=True):
    """One file: what stands in it, and the model of it where it is valid."""

    document: Document
    model: M | None

    @property
    def name(self) -> str | None:
        """The `name` in it, also where the rest of the file is wrong."""
        data = self.document.data
        name = data.get("name") if isinstance(data, dict) else None
        return name if isinstance(name, str) else None

    def problem(self, path: Path, message: str, mend: str = "") -> Problem:
        """An error at `path`."""
        return self.document.problem(path, message, mend)

    def warning(self, path: Path, message: str, mend: str = "") -> Problem:
        """Something to know about `path`."""
        return msgspec.structs.replace(self.problem(path, message, mend), severity="warning")


class Files(msgspec.Struct, frozen=True):
    """Everything that was read; `gateway` is None when the file cannot be parsed at all. `texts`
    are those of the files that it names, by their paths as they are written."""

    directory: FilePath
    gateway: Sheet[GatewayFile] | None
    routes: Sequence[Sheet[RouteFile]]
    policies: Sequence[Sheet[PolicyFile]]
    texts: Mapping[str, str] = {}


def mapping(data: object) -> Mapping[str, object]:
    """`data` if it is a mapping, else an empty one: for files that may have problems."""
    return data if isinstance(data, dict) else {}
