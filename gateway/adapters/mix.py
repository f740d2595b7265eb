"""Adapters mixed into one: the weighted sum of what each adds to the base's weights.

A LoRA adds s B A to a weight, s its scaling. A weighted sum of them is a LoRA again, exactly, of
the summed rank:

    sum_i w_i s_i B_i A_i = [w_1 s_1 B_1 | w_2 s_2 B_2 | ...] [A_1; A_2; ...]

(the `cat` combination of PEFT). Modules that only some adapters have are united. Weights are used
as they are: 1 : 1 adds both in full. Where the summed rank is too much, each module's delta is
reduced to the closest one of a lower rank, which is its truncated singular value decomposition
(Eckart and Young 1936). The delta itself is never formed: with B = Q_b R_b and A^T = Q_a R_a (QR),
the singular values of B A are those of the small R_b R_a^T.

Every module is padded with zeros to one rank r, and alpha = r, so that whoever reads it has scaling
1 and need not know of ranks that differ. All arithmetic is in float32.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from gateway.adapters.files import (
    CONFIG,
    WEIGHTS,
    AdapterFiles,
    Tensor,
    read,
)

Matrix = npt.NDArray[np.float32]

PREFIX = "base_model.model."
WIDEST = ("BF16", "F16", "F32")
"""A mix is stored in the widest type of its parts."""


class MixError(ValueError):
    """Adapters that cannot be mixed; the text names them, what was found, and the mend."""


class Part(msgspec.Struct, frozen=True):
    """One adapter of a mix with its weight."""

    directory: Path
    weight: float


class Lost(msgspec.Struct, frozen=True):
    """What SVD left out: its Frobenius norm over that of the whole delta, and of the worst module.
    Nothing where ranks were stacked."""

    error: float = 0.0
    worst: float = 0.0
    module: str = ""


class Report(msgspec.Struct, frozen=True):
    """How a mix came out."""

    rank: int
    summed_rank: int
    modules: int
    dtype: str
    lost: Lost = Lost()


def recipe(parts: Sequence[tuple[str, float]], rank: int | None) -> str:
    """What a mix is made of, as text: digests with weights, and the rank to reduce it to."""
    return "mix:" + json.dumps([sorted(parts), rank], separators=(",", ":"))


def mix(parts: Sequence[Part], out: Path, *, rank: int | None, max_rank: int | None) -> Report:
    """Writes the mix of `parts` into the new directory `out`; the same parts give the same bytes.

    `rank` is what to reduce it to; without one, a summed rank over `max_rank` is an error. Raises
    MixError, AdapterError, OSError. Takes long: call it in a thread.
    """
    loaded = [(read(part.directory), part.weight) for part in parts]
    _mixable(loaded)
    deltas = _summed(loaded)
    summed = max(a.shape[0] for a, _ in deltas.values())
    if rank is None and max_rank is not None and summed > max_rank:
        raise MixError(
            f"the ranks of {', '.join(part.directory.name for part in parts)} sum up to {summed}, "
            f"over the replicas' maximum of {max_rank}; write `rank: {max_rank}` to reduce the mix"
        )
    lost = Lost()
    if rank is not None and rank < summed:
        deltas, lost = _reduced(deltas, rank)
    rank = max(a.shape[0] for a, _ in deltas.values())
    dtype = max((_dtype(files) for files, _ in loaded), key=WIDEST.index)
    out.mkdir()
    _write_weights(out / WEIGHTS, deltas, rank, dtype)
    _write_config(out / CONFIG, loaded, list(deltas), rank)
    return Report(rank, summed, len(deltas), dtype, lost)


def _mixable(parts: Sequence[tuple[AdapterFiles, float]]) -> None:
    """Raises MixError unless every part is a plain LoRA of the same base."""
    if not parts:
        raise MixError("a mix needs at least one adapter")
    bases = {files.config.base_model_name_or_path for files, _ in parts} - {None}
    if len(bases) > 1:
        raise MixError(f"adapters of different bases: {', '.join(sorted(map(str, bases)))}")
    for files, weight in parts:
        name, config = files.directory.name, files.config
        if not math.isfinite(weight) or weight == 0.0:
            raise MixError(f"{name} has weight {weight}; write a number other than 0")
        if config.use_dora or config.modules_to_save or config.bias != "none" or config.lora_bias:
            raise MixError(
                f"{name} is no plain LoRA (DoRA, a bias or modules_to_save): only those add up"
            )


def _summed(parts: Sequence[tuple[AdapterFiles, float]]) -> dict[str, tuple[Matrix, Matrix]]:
    """(A, B) by module, ranks stacked, each part's weight and scaling in B."""
    stacks: dict[str, list[tuple[Matrix, Matrix]]] = {}
    for files, weight in parts:
        for module, (a, b) in sorted(_pairs(files).items()):
            scaled = b * np.float32(weight * files.config.scaling(module))
            before = stacks.setdefault(module, [])
            if before and (before[0][0].shape[1], before[0][1].shape[0]) != (a.shape[1], len(b)):
                first = before[0]
                raise MixError(
                    f"{files.directory.name}: {module} is {len(b)} x {a.shape[1]}, in others "
                    f"{len(first[1])} x {first[0].shape[1]}; they are of different bases"
                )
            before.append((a, scaled))
    return {
        module: (
            np.concatenate([a for a, _ in pairs], axis=0),
            np.concatenate([b for _, b in pairs], axis=1),
        )
        for module, pairs in sorted(stacks.items())
    }


