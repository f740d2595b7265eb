"""Just enough of ONNX's protobuf to hand a graph to onnxruntime, which has no builder of its own.

Field numbers are those of onnx.proto, IR version 9. Only what bert.py needs is here: float and int8
tensors, integer and float attributes, one free dimension.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

FLOAT, INT8 = 1, 3
_TYPES = {np.dtype(np.float32): FLOAT, np.dtype(np.int8): INT8}
_IR_VERSION, _OPSET = 9, 17
_CONTRIB = "com.microsoft"


class Graph:
    """A graph under construction: each call of `node` gives the names of its outputs."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._tensors: list[bytes] = []
        self._inputs: list[bytes] = []
        self._outputs: list[bytes] = []
        self._made = 0

    def input(self, name: str, shape: Sequence[int | str]) -> str:
        """Declare a float input; a dimension that is a word is free."""
        self._inputs.append(_message(11, _value_info(name, shape)))
        return name

    def output(self, name: str, shape: Sequence[int | str]) -> None:
        """Declare a value that was made as a float output."""
        self._outputs.append(_message(12, _value_info(name, shape)))

    def tensor(self, values: NDArray[np.float32] | NDArray[np.int8]) -> str:
        """A constant, stored in the graph."""
        name = self._name()
        dims = b"".join(_varint_field(1, size) for size in values.shape)
        raw = _message(9, np.ascontiguousarray(values).tobytes())
        kind = _varint_field(2, _TYPES[values.dtype])
        self._tensors.append(_message(5, dims + kind + _text(8, name) + raw))
        return name

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        *,
        outputs: int = 1,
        contrib: bool = False,
        attributes: Mapping[str, int | float] | None = None,
    ) -> list[str]:
        """Apply an operator, onnxruntime's own if `contrib`; an input that is "" is left out."""
        names = [self._name() for _ in range(outputs)]
        body = b"".join(_text(1, name) for name in inputs)
        body += b"".join(_text(2, name) for name in names)
        body += _text(4, op)
        body += b"".join(_attribute(key, value) for key, value in (attributes or {}).items())
        body += _text(7, _CONTRIB) if contrib else b""
        self._nodes.append(_message(1, body))
        return names

    def serialize(self) -> bytes:
        """The ModelProto."""
        parts = [*self._nodes, _text(2, "encoder"), *self._tensors, *self._inputs, *self._outputs]
        opsets = [_varint_field(2, _OPSET), _text(1, _CONTRIB) + _varint_field(2, 1)]
        return (
            _varint_field(1, _IR_VERSION)
            + _message(7, b"".join(parts))
            + b"".join(_message(8, opset) for opset in opsets)
        )

    def _name(self) -> str:
        self._made += 1
        return f"v{self._made}"


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _message(number: int, body: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _text(number: int, value: str) -> bytes:
    return _message(number, value.encode())


def _attribute(name: str, value: int | float) -> bytes:
    if isinstance(value, int):
        return _message(5, _text(1, name) + _varint_field(3, value) + _varint_field(20, 2))
    real = _varint(2 << 3 | 5) + np.float32(value).tobytes()
    return _message(5, _text(1, name) + real + _varint_field(20, 1))


def _value_info(name: str, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(
        _message(1, _varint_field(1, size) if isinstance(size, int) else _text(2, size))
        for size in shape
    )
    tensor = _varint_field(1, FLOAT) + _message(2, dims)
    return _text(1, name) + _message(2, _message(1, tensor))
