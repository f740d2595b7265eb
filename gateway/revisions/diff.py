"""What differs between two configurations, by key path, as they are written. Pure.

Texts are compared as what they mean: comments, order of keys and layout count for nothing. What may
be a secret is never shown, whether it stands in the file or comes from a variable.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from gateway.config import yaml
from gateway.config.overlay import GATEWAY, merged, overlay_name

HIDDEN = "•••"
"""Stands for what may be a secret."""

AT_START = ("server", "store", "coordinator")
"""Keys of gateway.yaml that count from the next start on."""

_SECRET = frozenset({"api_key", "password", "token", "secret", "authorization", "webhook"})
_ALL_SECRET = frozenset({"headers", "arguments", "env"})
"""Of a backend; a route's `match: {headers}` are no secrets, but hidden too where it is new."""
_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*@")
_VARIABLE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-\})?\}?")

Kind = Literal["added", "removed", "changed"]


class Change(msgspec.Struct, frozen=True):
    """One difference. `path` is the key's, from the kind of thing down: `routes.legal.value`,
    `backends.openai.models.mini.price.input`. `old` and `new` are as people write them."""

    path: str
    kind: Kind
    old: str = ""
    new: str = ""

    @property
    def at_start(self) -> bool:
        """Whether it counts from the next start of the gateway on."""
        return self.path.partition(".")[0] in AT_START


class Written(msgspec.Struct, frozen=True):
    """Texts of a configuration by path, and the environment that it is under."""

    files: Mapping[str, str]
    environment: str | None = None


def differences(old: Written, new: Written) -> list[Change]:
    """What `new` would change of `old`, in the order of the paths' names."""
    before, after = _content(old), _content(new)
    found = list(_changes(before, after, ()))
    return [_shown(*each) for each in found]


_Raw = tuple[tuple[str, ...], Kind, object, object]


def _content(written: Written) -> dict[str, object]:
    """Everything that is written, as one tree: gateway.yaml's own keys, then the other kinds."""
    tree: dict[str, object] = dict(_mapping(_gateway(written)))
    for folder in ("routes", "policies"):
        named: dict[str, object] = {}
        for name, text in written.files.items():
            if posixpath.dirname(name) == folder and name.endswith(".yaml"):
                data = _mapping(_read(text, name))
                key = data.get("name", posixpath.basename(name).removesuffix(".yaml"))
                named[str(key)] = {k: v for k, v in data.items() if k != "name"}
        tree[folder] = named
    tree["prompts"] = {
        name: text.strip() for name, text in written.files.items() if not name.endswith(".yaml")
    }
    return tree


def _gateway(written: Written) -> object:
    text = written.files.get(GATEWAY)
    if text is None:
        return {}
    base, _ = yaml.read(text, GATEWAY, None)
    name = overlay_name(written.environment) if written.environment is not None else ""
    if base is None or name not in written.files:
        return base.data if base is not None else {}
    over, _ = yaml.read(written.files[name], name, None)
    return merged(base, over).data if over is not None else base.data


def _read(text: str, name: str) -> object:
    document, _ = yaml.read(text, name, None)
    return document.data if document is not None else {}


def _mapping(data: object) -> Mapping[str, object]:
    return data if isinstance(data, Mapping) else {}


_ABSENT = object()


def _changes(old: object, new: object, path: tuple[str, ...]) -> Iterator[_Raw]:
    if old == new and type(old) is type(new):
        return
    old_parts, new_parts = _parts(old), _parts(new)
    if old_parts is not None and new_parts is not None:
        for key in [*old_parts, *(key for key in new_parts if key not in old_parts)]:
            yield from _changes(
                old_parts.get(key, _ABSENT), new_parts.get(key, _ABSENT), (*path, key)
            )
    elif old is _ABSENT:
        yield path, "added", None, new
    elif new is _ABSENT:
        yield path, "removed", old, None
    elif old != new:
        yield path, "changed", old, new


def _parts(value: object) -> Mapping[str, object] | None:
    """A mapping's values by key; a list's items by what tells them apart; None for a scalar."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, list):
        return None
    parts: dict[str, object] = {}
    for item in value:
        name = _item(item)
        while name in parts:
            name += "'"
        parts[name] = item
    return parts


def _item(item: object) -> str:
    """How a list's item is called: a candidate by its target, a word by itself."""
    if not isinstance(item, Mapping):
        return f"[{_written(item)}]"
    for key in ("target", "model", "name"):
        if key in item:
            prompt = f", {item['system']}" if "system" in item else ""
            return f"[{item[key]}{prompt}]"
    return f"[{_written(item)}]"


def _shown(path: tuple[str, ...], kind: Kind, old: object, new: object) -> Change:
    if path[0] == "prompts" and kind == "changed":
        return Change(_dotted(path), kind, _lines(old), _lines(new))
    secret = path[-1] in _SECRET or (path[0] == "backends" and not _ALL_SECRET.isdisjoint(path))
    return Change(
        _dotted(path),
        kind,
        "" if kind == "added" else _hidden(old, secret),
        "" if kind == "removed" else _hidden(new, secret),
    )


def _dotted(path: Sequence[str]) -> str:
    first, *rest = (_PASSWORD.sub(rf"\1:{HIDDEN}@", part) for part in path)
    return first + "".join(part if part.startswith("[") else f".{part}" for part in rest)


def _lines(text: object) -> str:
    count = str(text).count("\n") + 1
    return f"{count} line{'s' if count > 1 else ''}, {len(str(text))} characters"


def _hidden(value: object, secret: bool) -> str:
    """A value as it is written, without what may be a secret in it."""
    return _written(_masked(value, secret))


def _masked(value: object, secret: bool) -> object:
    if isinstance(value, Mapping):
        return {
            key: _masked(each, secret or key in _SECRET or key in _ALL_SECRET)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [_masked(each, secret) for each in value]
    if secret and value is not None:
        return value if _VARIABLE.fullmatch(str(value)) else HIDDEN
    return _PASSWORD.sub(rf"\1:{HIDDEN}@", value) if isinstance(value, str) else value


def _written(value: object) -> str:
    """A value in YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_written(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_written(each) for each in value) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)
