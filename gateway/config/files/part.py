"""What every part of a file is made from."""

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A mapping with fixed keys."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
