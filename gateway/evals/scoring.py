"""From a declared scorer to the function that scores; those that need only the text are plain."""

import importlib.util
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from gateway.config.files.suites import ScorerPart
from gateway.errors import SwitchboardError
from gateway.evals import scorers
from gateway.evals.scorers import Score

Own = Callable[[str, str, Mapping[str, str]], float]
"""A function of the team's: (said, expected, the case's fields) -> 0 to 1."""

_TEXT: Mapping[str, Score] = {
    "exact": scorers.exact,
    "normalised": scorers.same_words,
    "contains": scorers.contains,
    "regex": scorers.matches,
    "fields": scorers.field_f1,
    "bleu": scorers.bleu,
    "rouge": scorers.rouge,
}


class ScorerError(SwitchboardError):
    """A scorer cannot be made, or failed; the text says which, and what mends it."""


def of_text(part: ScorerPart, folder: Path) -> Score | None:
    """The function of a scorer that needs nothing but both texts; None for the others.

    Files are looked for in `folder`. Raises ScorerError.
    """
    if part.kind == "number":
        return scorers.number(part.tolerance, part.relative)
    if part.kind == "schema":
        return _fits(folder / (part.schema_file or ""))
    return _TEXT.get(part.kind)


def _fits(path: Path) -> Score:
    try:
        schema: Any = msgspec.json.decode(path.read_bytes())
        return scorers.fits(schema)
    except (OSError, msgspec.DecodeError, ValueError) as error:
        raise ScorerError(f"{path} is no JSON Schema that can be read: {error}") from error


def own_function(name: str, folder: Path) -> Own:
    """`module:function` of a file in `folder`, and of nowhere else. Raises ScorerError.

    What it does when it is imported is done: a suite is trusted as the configuration is.
    """
    module, _, function = name.partition(":")
    path = (folder / f"{module}.py").resolve()
    if not module.isidentifier() or path.parent != folder.resolve() or not path.is_file():
        raise ScorerError(f"`{name}`: write `module:function` of a file module.py in {folder}")
    spec = importlib.util.spec_from_file_location(f"switchboard_suite_{module}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    try:
        spec.loader.exec_module(loaded)
        found: Own = getattr(loaded, function)
    except Exception as error:
        raise ScorerError(f"`{name}`: {type(error).__name__}: {error}") from error
    return found
