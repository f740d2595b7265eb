"""Numbers and files of tensors, held to numpy and to the safetensors library."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import TensorSpec, deserialize, safe_open, serialize_file
from safetensors.numpy import load_file, save_file

from gateway.adapters import files
from gateway.adapters.files import AdapterError
from gateway.adapters.tensors import (
    DType,
    Spec,
    Stored,
    Tensor,
    narrowed,
    of_adapter,
    tensor,
    widened,
    widest,
    write,
)

DTYPES: tuple[DType, ...] = ("float32", "bfloat16", "float16")


def bits(value: float) -> int:
    found: int = struct.unpack("<I", struct.pack("<f", value))[0]
    return found


def from_bits(value: int) -> float:
    found: float = struct.unpack("<f", struct.pack("<I", value))[0]
    return found


# ---------------------------------------------------------------- numbers


@given(st.integers(0, 0xFFFF))
def test_every_bfloat16_survives_the_way_through_float32(upper: int) -> None:
    raw = np.array([upper], np.uint16)
    wide = widened(raw)
    assert bits(wide[0]) == upper << 16 or np.isnan(wide[0])
    if np.isnan(wide[0]):
        assert np.isnan(widened(narrowed(wide))[0])
    else:
        assert narrowed(wide)[0] == upper


@given(st.floats(-(2.0**127), 2.0**127, width=32))
def test_narrowing_takes_the_nearest(value: float) -> None:
    got = widened(narrowed(np.array([value], np.float32)))[0]
    lower = bits(value) >> 16
    near = [from_bits(lower << 16), from_bits((lower + 1) << 16)]
    assert float(got) in near
    assert abs(float(got) - value) == min(abs(each - value) for each in near)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0x3F80_8000, 0x3F80),  # half way, down to the even one
        (0x3F81_8000, 0x3F82),  # half way, up to the even one
        (0x3F80_8001, 0x3F81),
        (0x3F80_7FFF, 0x3F80),
        (0x7F7F_FFFF, 0x7F80),  # past the greatest there is infinity
        (0x8000_0000, 0x8000),
        (0x7F80_0001, 0x7FC0),  # a NaN whose payload is all in the lower half
        (0xFFFF_FFFF, 0xFFFF),
        (0xFF80_0000, 0xFF80),
    ],
)
def test_ties_go_to_even_and_what_is_not_finite_stays_so(value: int, expected: int) -> None:
    assert narrowed(np.array([value], np.uint32).view(np.float32))[0] == expected


def test_narrowing_takes_arrays_that_are_not_contiguous() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4).T
    assert np.array_equal(widened(narrowed(values)), values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_a_type_holds_is_kept(dtype: DType) -> None:
    values = np.array([[0, -1.5, 2**-14, 240]], np.float32)
    assert np.array_equal(tensor(values, dtype).float32(), values)


def test_what_float16_cannot_hold_is_infinite() -> None:
    got = tensor(np.array([70000, -1e9], np.float32), "float16").float32()
    assert got.tolist() == [np.inf, -np.inf]


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["bfloat16"], "bfloat16"),
        (["float16", "float16"], "float16"),
        (["float16", "float32"], "float32"),
        (["bfloat16", "float16"], "float32"),  # neither holds the other
    ],
)
def test_the_widest_holds_all(dtypes: list[DType], expected: DType) -> None:
    assert widest(dtypes) == expected


# ---------------------------------------------------------------- files


def written(path: Path, tensors: dict[str, Tensor]) -> int:
    specs = [Spec(name, each.dtype, each.shape) for name, each in tensors.items()]
    return write(path, specs, iter(tensors.values()))


def read(path: Path) -> dict[str, Stored]:
    """The tensors of any file, as if it were an adapter's."""
    folder = path.parent / f"adapter-{path.name}"
    folder.mkdir(exist_ok=True)
    (folder / files.CONFIG).write_text('{"r": 1, "lora_alpha": 1}')
    (folder / files.WEIGHTS).write_bytes(path.read_bytes())
    return of_adapter(files.read(folder))


def some(rows: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(rows).standard_normal((rows, 5)).astype(np.float32)


def test_what_is_written_the_library_reads(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    size = written(path, {"b": tensor(some(), "float32"), "a": tensor(some(2), "float16")})
    assert size == path.stat().st_size
    loaded = load_file(path)
    assert np.array_equal(loaded["b"], some())
    assert np.array_equal(loaded["a"], some(2).astype(np.float16))
    with safe_open(path, framework="np") as file:
        assert file.metadata() == {"format": "pt"}


def test_written_bfloat16_is_the_librarys(tmp_path: Path) -> None:
    values = tensor(some(), "bfloat16")
    written(tmp_path / "x.safetensors", {"x": values})
    library: Any = deserialize  # it has no types
    [(name, found)] = library((tmp_path / "x.safetensors").read_bytes())
    assert (name, found["dtype"], found["shape"]) == ("x", "BF16", [3, 5])
    assert bytes(found["data"]) == values.raw.tobytes()


def test_what_the_library_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"x": some(), "y": some(1).astype(np.float16)}, path, metadata={"of": "someone"})
    found = read(path)
    assert {name: (each.dtype, each.shape) for name, each in found.items()} == {
        "x": ("float32", (3, 5)),
        "y": ("float16", (1, 5)),
    }
    assert np.array_equal(found["x"].float32(), some())
    assert np.array_equal(found["y"].float32(), some(1).astype(np.float16).astype(np.float32))


def test_the_librarys_bfloat16_is_read(tmp_path: Path) -> None:
    path, raw = tmp_path / "x.safetensors", narrowed(some())
    spec = TensorSpec(dtype="bfloat16", shape=(3, 5), data_ptr=raw.ctypes.data, data_len=raw.nbytes)
    serialize_file({"x": spec}, path)
    assert np.array_equal(read(path)["x"].float32(), widened(raw))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_same_tensors_make_the_same_bytes(tmp_path: Path, dtype: DType) -> None:
    for name in ("one", "two"):
        written(tmp_path / name, {"x": tensor(some(), dtype), "y": tensor(some(7).T, dtype)})
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert np.array_equal(read(tmp_path / "one")["y"].float32(), tensor(some(7).T, dtype).float32())


def test_a_file_that_is_cut_off_after_its_header_was_read_is_told(tmp_path: Path) -> None:
    written(tmp_path / "whole", {"x": tensor(some(), "float32")})
    found = read(tmp_path / "whole")["x"]
    found.path.write_bytes(found.path.read_bytes()[:-10])
    with pytest.raises(AdapterError, match=r"12 values of x; expected 15; copy it again"):
        found.float32()
    found.path.unlink()
    with pytest.raises(FileNotFoundError, match=files.WEIGHTS):
        found.float32()


def test_numbers_that_no_lora_has_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    counts: Any = np.arange(4, dtype=np.int64)
    save_file({"x": counts}, path)
    with pytest.raises(AdapterError, match="x in I64; expected one of F32, BF16, F16"):
        read(path)


def test_a_tensor_that_is_not_as_announced_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="comes instead of"):
        write(tmp_path / "x", [Spec("x", "float32", (2, 5))], [tensor(some(), "float32")])


def test_nothing_is_written_over(tmp_path: Path) -> None:
    written(tmp_path / "x", {"x": tensor(some(), "float32")})
    with pytest.raises(FileExistsError):
        written(tmp_path / "x", {"x": tensor(some(1), "float32")})
