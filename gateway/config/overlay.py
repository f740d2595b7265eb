"""One file laid over another for an environment: `gateway.prod.yaml` over `gateway.yaml`. Pure.

Mappings are merged key by key, however deep; a list or a scalar takes the place of what was there;
null takes the key out. What an overlay says keeps its own file and line, for the problems' sake.
"""

import re
from collections.abc import Iterable, Mapping

import msgspec

from gateway.config.yaml import Document, Path

GATEWAY = "gateway.yaml"

_OVERLAY = re.compile(r"gateway\.([A-Za-z0-9][A-Za-z0-9_-]*)\.yaml")


def overlay_name(environment: str) -> str:
    """The file that is laid over `gateway.yaml` in an environment."""
    return f"gateway.{environment}.yaml"


def environments(names: Iterable[str]) -> list[str]:
    """The environments that have an overlay among these files."""
    return [found[1] for name in names if (found := _OVERLAY.fullmatch(name))]


def merged(base: Document, over: Document) -> Document:
    """`base` with `over` laid on it."""
    if over.data is None:  # an empty file changes nothing
        return base
    lines = dict(base.lines)
    files: dict[Path, str] = {}
    unset = set(base.unset)
    variables = dict(base.variables)

    def took(path: Path) -> None:
        """What stood there, and below, stands there no more."""
        size = len(path)
        for known in [each for each in lines if each[:size] == path]:
            del lines[known]
            files.pop(known, None)
        unset.difference_update([each for each in unset if each[:size] == path])
        for known in [each for each in variables if each[:size] == path]:
            del variables[known]

    def put(path: Path) -> None:
        """What the overlay has there, and below, stands there from now on."""
        took(path)
        size = len(path)
        for known, line in over.lines.items():
            if known[:size] == path:
                lines[known] = line
                files[known] = over.file
        unset.update(each for each in over.unset if each[:size] == path)
        variables.update(
            (each, over.variables[each]) for each in over.variables if each[:size] == path
        )

    def laid(below: object, above: object, path: Path) -> object:
        if not isinstance(below, Mapping) or not isinstance(above, Mapping):
            put(path)
            return _without_nulls(above) if isinstance(above, Mapping) else above
        found = dict(below)
        for key, value in above.items():
            inner = (*path, key)
            if value is None and inner not in over.unset:
                found.pop(key, None)
                took(inner)
            elif key in found:
                found[key] = laid(found[key], value, inner)
            else:
                put(inner)
                found[key] = _without_nulls(value)
        return found

    data = laid(base.data, over.data, ())
    return msgspec.structs.replace(
        base,
        data=data,
        lines=lines,
        unset=frozenset(unset),
        over=files,
        variables=variables,
        secrets={**base.secrets, **over.secrets},
    )


def _without_nulls(value: object) -> object:
    """A mapping that is new with an overlay: what it takes out was not there anyhow."""
    if not isinstance(value, Mapping):
        return value
    return {key: _without_nulls(each) for key, each in value.items() if each is not None}
