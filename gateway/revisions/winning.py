"""A route's file with the winner of an experiment in it. Pure.

One key is put in, as a person would, so that comments and all else stay as they are.
"""

from collections.abc import Mapping

from gateway.config.sheets import mapping
from gateway.config.yaml import Document, read
from gateway.errors import SwitchboardError


class NotWritten(SwitchboardError):
    """The winner cannot be put into the files."""


def with_winner(files: Mapping[str, str], route: str, experiment: str, arm: str) -> dict[str, str]:
    """The files of a revision with `winner: ARM` in the experiment. Raises NotWritten."""
    for name, text in files.items():
        if not name.startswith("routes/"):
            continue
        document, _ = read(text, name, None)
        if document is not None and mapping(document.data).get("name") == route:
            return {**files, name: _put(text, document, experiment, arm)}
    raise NotWritten(f"no file has the route {route}")


def _put(text: str, document: Document, experiment: str, arm: str) -> str:
    declared = mapping(mapping(document.data).get("experiments")).get(experiment)
    if not isinstance(declared, dict):
        raise NotWritten(f"{document.file} has no experiment {experiment}")
    at = document.line(("experiments", experiment))
    first = min(document.line(("experiments", experiment, key)) for key in declared)
    lines = text.splitlines(keepends=True)
    if first > at:
        indent = lines[first - 1][: len(lines[first - 1]) - len(lines[first - 1].lstrip())]
        lines.insert(first - 1, f"{indent}winner: {arm}\n")
    else:
        before, brace, after = lines[at - 1].partition("{")
        if not brace:
            raise NotWritten(f"{document.file}:{at} is written in a way that is not changed here")
        lines[at - 1] = f"{before}{{winner: {arm}, {after}"
    changed = "".join(lines)
    again, problems = read(changed, document.file, None)
    found = mapping(mapping(again.data if again else None).get("experiments")).get(experiment)
    if problems or found != {**declared, "winner": arm}:
        raise NotWritten(f"{document.file}:{at} is written in a way that is not changed here")
    return changed
