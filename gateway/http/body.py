"""What every JSON body of our own API has in common."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, field_validator
from pydantic_core import PydanticCustomError


class Body(BaseModel):
    """A body without fields that nobody knows, NaN, Infinity, or names with a NUL.

    PostgreSQL's texts hold no NUL, and what SQLite alone could keep or look for is no name.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    told: ClassVar[frozenset[str]] = frozenset()
    """Texts that are only kept to be read: the store mends what it cannot hold of them."""

    @field_validator("*")
    @classmethod
    def _nameable(cls, value: Any, info: Any) -> Any:
        texts = value if isinstance(value, list) else (value,)
        if info.field_name not in cls.told and any(
            isinstance(text, str) and "\0" in text for text in texts
        ):
            raise PydanticCustomError("nul", "leave out the NUL character (\\u0000)")
        return value
