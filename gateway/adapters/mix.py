"""Adapters mixed into one: the weighted sum of what each adds to the base's weights.

A LoRA adds s B A to a weight, s its scaling. A weighted sum of them is a LoRA again, exactly, of
the summed rank:

    sum_i w_i s_i B_i A_i = [w_1 s_1 B_1 | w_2 s_2 B_2 | ...] [A_1; A_2; ...]

Modules that only some adapters have are united. Weights are used as they are: 1 : 1 adds both in
full. Where the summed rank is more than the declared one, a module's delta becomes the closest of
that rank, which is its truncated singular value decomposition (Eckart and Young 1936). The delta
itself is never formed: with B = Q_b R_b and A^T = Q_a R_a, the singular values of B A are those of
the small R_b R_a^T, and its singular vectors are that one's, turned by Q_b and Q_a.

A mix has one rank r for all modules, those of fewer parts padded with zeros, and alpha = r, so that
its scaling is 1. vLLM 0.32 would take the smaller tensors too: it copies each into a zeroed buffer
of --max-lora-rank (`set_lora` in lora/layers/base_linear.py and column_parallel_linear.py), and
scales by the config alone (lora/peft_helper.py). But it refuses experts whose ranks differ
(`pack_moe` in lora/lora_weights.py), and peft wants tensors of the rank that the config says.
Padding suits all of them, and costs nothing but bytes in the file.

The sum is worked out in float32, what is told of its error in double precision. One module is in
memory at a time.
"""

import hashlib
import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from gateway.adapters import check, files
from gateway.adapters.intake import sync
from gateway.adapters.tensors import (
    Array,
    DType,
    Matrix,
    Spec,
    Tensor,
    of_adapter,
    tensor,
    widest,
    write,
)
from gateway.errors import SwitchboardError

Kind = Literal["linear", "embedding"]

VERSION = 1
"""Part of every recipe: a mix that was made in another way is made again."""

_HALF = re.compile(r"(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<half>[AB])(\.weight)?")
_NAMES: Mapping[Kind, tuple[str, str]] = {
    "linear": ("lora_A.weight", "lora_B.weight"),
    "embedding": ("lora_embedding_A", "lora_embedding_B"),
}


class MixError(SwitchboardError, ValueError):
    """Adapters that cannot be mixed; the text names them, what was found, and the mend."""


class Part(msgspec.Struct, frozen=True):
    """One adapter of a mix, in its directory. `name` is for messages; the directory's if empty."""

    directory: Path
    weight: float
    name: str = ""


class Lora(NamedTuple):
    """What an adapter adds to one module: `scaling` * b @ a, transposed for an embedding.

    `a` has the shape (rank, in features), or (rank, vocabulary); `b` has (out features, rank).
    """

    a: Matrix
    b: Matrix
    scaling: float
    kind: Kind = "linear"


class Summand(NamedTuple):
    """An adapter with its weight. `loras` are by the module's path in the base."""

    name: str
    weight: float
    loras: Mapping[str, Lora]
    base: str | None = None


class Share(msgspec.Struct, frozen=True):
    """What of a mix came from one adapter; its rank is the largest of its modules."""

    name: str
    weight: float
    rank: int
    modules: int


class Report(msgspec.Struct, frozen=True):
    """How a mix came out.

    `relative_error` is the Frobenius norm of what is stored less the weighted sum, over that of the
    sum, all modules together: what SVD left out and what the stored type rounded off. Stacked and
    in float32 it is 0. `worst_error` is that of one module, `worst_module`. `reduced` counts the
    modules that went through SVD, `size` the tensors' bytes.
    """

    rank: int
    summed_rank: int
    dtype: DType
    modules: int
    reduced: int
    parts: tuple[Share, ...]
    relative_error: float
    worst_error: float
    worst_module: str
    size: int


class Mixed(NamedTuple):
    """A mix in memory: each module's a and b of one rank, scaling 1."""

    loras: dict[str, Lora]
    report: Report


