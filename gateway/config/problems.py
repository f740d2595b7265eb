"""What pydantic finds wrong, said as Problems: file, line, key and mend."""

from collections.abc import Iterator, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from gateway.config.words import did_you_mean
from gateway.config.yaml import Document, Path
from gateway.errors import Problem

P = TypeVar("P", bound=BaseModel)

Place: TypeAlias = tuple[str | int, ...]
"""Where pydantic says that an error is: a path with the names of unions' members in between."""

_NOTHING = object()

_WHAT = {
    "dict_type": "must be a mapping of keys and values",
    "model_type": "must be a mapping of keys and values",
    "model_attributes_type": "must be a mapping of keys and values",
    "list_type": "must be a list",
    "string_type": "must be text",
}


def validated(model: type[P], document: Document) -> tuple[P | None, list[Problem]]:
    """The document as a model, or everything that is wrong with it."""
    if document.data is None:
        needed = ", ".join(
            f"`{name}`" for name, field in written(model).items() if field.is_required()
        )
        return None, [Problem(document.file, 1, "", "the file is empty", f"it needs {needed}")]
    try:
        return model.model_validate(document.data), []
    except ValidationError as error:
        found = [_problem(model, document, each) for each in _distinct(error.errors())]
        return None, [each for path, each in found if not _unknown(path, document)]


def _unknown(path: Path, document: Document) -> bool:
    """Whether the value hangs on a variable that is itself a problem already."""
    return any(path[:end] in document.unset for end in range(len(path) + 1))


def _distinct(errors: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """A value that fits no member of a union fails once for each: what says most stands."""
    places = [tuple(part for part in error["loc"] if not _is_tag(part)) for error in errors]
    seen: set[tuple[Any, ...]] = set()
    for error, place in sorted(
        zip(errors, places, strict=True), key=lambda each: each[0]["type"] != "switchboard"
    ):
        deeper = any(len(other) > len(place) and other[: len(place)] == place for other in places)
        if place not in seen and not (deeper and _is_tag(error["loc"][-1])):
            seen.add(place)
            yield error


def _is_tag(part: str | int) -> bool:
    """Whether a part of pydantic's place names a member of a union instead of a key."""
    return isinstance(part, str) and (part.endswith("Part") or ("[" in part and part != "[key]"))


def _problem(
    model: type[BaseModel], document: Document, error: Mapping[str, Any]
) -> tuple[Path, Problem]:
    path = _path(document.data, error["loc"], error["type"])
    message, mend = _said(model, path, error)
    return path, document.problem(path, message, mend)


def _path(data: object, place: Sequence[str | int], kind: str) -> Path:
    """The keys that lead to the error; pydantic's place also names members of unions."""
    path: list[str | int] = []
    for index, part in enumerate(place):
        held = _held(data, part)
        if held is not _NOTHING:
            data = held
        elif not (kind == "missing" and index == len(place) - 1):
            continue
        path.append(part)
    return tuple(path)


def _held(data: object, part: str | int) -> object:
    """What `data` holds under a key or at an index."""
    if isinstance(data, dict):
        return data.get(part, _NOTHING)
    if isinstance(data, list) and isinstance(part, int) and part < len(data):
        return data[part]
    return _NOTHING


def _said(model: type[BaseModel], path: Path, error: Mapping[str, Any]) -> tuple[str, str]:
    """Message and mend."""
    kind, context, place = error["type"], error.get("ctx", {}), error["loc"]
    if kind == "switchboard":
        return context["said"], context["mend"]
    if kind == "missing":
        return "is missing", _example(model, place, path[-1])
    if kind == "extra_forbidden":
        around = _model(model, place[:-1])
        known = list(written(around)) if around is not None else []
        return f"unknown key `{path[-1]}`", did_you_mean(str(path[-1]), known, _listed(known))
    if kind == "literal_error":
        return _not_one_of(str(error["input"]), _choices(_field(model, place)))
    if kind == "union_tag_invalid":
        tags = [tag.strip("' ") for tag in str(context["expected_tags"]).split(",")]
        return _not_one_of(str(context["tag"]), tags)
    if kind == "union_tag_not_found":
        return "its `kind` is missing", "add `kind: vllm`, `kind: openai` or `kind: litellm`"
    if kind == "too_short":
        return "is empty", _example(model, place, path[-1])
    said = _WHAT.get(kind, str(error["msg"]).removeprefix("Value error, ").lower())
    return said, _example(model, place, path[-1]) if path else ""


def _not_one_of(written: str, choices: Sequence[str]) -> tuple[str, str]:
    return f"`{written}` is not one of {_listed(choices)}", did_you_mean(written, choices)


def _listed(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _example(model: type[BaseModel], place: Place, key: str | int) -> str:
    """The example of the field, or the first thing in it where the error is inside of it."""
    field = _field(model, place)
    if field is None or not field.examples:
        return ""
    example = field.examples[0]
    around = _model(model, place[: _last_index(place, key)])
    if around is None or key not in written(around):
        example = next(iter(example.values() if isinstance(example, dict) else example))
    return f"for example `{'- ' if isinstance(key, int) else f'{key}: '}{in_flow(example)}`"


def _last_index(place: Place, key: str | int) -> int:
    return len(place) - 1 - place[::-1].index(key)


def in_flow(value: object) -> str:
    """A value in YAML's flow style."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {in_flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(in_flow(each) for each in value) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    return f"'{text}'" if set(text) & set('[]{}#,&*!|>"%@`?') and "${" not in text else text


# ---------------------------------------------------------------- what a model says of a path


def written(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a model by the keys that files have for them."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _choices(field: FieldInfo | None) -> list[str]:
    """The words that a field may be."""
    if field is None:
        return []
    return [
        str(word)
        for member in members(field.annotation)
        for member in (members(get_args(member)[0]) if get_origin(member) is list else (member,))
        if get_origin(member) is Literal
        for word in get_args(member)
    ]


def _field(model: type[BaseModel], place: Place) -> FieldInfo | None:
    """The field that a place is in."""
    for end in range(len(place) - 1, -1, -1):
        around = _model(model, place[:end])
        if around is not None and place[end] in written(around):
            return written(around)[str(place[end])]
    return None


def _model(model: type[BaseModel], place: Place) -> type[BaseModel] | None:
    """The model of the mapping at a place."""
    return next(_models(model, place), None)


def _models(annotation: Any, place: Place) -> Iterator[type[BaseModel]]:
    for member in members(annotation):
        if isinstance(member, type) and issubclass(member, BaseModel):
            inner = place[1:] if place and place[0] in _tags(member) else place
            if not inner:
                yield member
            elif inner[0] in written(member):
                yield from _models(written(member)[str(inner[0])].annotation, inner[1:])
        elif place and get_origin(member) in (dict, list):
            yield from _models(get_args(member)[-1], place[1:])


def _tags(member: type[BaseModel]) -> tuple[str, ...]:
    """What pydantic calls a model among the members of a union: its name or its `kind`."""
    kind = member.model_fields.get("kind")
    kinds = get_args(kind.annotation) if kind is not None else ()
    return (member.__name__, *kinds)


def members(annotation: Any) -> Iterator[Any]:
    """The alternatives of an annotation, without what surrounds them."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from members(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for member in get_args(annotation):
            yield from members(member)
    else:
        yield annotation
