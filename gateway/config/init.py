"""Writes a commented configuration to start from."""

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from gateway.config.schema import schemas
from gateway.errors import SwitchboardError


class NothingWritten(SwitchboardError):
    """Something is there already; the text names it."""


def write(directory: Path) -> list[Path]:
    """Writes the starting configuration with its schemas; the files' paths.

    Raises NothingWritten, before anything is written, if one of them is there already.
    """
    texts = {directory / name: text for name, text in sorted(starting_files().items())}
    there = [str(path) for path in texts if path.exists()]
    if there:
        raise NothingWritten(f"nothing was written: {', '.join(there)} would be overwritten")
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return list(texts)


def starting_files() -> dict[str, str]:
    """The text of each file by its path from the configuration's directory."""
    found = dict(_below(files("gateway.config") / "start", ""))
    return found | {f"schemas/{name}": text for name, text in schemas().items()}


def _below(folder: Traversable, above: str) -> Iterator[tuple[str, str]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _below(entry, f"{above}{entry.name}/")
        else:
            yield f"{above}{entry.name}", entry.read_text("utf-8")