class _Module(NamedTuple):
    """One module of a mix; `rank` is its parts' sum."""

    path: str
    kind: Kind
    inside: int
    outside: int
    rank: int


class _Plan(NamedTuple):
    """All that is known of a mix before a number is read."""

    summands: tuple[Summand, ...]
    modules: tuple[_Module, ...]
    rank: int
    dtype: DType
    base: str | None


class _Made(NamedTuple):
    """One module's factors as they are stored; norms of the exact delta and of what is lost."""

    a: Tensor
    b: Tensor
    norm: float
    lost: float


# ---------------------------------------------------------------- what callers use


def recipe(parts: Sequence[tuple[str, float]], rank: int | None, dtype: DType | None = None) -> str:
    """A hash of what a mix is made of: its parts' digests and weights, its rank and its type.

    The order of the parts does not count, nor do parts of weight 0: they do not change the sum.
    """
    used = sorted((digest, float(weight).hex()) for digest, weight in parts if weight)
    text = json.dumps([VERSION, used, rank, dtype])
    return "mix:" + hashlib.sha256(text.encode()).hexdigest()


def mix(
    parts: Sequence[Part],
    out: Path,
    *,
    rank: int | None = None,
    max_rank: int | None = None,
    dtype: DType | None = None,
    base_matches: bool = False,
) -> Report:
    """Writes the mix of adapters' directories into the new directory `out`.

    As for `combine`; besides, `base_matches` says that the parts' bases are one, whatever their
    configs call them. `out` appears whole or not at all. The same parts in the same order make the
    same bytes, as long as numpy and the machine are the same. Raises MixError, AdapterError for
    files that are none, OSError. Takes seconds to minutes: call it in a thread.
    """
    counted = [part for part in parts if _counts(_name(part), part.weight)]
    summands = [_summand(part, base_matches) for part in counted]
    plan = _plan(summands, max_rank, rank, dtype)
    if out.exists():
        raise MixError(f"{out}: exists already; a mix goes into a new directory")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        report = _written(plan, scratch)
        scratch.chmod(0o755)
        scratch.rename(out)
    except BaseException:
        shutil.rmtree(scratch)
        raise
    sync(out.parent)
    return report


def combine(
    summands: Sequence[Summand],
    *,
    max_rank: int | None = None,
    rank: int | None = None,
    dtype: DType | None = None,
) -> Mixed:
    """The weighted sum of adapters.

    It has the parts' summed rank, unless that is more than `rank`: then modules past it are reduced
    to it. Without `rank`, a sum over `max_rank` is an error. `dtype` is what the sum is stored in;
    the narrowest type that holds all parts' values unless given. A part of weight 0 is left out.
    Raises MixError.
    """
    plan = _plan(
        [each for each in summands if _counts(each.name, each.weight)], max_rank, rank, dtype
    )
    made = [_make(plan, module) for module in plan.modules]
    loras = {
        module.path: Lora(each.a, each.b, 1.0, module.kind)
        for module, each in zip(plan.modules, made, strict=True)
    }
    return Mixed(loras, _report(plan, [(each.norm, each.lost) for each in made]))


# ---------------------------------------------------------------- what there is to do


def _counts(name: str, weight: float) -> bool:
    """Whether a part adds anything. Raises MixError where the weight is no number."""
    if not math.isfinite(weight):
        raise MixError(f"{name}: has the weight {weight}; write a finite number")
    return weight != 0


def _plan(
    summands: Sequence[Summand], max_rank: int | None, rank: int | None, dtype: DType | None
) -> _Plan:
    if not summands:
        raise MixError("a mix needs at least one adapter with a weight other than 0")
    base = _base(summands)
    paths = sorted({path for summand in summands for path in summand.loras})
    if not paths:
        raise MixError(f"{', '.join(each.name for each in summands)}: have no modules")
    modules = tuple(_module(path, summands) for path in paths)
    summed = max(module.rank for module in modules)
    _within(summands, modules, max_rank, rank)
    stored = (half.dtype for each in summands for lora in each.loras.values() for half in lora[:2])
    kept = summed if rank is None else min(summed, rank)
    return _Plan(tuple(summands), modules, kept, dtype or widest(stored), base)


