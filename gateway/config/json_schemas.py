"""Whether a JSON Schema that a team wrote is one, and keeps to itself. Needs `jsonschema`."""

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from referencing import Resource

REFERENCES = ("$ref", "$dynamicRef")


class _Resolver(Protocol):
    def lookup(self, ref: str) -> object: ...

    def in_subresource(self, subresource: "Resource[Any]") -> "_Resolver": ...


def checked(schema: Any) -> None:
    """Raises ValueError, in words, for what is no schema, or refers to what is not in it.

    Nothing is ever fetched, so a reference that leads elsewhere would fail at the first answer that
    it is asked about.
    """
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import validator_for
    from referencing import Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, EMPTY_REGISTRY

    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise ValueError(error.message) from error
    whole: Resource[Any] = Resource.from_contents(schema, default_specification=DRAFT202012)
    address = whole.id() or ""
    resolver = EMPTY_REGISTRY.with_resource(address, whole).crawl().resolver(address)
    try:
        _followed(whole, resolver)
    except Unresolvable as error:
        raise ValueError(f"it refers to {error.ref}, which is not in it") from error


def _followed(part: "Resource[Any]", resolver: _Resolver) -> None:
    """Looks every reference of it up."""
    if isinstance(part.contents, dict):
        for keyword in REFERENCES:
            reference = part.contents.get(keyword)
            if isinstance(reference, str):
                resolver.lookup(reference)
    for below in part.subresources():
        _followed(below, resolver.in_subresource(below))
