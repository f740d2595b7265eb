"""Tensors of safetensors files in numpy, one at a time; bfloat16, which numpy lacks, by its bits.

The format: eight bytes with the header's length, the header as JSON, the tensors' bytes end to end
(github.com/huggingface/safetensors). A tensor's bytes are read, not mapped, so that a file that is
cut off meanwhile is an error and not a crash.
"""

import os
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from gateway.adapters.files import WEIGHTS, AdapterError, AdapterFiles

Array = NDArray[np.float32]
DType = Literal["float32", "bfloat16", "float16"]
"""What tensors are stored in; arithmetic is always in float32."""

_CODES: dict[DType, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
_DTYPES: dict[str, DType] = {code: dtype for dtype, code in _CODES.items()}
_RAW: dict[DType, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "bfloat16": np.dtype("<u2"),
    "float16": np.dtype("<f2"),
}
_ALIGNED = 8  # the library pads headers so that tensors begin at a multiple of eight bytes


class Matrix(Protocol):
    """A tensor that is in memory, or will be."""

    @property
    def dtype(self) -> DType:
        """What it is stored in."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""

    def float32(self) -> Array:
        """Its values, in an array of its shape. Raises AdapterError where they cannot be read."""


class Tensor(NamedTuple):
    """A tensor in memory, as it is stored: bfloat16 as its 16 bits, in unsigned integers."""

    dtype: DType
    raw: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""
        return self.raw.shape

    def float32(self) -> Array:
        """Its values. None is changed: float32 holds both shorter types."""
        return widened(self.raw) if self.dtype == "bfloat16" else self.raw.astype(np.float32)


class Stored(NamedTuple):
    """A tensor in a file, read anew each time it is asked for. `offset` counts bytes."""

    path: Path
    name: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int

    def float32(self) -> Array:
        """Its values. Raises AdapterError where the file was cut off, OSError where it is gone."""
        count = prod(self.shape)
        with self.path.open("rb") as file:
            raw = np.fromfile(file, _RAW[self.dtype], count, offset=self.offset)
        if raw.size != count:
            found = f"{raw.size} values of {self.name}"
            raise AdapterError(self.path, found, f"{count}", "copy it again: it is not whole")
        return Tensor(self.dtype, raw.reshape(self.shape)).float32()


class Spec(NamedTuple):
    """A tensor to be written."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Its bytes."""
        return prod(self.shape) * _RAW[self.dtype].itemsize


# ---------------------------------------------------------------- numbers


def narrowed(values: Array) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16 of each value; of two as near, the even one.

    A bfloat16 is a float32's upper half. Half of the lower half's range is added, less one where
    the upper half is even, and what carries over has been rounded. Not-a-number stays one.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    even = (bits >> np.uint32(16)) & np.uint32(1)
    upper = (bits + np.uint32(0x7FFF) + even) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, upper).astype(np.uint16)


def widened(bits: NDArray[np.uint16]) -> Array:
    """The float32 values that bfloat16 bits stand for."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def tensor(values: Array, dtype: DType) -> Tensor:
    """Values as they are stored in a type, rounded to nearest, to even; infinite past its range."""
    if dtype == "bfloat16":
        return Tensor(dtype, narrowed(values))
    with np.errstate(over="ignore"):
        return Tensor(dtype, values.astype(_RAW[dtype]))


def widest(dtypes: Iterable[DType]) -> DType:
    """The narrowest type that holds every value of all of these."""
    found = set(dtypes)
    return found.pop() if len(found) == 1 else "float32"


# ---------------------------------------------------------------- files


def of_adapter(found: AdapterFiles) -> dict[str, Stored]:
    """An adapter's tensors by name, to be read later. Raises AdapterError for a type of integers
    and the like."""
    path = found.directory / WEIGHTS
    for name, each in found.tensors.items():
        if each.dtype not in _DTYPES:
            raise AdapterError(path, f"{name} in {each.dtype}", f"one of {', '.join(_DTYPES)}")
    return {
        name: Stored(path, name, _DTYPES[each.dtype], each.shape, found.header + each.begin)
        for name, each in found.tensors.items()
    }


def write(path: Path, specs: Sequence[Spec], tensors: Iterable[Tensor]) -> int:
    """Writes a safetensors file, one tensor after the other, and says how many bytes it has.

    The same tensors make the same bytes. `tensors` are asked for one at a time, in the order of
    `specs`; raises ValueError if one of them is not as its spec says. The file must not exist, and
    is on the disk when this returns.
    """
    with path.open("xb") as file:
        file.write(_header(specs))
        for spec, each in zip(specs, tensors, strict=True):
            _append(file, spec, each)
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def _header(specs: Sequence[Spec]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for spec in specs:
        start, end = end, end + spec.size
        header[spec.name] = {
            "dtype": _CODES[spec.dtype],
            "shape": spec.shape,
            "data_offsets": (start, end),
        }
    encoded = msgspec.json.encode(header)
    encoded += b" " * (-len(encoded) % _ALIGNED)
    return len(encoded).to_bytes(8, "little") + encoded


def _append(file: IO[bytes], spec: Spec, each: Tensor) -> None:
    if (each.dtype, each.shape) != (spec.dtype, spec.shape):
        raise ValueError(f"{spec.name}: {each.dtype} {each.shape} comes instead of {spec}")
    file.write(np.ascontiguousarray(each.raw).astype(_RAW[spec.dtype], copy=False).data)