def _base(summands: Sequence[Summand]) -> str | None:
    """The base that all are for; a local path and the Hub's name of a base end alike."""
    first: Summand | None = None
    for each in summands:
        if not each.base:
            continue
        if first is None:
            first = each
        elif _last(each.base) != _last(first.base or ""):
            raise MixError(
                f"{each.name}: is for the base {each.base}, but {first.name} is for {first.base}; "
                f"mix adapters of one base"
            )
    return first.base if first is not None else None


def _last(base: str) -> str:
    return base.rstrip("/").rsplit("/", 1)[-1].lower()


def _module(path: str, summands: Sequence[Summand]) -> _Module:
    """What a module of the mix will be. Raises MixError where its parts do not fit together."""
    found: _Module | None = None
    of = ""
    for name, _, loras, _ in summands:
        lora = loras.get(path)
        if lora is None:
            continue
        each = _one(name, path, lora)
        if found is None:
            found, of = each, name
        elif found[:4] != each[:4]:
            raise MixError(f"{name}: {_said(each)}, but for {of} {_said(found)}; mix one base's")
        else:
            found = found._replace(rank=found.rank + each.rank)
    assert found is not None
    return found


def _one(name: str, path: str, lora: Lora) -> _Module:
    a, b = lora.a.shape, lora.b.shape
    if len(a) != 2 or len(b) != 2 or a[0] != b[1] or min(*a, *b) < 1:
        raise MixError(
            f"{name}: {path}: A is {list(a)} and B is {list(b)}; expected [rank, in] and "
            f"[out, rank]"
        )
    if not math.isfinite(lora.scaling):
        raise MixError(f"{name}: {path}: its scaling is {lora.scaling}; expected a finite number")
    return _Module(path, lora.kind, a[1], b[0], a[0])


def _said(module: _Module) -> str:
    return f"{module.path} is {module.kind}, from {module.inside} to {module.outside} features"


def _within(
    summands: Sequence[Summand],
    modules: Sequence[_Module],
    max_rank: int | None,
    rank: int | None,
) -> None:
    """Raises MixError unless the mix can have the rank that is asked for."""
    most = max(modules, key=lambda module: module.rank)
    if rank is not None and rank < 1:
        raise MixError(f"the mix's rank is declared as {rank}; write 1 or more")
    if max_rank is None:
        return
    if rank is not None and rank > max_rank and most.rank > max_rank:
        raise MixError(
            f"the mix's rank is declared as {rank}, over the replicas' maximum of {max_rank}; "
            f"write `rank: {max_rank}`, or start them with a larger --max-lora-rank"
        )
    if rank is None and most.rank > max_rank:
        ranks = " + ".join(
            f"{each.loras[most.path].a.shape[0]} ({each.name})"
            for each in summands
            if most.path in each.loras
        )
        raise MixError(
            f"{most.path}: the ranks sum up to {ranks} = {most.rank}, over the replicas' maximum "
            f"of {max_rank}; write `rank: {max_rank}` to have the mix reduced to it"
        )


# ---------------------------------------------------------------- numbers


def _make(plan: _Plan, module: _Module) -> _Made:
    """One module of the mix. Raises MixError where a number is none, or too large for its type."""
    with np.errstate(over="ignore"):  # what is infinite then is told with its module
        a, b = _stacked(plan.summands, module.path)
        _within_range(module, "float32", b)
        norm = 0.0 if _is_exact(plan) else _norm(b, a)
        left_out = 0.0
        if module.rank > plan.rank:
            a, b, left_out = _reduced(module, a, b, plan.rank)
    spare = plan.rank - a.shape[0]
    made_a = tensor(np.pad(a, ((0, spare), (0, 0))), plan.dtype)
    made_b = tensor(np.pad(b, ((0, 0), (0, spare))), plan.dtype)
    _within_range(module, plan.dtype, made_a.float32(), made_b.float32())
    return _Made(made_a, made_b, norm, math.hypot(left_out, _rounded_off(a, b, made_a, made_b)))