def _reduced(
    deltas: Mapping[str, tuple[Matrix, Matrix]], rank: int
) -> tuple[dict[str, tuple[Matrix, Matrix]], Lost]:
    """Each module's closest delta of that rank, and how much was left out."""
    reduced, lost, whole, worst = {}, 0.0, 0.0, (0.0, "")
    for module, (a, b) in deltas.items():
        left, values, right = _svd(a, b)
        root = np.sqrt(values[:rank])
        reduced[module] = (root[:, None] * right[:rank], left[:, :rank] * root)
        gone = float(np.sum(np.square(values[rank:], dtype=np.float64)))
        all_of_it = float(np.sum(np.square(values, dtype=np.float64)))
        lost, whole = lost + gone, whole + all_of_it
        if all_of_it:
            worst = max(worst, (math.sqrt(gone / all_of_it), module))
    error = math.sqrt(lost / whole) if whole else 0.0
    return reduced, Lost(error, *worst)


def _svd(a: Matrix, b: Matrix) -> tuple[Matrix, Matrix, Matrix]:
    """The singular value decomposition of B A, from that of a matrix as small as its rank."""
    q_b, r_b = np.linalg.qr(b)
    q_a, r_a = np.linalg.qr(a.T)
    left, values, right = np.linalg.svd(r_b @ r_a.T)
    small = len(values)
    return q_b @ left[:, :small], values, right[:small] @ q_a.T


# ---------------------------------------------------------------- tensors in and out


def _pairs(files: AdapterFiles) -> dict[str, tuple[Matrix, Matrix]]:
    """(A, B) by module. Raises MixError for what is no pair of matrices."""
    halves: dict[str, dict[str, Matrix]] = {}
    data = np.memmap(files.directory / WEIGHTS, mode="r", offset=files.header)
    for name, tensor in files.tensors.items():
        stem, _, half = name.removesuffix(".weight").rpartition(".lora_")
        if half not in ("A", "B") or not stem.startswith(PREFIX) or len(tensor.shape) != 2:
            raise MixError(f"{files.directory.name}: {name} is not half of a low-rank pair")
        halves.setdefault(stem.removeprefix(PREFIX), {})[half] = _floats(files, tensor, data)
    for module, pair in halves.items():
        if len(pair) != 2 or pair["A"].shape[0] != pair["B"].shape[1]:
            raise MixError(f"{files.directory.name}: the halves of {module} do not fit")
    return {module: (pair["A"], pair["B"]) for module, pair in halves.items()}


def _floats(files: AdapterFiles, tensor: Tensor, data: npt.NDArray[np.uint8]) -> Matrix:
    raw = np.ascontiguousarray(data[tensor.begin : tensor.end])
    match tensor.dtype:
        case "F32":
            floats = raw.view("<f4").astype(np.float32)
        case "F16":
            floats = raw.view("<f2").astype(np.float32)
        case "BF16":
            # A bfloat16 is the upper half of the float32 of the same value.
            floats = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        case other:
            raise MixError(f"{files.directory.name}: tensors in {other} cannot be mixed")
    return floats.reshape(tensor.shape)


def _stored(matrix: Matrix, dtype: str) -> bytes:
    """Rounded to the nearest, ties to even."""
    if dtype == "F32":
        return matrix.astype("<f4").tobytes()
    if dtype == "F16":
        return matrix.astype("<f2").tobytes()
    bits = np.ascontiguousarray(matrix, dtype=np.float32).view(np.uint32)
    rounded = bits + 0x7FFF + ((bits >> 16) & 1)
    return (rounded >> 16).astype("<u2").tobytes()


def _dtype(files: AdapterFiles) -> str:
    return max((tensor.dtype for tensor in files.tensors.values()), key=WIDEST.index)


def _write_weights(
    path: Path, deltas: Mapping[str, tuple[Matrix, Matrix]], rank: int, dtype: str
) -> None:
    """A safetensors file: the header's length, the header, the tensors without gaps."""
    header: dict[str, dict[str, object]] = {}
    data, at = [], 0
    for module, (a, b) in deltas.items():
        more = rank - a.shape[0]
        for half, matrix in (
            ("A", np.pad(a, ((0, more), (0, 0)))),
            ("B", np.pad(b, ((0, 0), (0, more)))),
        ):
            piece = _stored(matrix, dtype)
            header[f"{PREFIX}{module}.lora_{half}.weight"] = {
                "dtype": dtype,
                "shape": list(matrix.shape),
                "data_offsets": [at, at + len(piece)],
            }
            data.append(piece)
            at += len(piece)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # data begins at a multiple of 8 bytes
    path.write_bytes(b"".join([len(text).to_bytes(8, "little"), text, *data]))


def _write_config(
    path: Path, parts: Sequence[tuple[AdapterFiles, float]], modules: Sequence[str], rank: int
) -> None:
    bases = [files.config.base_model_name_or_path for files, _ in parts]
    config = {
        "base_model_name_or_path": next((base for base in bases if base), None),
        "bias": "none",
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": sorted({module.rsplit(".", 1)[-1] for module in modules}),
        "task_type": "CAUSAL_LM",
        "use_rslora": False,
    }
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def delta_of(directory: Path) -> dict[str, Matrix]:
    """What an adapter adds to each module's weight, s B A: for looking at small ones."""
    files = read(directory)
    return {
        module: np.float32(files.config.scaling(module)) * (b @ a)
        for module, (a, b) in _pairs(files).items()
    }