def _within_range(module: _Module, dtype: DType, *arrays: Array) -> None:
    if not all(np.isfinite(each).all() for each in arrays):
        mend = "write smaller weights" + ("" if dtype == "float32" else ", or store it in float32")
        raise MixError(f"{module.path}: the sum has numbers too large for {dtype}; {mend}")


def _stacked(summands: Sequence[Summand], path: str) -> tuple[Array, Array]:
    """A (rank, in) and B (out, rank) of the sum, weights and scalings in B."""
    rows, columns = [], []
    for name, weight, loras, _ in summands:
        if path not in loras:
            continue
        lora = loras[path]
        a, b = lora.a.float32(), lora.b.float32()
        if not (np.isfinite(a).all() and np.isfinite(b).all()):
            raise MixError(f"{name}: {path}: has numbers that are infinite or none; train it again")
        rows.append(a)
        columns.append(b * np.float32(weight * lora.scaling))
    return np.concatenate(rows, axis=0), np.concatenate(columns, axis=1)


def _reduced(module: _Module, a: Array, b: Array, rank: int) -> tuple[Array, Array, float]:
    """The closest A and B of a rank, and the norm of what they leave out.

    Half of each singular value goes to either side, by its root, so that neither side's numbers are
    much larger than the other's. Fewer than `rank` come back where the delta itself is of less.
    """
    q_b, r_b = np.linalg.qr(b)
    q_a, r_a = np.linalg.qr(a.T)
    core = r_b @ r_a.T
    _within_range(module, "float32", core)
    left, values, right = np.linalg.svd(core, full_matrices=False)
    root = np.sqrt(values[:rank])
    kept_a = root[:, None] * (right[:rank] @ q_a.T)
    kept_b = (q_b @ left[:, :rank]) * root
    return kept_a, kept_b, float(np.linalg.norm(values[rank:].astype(np.float64)))


def _rounded_off(a: Array, b: Array, made_a: Tensor, made_b: Tensor) -> float:
    """The norm of B A less what is stored of it.

    As (B - B') A + B' (A - A'), in which nothing cancels. What SVD left out is taken to be at right
    angles to it: rounding knows nothing of the singular vectors.
    """
    if made_a.dtype == "float32":
        return 0.0
    stored_a, stored_b = made_a.float32()[: len(a)], made_b.float32()[:, : b.shape[1]]
    less_a, less_b = a - stored_a, b - stored_b
    if not less_a.any():
        return _norm(less_b, a) if less_b.any() else 0.0
    return _norm(np.concatenate((less_b, stored_b), axis=1), np.concatenate((a, less_a), axis=0))


def _norm(b: Array, a: Array) -> float:
    """The Frobenius norm of B A, which is not formed: its square is tr((B^T B) (A A^T)).

    Squares lose half of the digits to what cancels, so that these two small matrices are in double
    precision.
    """
    wide_b, wide_a = b.astype(np.float64), a.astype(np.float64)
    square = np.vdot(wide_b.T @ wide_b, wide_a @ wide_a.T)
    return math.sqrt(max(float(square), 0.0))


# ---------------------------------------------------------------- how it came out


def _is_exact(plan: _Plan) -> bool:
    """Whether nothing can be lost, so that nothing need be measured."""
    return plan.dtype == "float32" and all(each.rank <= plan.rank for each in plan.modules)


def _report(plan: _Plan, norms: Sequence[tuple[float, float]]) -> Report:
    """`norms` are those of each module's delta and of what is lost of it."""
    whole = math.hypot(*(norm for norm, _ in norms))
    lost = math.hypot(*(lost for _, lost in norms))
    errors = [_ratio(lost, norm) for norm, lost in norms]
    worst = max(range(len(errors)), key=errors.__getitem__)
    return Report(
        rank=plan.rank,
        summed_rank=max(module.rank for module in plan.modules),
        dtype=plan.dtype,
        modules=len(plan.modules),
        reduced=sum(module.rank > plan.rank for module in plan.modules),
        parts=tuple(
            Share(
                each.name,
                each.weight,
                max((lora.a.shape[0] for lora in each.loras.values()), default=0),
                len(each.loras),
            )
            for each in plan.summands
        ),
        relative_error=_ratio(lost, whole),
        worst_error=errors[worst],
        worst_module=plan.modules[worst].path,
        size=sum(spec.size for spec in _specs(plan)),
    )


def _ratio(lost: float, whole: float) -> float:
    """Nothing lost of nothing is no error."""
    if lost == 0:
        return 0.0
    return lost / whole if whole else math.inf


# ---------------------------------------------------------------- directories


def _name(part: Part) -> str:
    return part.name or part.directory.name


def _summand(part: Part, base_matches: bool) -> Summand:
    """An adapter's directory, its numbers yet to be read. Raises MixError and AdapterError."""
    name = _name(part)
    found = files.read(part.directory)
    try:
        findings = check.check(found, None, name=name)
        wrong = [str(each) for each in findings if each.severity == "error"]
        if wrong:
            raise MixError("; ".join(wrong))
        loras = _loras(name, found)
    except re.error as error:
        raise MixError(
            f"{name}: {files.CONFIG}: rank_pattern or alpha_pattern has {error.pattern!r}, which "
            f"is no regular expression: {error}"
        ) from error
    base = None if base_matches else found.config.base_model_name_or_path
    return Summand(name, part.weight, loras, base)


def _loras(name: str, found: files.AdapterFiles) -> dict[str, Lora]:
    halves: dict[tuple[str, Kind], dict[str, Matrix]] = {}
    for tensor_name, stored in of_adapter(found).items():
        match = _HALF.fullmatch(tensor_name.removeprefix(check.PREFIX))
        assert match is not None  # it was checked
        kind: Kind = "embedding" if match["embedding"] else "linear"
        halves.setdefault((match["module"], kind), {})[match["half"]] = stored
    loras: dict[str, Lora] = {}
    for (path, kind), half in halves.items():
        if path in loras or len(half) != 2:
            raise MixError(f"{name}: {path}: has lora_ and lora_embedding_ tensors; expected one")
        if found.config.rank(path) < 1:
            raise MixError(
                f"{name}: {path}: has rank {found.config.rank(path)}; expected 1 or more"
            )
        loras[path] = Lora(half["A"], half["B"], found.config.scaling(path), kind)
    return loras


def _written(plan: _Plan, folder: Path) -> Report:
    norms: list[tuple[float, float]] = []

    def tensors() -> Iterator[Tensor]:
        for module in plan.modules:
            made = _make(plan, module)
            norms.append((made.norm, made.lost))
            yield made.a
            yield made.b

    write(folder / files.WEIGHTS, _specs(plan), tensors())
    config = folder / files.CONFIG
    config.write_text(json.dumps(_config(plan), indent=2, sort_keys=True) + "\n", "utf-8")
    sync(config)
    sync(folder)
    return _report(plan, norms)


def _specs(plan: _Plan) -> list[Spec]:
    """The tensors of a mix, in the order in which they are written."""
    specs = []
    for module in plan.modules:
        a, b = (f"{check.PREFIX}{module.path}.{half}" for half in _NAMES[module.kind])
        specs.append(Spec(a, plan.dtype, (plan.rank, module.inside)))
        specs.append(Spec(b, plan.dtype, (module.outside, plan.rank)))
    return specs


def _config(plan: _Plan) -> dict[str, object]:
    """What peft writes beside the weights, as far as it says anything of them."""
    return {
        "alpha_pattern": {},
        "base_model_name_or_path": plan.base,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": plan.rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": plan.rank,
        "rank_pattern": {},
        "target_modules": sorted({module.path.rsplit(".", 1)[-1] for module in plan.modules}),
        "task_type": "CAUSAL_LM",
        "use_dora": False,
        "use_rslora": False,
    }
