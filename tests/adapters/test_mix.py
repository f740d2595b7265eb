"""A mix against the weighted sum of the deltas, formed in full and in double precision."""

import json
import math
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file

from gateway.adapters import check, files, mix
from gateway.adapters.mix import Lora, MixError, Part, Summand, combine, recipe
from gateway.adapters.tensors import DType, Stored, Tensor, of_adapter, tensor
from tests.adapters import lora

Delta = npt.NDArray[np.float64]

DEMO = Path(__file__).parents[2] / "demo/weights/adapters"
FLOAT32, BFLOAT16 = 1e-5, 1e-2
"""How far from the sum a mix may be, relative to it."""

INSIDE, OUTSIDE = 6, 9


# ---------------------------------------------------------------- what is expected


def delta_of(each: Lora) -> Delta:
    a, b = each.a.float32().astype(np.float64), each.b.float32().astype(np.float64)
    return each.scaling * (b @ a)


def summed(summands: Sequence[Summand]) -> dict[str, Delta]:
    """What the mix should add to each module."""
    found: dict[str, Delta] = {}
    for _, weight, loras, _ in summands:
        for path, each in loras.items() if weight else ():
            found[path] = found.get(path, np.zeros(1)) + weight * delta_of(each)
    return found


def size_of(summands: Sequence[Summand]) -> dict[str, float]:
    """The sum's norms, as if nothing in it cancelled: rounding is measured by this."""
    found: dict[str, float] = {}
    for _, weight, loras, _ in summands:
        for path, (a, b, scaling, _) in loras.items():
            largest = np.abs(b.float32()) @ np.abs(a.float32())
            norm = abs(weight * scaling) * float(np.linalg.norm(largest))
            found[path] = found.get(path, 0.0) + norm
    return found


def loaded(directory: Path) -> dict[str, Delta]:
    """Each module's delta of an adapter's directory, by what files.py and its config say."""
    found = files.read(directory)
    stored = of_adapter(found)
    deltas = {}
    for name in stored:
        if ".lora_A." in name:
            path = name.removeprefix(check.PREFIX).removesuffix(".lora_A.weight")
            a, b = stored[name], stored[name.replace(".lora_A.", ".lora_B.")]
            deltas[path] = delta_of(Lora(a, b, found.config.scaling(path)))
    return deltas


def distance(found: Mapping[str, Delta], expected: Mapping[str, Delta]) -> float:
    """The relative error over all modules."""
    assert found.keys() == expected.keys()
    lost = math.hypot(*(float(np.linalg.norm(found[path] - expected[path])) for path in expected))
    return lost / math.hypot(*(float(np.linalg.norm(each)) for each in expected.values()))


def tail(delta: Delta, rank: int) -> float:
    """The least that any matrix of this rank leaves out (Eckart and Young)."""
    return float(np.linalg.norm(np.linalg.svd(delta, compute_uv=False)[rank:]))


# ---------------------------------------------------------------- what is mixed


def pair(rank: int, seed: int = 0, scaling: float = 1.0, dtype: DType = "float32") -> Lora:
    return shaped(rank, INSIDE, OUTSIDE, seed, scaling, dtype)


def shaped(
    rank: int, inside: int, outside: int, seed: int, scaling: float, dtype: DType = "float32"
) -> Lora:
    draw = np.random.default_rng(seed)
    a = draw.standard_normal((rank, inside)).astype(np.float32)
    b = draw.standard_normal((outside, rank)).astype(np.float32)
    return Lora(tensor(a, dtype), tensor(b, dtype), scaling)


def one(name: str, weight: float = 1.0, rank: int = 2, **more: Any) -> Summand:
    seed = sum(name.encode())
    return Summand(name, weight, {"m.q": pair(rank, seed)}, **more)


@st.composite
def summands(draw: st.DrawFn) -> list[Summand]:
    """1 to 4 adapters on one base, each with modules, ranks and scalings of its own."""
    width = st.integers(1, 12)
    shapes = {f"m.{name}": (draw(width), draw(width)) for name in "qkv"}
    found = []
    for number in range(draw(st.integers(1, 4))):
        paths = draw(st.sets(st.sampled_from(sorted(shapes)), min_size=1))
        loras = {
            path: shaped(
                draw(st.integers(1, 8)),
                *shapes[path],
                draw(st.integers(0, 2**31)),
                draw(st.floats(0.01, 100)),
            )
            for path in sorted(paths)
        }
        weight = draw(st.floats(0.1, 3) | st.floats(-3, -0.1))
        found.append(Summand(f"part-{number}", weight, loras))
    return found


@st.composite
def written(draw: st.DrawFn) -> tuple[lora.Tensors, dict[str, Any], dict[str, float]]:
    """An adapter as peft writes it: tensors, config, and each module's scaling, worked out here."""
    rank, alpha = draw(st.integers(1, 5)), draw(st.integers(1, 32))
    rslora = draw(st.booleans())
    modules = draw(st.sets(st.sampled_from(sorted(lora.SIZES)), min_size=1))
    some = st.sets(st.sampled_from(sorted(modules))).map(sorted)
    ranks = {key: draw(st.integers(1, 5)) for key in draw(some)}
    alphas = {key: draw(st.integers(1, 32)) for key in draw(some)}
    made: lora.Tensors = {}
    scalings: dict[str, float] = {}
    for module in sorted(modules):
        own = ranks.get(module, rank)
        made |= lora.tensors([module], own, layers=[0, 1], seed=draw(st.integers(0, 2**31)))
        scale = alphas.get(module, alpha) / (math.sqrt(own) if rslora else own)
        scalings |= {lora.path_of(layer, module): scale for layer in (0, 1)}
    # Patterns are regular expressions, from a dot on: these match by part of a path and by class.
    said = lora.config(
        sorted(modules),
        rank,
        lora_alpha=alpha,
        use_rslora=rslora,
        rank_pattern={f"layers.[01].*{key}": value for key, value in ranks.items()},
        alpha_pattern=dict(alphas),
    )
    return made, said, scalings


# ---------------------------------------------------------------- stacked: exact


@given(summands())
def test_a_mix_is_the_weighted_sum(parts: list[Summand]) -> None:
    mixed = combine(parts)
    expected, size = summed(parts), size_of(parts)
    assert mixed.loras.keys() == expected.keys()
    for path, each in mixed.loras.items():
        assert each.a.shape[0] == each.b.shape[1] == mixed.report.rank
        assert each.scaling == 1
        assert np.linalg.norm(delta_of(each) - expected[path]) <= FLOAT32 * size[path]
    assert mixed.report.relative_error == 0
    assert mixed.report.reduced == 0


@given(summands(), st.sampled_from(["bfloat16", "float16"]))
def test_stored_in_16_bits_it_is_the_sum_rounded(parts: list[Summand], dtype: DType) -> None:
    mixed = combine(parts, dtype=dtype)
    expected, size = summed(parts), size_of(parts)
    for path, each in mixed.loras.items():
        assert each.a.dtype == each.b.dtype == dtype
        assert np.linalg.norm(delta_of(each) - expected[path]) <= BFLOAT16 * size[path]


@given(summands(), st.sampled_from(["bfloat16", "float16"]), st.integers(1, 10))
def test_the_error_told_is_the_error(parts: list[Summand], dtype: DType, rank: int) -> None:
    mixed = combine(parts, dtype=dtype, rank=rank)
    expected = summed(parts)
    lost = {path: delta_of(each) - expected[path] for path, each in mixed.loras.items()}
    whole = math.hypot(*(float(np.linalg.norm(each)) for each in expected.values()))
    told = mixed.report.relative_error * whole
    real = math.hypot(*(float(np.linalg.norm(each)) for each in lost.values()))
    # Both parts of the error are right; that they stand at right angles is the estimate in it.
    assert told == pytest.approx(real, rel=0.05, abs=1e-4 * sum(size_of(parts).values()))


@given(st.lists(st.tuples(written(), st.floats(-2, 2)), min_size=1, max_size=3))
def test_files_are_mixed_by_what_their_configs_say(
    tmp_path_factory: pytest.TempPathFactory,
    parts: list[tuple[tuple[lora.Tensors, dict[str, Any], dict[str, float]], float]],
) -> None:
    folder = tmp_path_factory.mktemp("mix")
    expected: dict[str, Delta] = {}
    size = 0.0
    sources = [Part(lora.write(folder / "sure"), 1.0)]
    for path, own in loaded(folder / "sure").items():
        expected[path], size = own, size + float(np.linalg.norm(own))
    for number, ((made, said, scalings), weight) in enumerate(parts):
        sources.append(Part(lora.write(folder / str(number), made, said), weight))
        for path, scaling in scalings.items() if weight else ():
            a = made[f"{check.PREFIX}{path}.lora_A.weight"].astype(np.float64)
            b = made[f"{check.PREFIX}{path}.lora_B.weight"].astype(np.float64)
            expected[path] = expected.get(path, np.zeros(1)) + weight * scaling * (b @ a)
            size += abs(weight) * scaling * float(np.linalg.norm(b @ a))
    report = mix.mix(sources, folder / "out")
    found = loaded(folder / "out")
    assert found.keys() == expected.keys()
    assert all(np.linalg.norm(found[p] - expected[p]) <= FLOAT32 * size for p in expected)
    assert files.read(folder / "out").rank == report.rank == report.summed_rank


def test_modules_are_united_and_padded_to_one_rank() -> None:
    parts = [
        Summand("one", 1.0, {"m.q": pair(2, 1), "m.k": pair(3, 2)}),
        Summand("two", 1.0, {"m.q": pair(4, 3), "m.v": pair(1, 4)}),
    ]
    mixed = combine(parts)
    assert mixed.report.rank == 6
    assert {path: each.a.shape for path, each in mixed.loras.items()} == dict.fromkeys(
        ("m.k", "m.q", "m.v"), (6, INSIDE)
    )
    assert not mixed.loras["m.v"].a.float32()[1:].any()
    assert not mixed.loras["m.v"].b.float32()[:, 1:].any()


def test_weights_are_not_normalised_may_be_negative_and_0_leaves_out() -> None:
    twice = combine([one("a", 2.0)])
    assert np.allclose(delta_of(twice.loras["m.q"]), 2 * delta_of(one("a").loras["m.q"]))
    away = combine([one("a"), one("a", -1.0)])
    assert np.abs(delta_of(away.loras["m.q"])).max() < 1e-5
    alone = combine([one("a"), one("b", 0.0, rank=4, base="another")])
    assert alone.report.rank == 2
    assert [share.name for share in alone.report.parts] == ["a"]


def test_an_embedding_stays_one(tmp_path: Path) -> None:
    name = f"{check.PREFIX}model.embed_tokens.lora_embedding_"
    draw = np.random.default_rng(5)
    a = draw.standard_normal((2, lora.VOCABULARY)).astype(np.float32)
    b = draw.standard_normal((lora.HIDDEN, 2)).astype(np.float32)
    made = {f"{name}A": a, f"{name}B": b}
    source = lora.write(tmp_path / "a", made, lora.config(["embed_tokens"], 2))
    mix.mix([Part(source, 1.0), Part(source, 0.5)], tmp_path / "out")
    out = load_file(tmp_path / "out" / files.WEIGHTS)
    assert {key: each.shape for key, each in out.items()} == {
        f"{name}A": (4, lora.VOCABULARY),
        f"{name}B": (lora.HIDDEN, 4),
    }
    assert np.allclose(out[f"{name}B"] @ out[f"{name}A"], 1.5 * 2 * (b @ a), rtol=1e-4, atol=1e-4)
    found = files.read(tmp_path / "out")
    base = files.read_base(lora.write_base(tmp_path / "base"))
    assert not check.check(found, base, name="out", base_id="base")


# ---------------------------------------------------------------- reduced: the best there is


@given(summands(), st.integers(1, 6))
def test_what_is_reduced_is_the_closest_of_its_rank(parts: list[Summand], rank: int) -> None:
    mixed = combine(parts, rank=rank)
    expected, size = summed(parts), size_of(parts)
    ranks = {path: sum(p.loras[path].a.shape[0] for p in parts if path in p.loras) for path in size}
    kept = {path: max(rank, 0) if ranks[path] > rank else ranks[path] for path in ranks}
    best = {path: tail(expected[path], kept[path]) for path in expected}
    for path, each in mixed.loras.items():
        lost = float(np.linalg.norm(delta_of(each) - expected[path]))
        assert lost == pytest.approx(best[path], abs=FLOAT32 * size[path])
    assert mixed.report.reduced == sum(each > rank for each in ranks.values())
    assert mixed.report.rank == min(rank, max(ranks.values()))
    whole = math.hypot(*(float(np.linalg.norm(each)) for each in expected.values()))
    told = mixed.report.relative_error * whole
    assert told == pytest.approx(math.hypot(*best.values()), abs=FLOAT32 * sum(size.values()))


def test_nothing_is_lost_where_the_true_rank_is_not_over_the_declared() -> None:
    parts = [one("a", 1.0), one("a", 0.5), one("b", -1.0)]  # 6 ranks stacked, of which 4 are there
    mixed = combine(parts, rank=4)
    assert mixed.report.reduced == 1
    assert mixed.report.relative_error < 1e-6
    found = {path: delta_of(each) for path, each in mixed.loras.items()}
    assert distance(found, summed(parts)) < FLOAT32


def test_the_worst_module_is_named() -> None:
    parts = [
        Summand("a", 1.0, {"m.q": pair(2, 1), "m.k": pair(2, 2)}),
        Summand("b", 1.0, {"m.q": pair(2, 1), "m.k": pair(2, 3)}),
    ]
    report = combine(parts, rank=2).report
    assert report.worst_module == "m.k"
    lost, whole = tail(summed(parts)["m.k"], 2), float(np.linalg.norm(summed(parts)["m.k"]))
    assert report.worst_error == pytest.approx(lost / whole, rel=1e-4)
    assert 0 < report.relative_error < report.worst_error


def test_neither_side_takes_all_of_a_delta() -> None:
    parts = [Summand("a", 1e6, {"m.q": pair(3, 1)}), Summand("b", 1.0, {"m.q": pair(3, 2)})]
    each = combine(parts, rank=3).loras["m.q"]
    a, b = np.linalg.norm(each.a.float32()), np.linalg.norm(each.b.float32())
    assert a == pytest.approx(b, rel=1e-3)


# ---------------------------------------------------------------- types


@pytest.mark.parametrize(
    ("stored", "asked", "expected"),
    [
        (["bfloat16", "bfloat16"], None, "bfloat16"),
        (["bfloat16", "float32"], None, "float32"),
        (["bfloat16", "float16"], None, "float32"),
        (["float32"], "bfloat16", "bfloat16"),
    ],
)
def test_a_mix_is_stored_in_the_widest_type_unless_one_is_declared(
    stored: list[DType], asked: DType | None, expected: DType
) -> None:
    parts = [Summand(each, 1.0, {"m.q": pair(2, 3, dtype=each)}) for each in stored]
    mixed = combine(parts, dtype=asked)
    assert mixed.report.dtype == mixed.loras["m.q"].a.dtype == expected


def test_what_is_scaled_by_powers_of_two_is_kept_to_the_bit() -> None:
    parts = [Summand("a", 0.5, {"m.q": pair(2, 3, scaling=4.0, dtype="bfloat16")})]
    mixed = combine(parts)
    assert mixed.report.relative_error == 0
    assert np.array_equal(delta_of(mixed.loras["m.q"]), summed(parts)["m.q"])


# ---------------------------------------------------------------- refused


def with_a(a: Any) -> Lora:
    return pair(2)._replace(a=Tensor("float32", np.asarray(a, np.float32)))


@pytest.mark.parametrize(
    ("parts", "more", "told"),
    [
        ([], {}, "needs at least one adapter with a weight other than 0"),
        ([one("a", 0.0)], {}, "needs at least one adapter with a weight other than 0"),
        ([one("a", math.nan)], {}, "a: has the weight nan"),
        ([one("a"), one("b", -math.inf)], {}, "b: has the weight -inf"),
        ([Summand("a", 1.0, {})], {}, "a: have no modules"),
        (
            [one("a", base="org/Qwen3-8B"), one("b"), one("c", base="org/Qwen3-4B")],
            {},
            "c: is for the base org/Qwen3-4B, but a is for org/Qwen3-8B",
        ),
        (
            [one("a"), Summand("b", 1.0, {"m.q": shaped(2, INSIDE, 8, 1, 1.0)})],
            {},
            "b: m.q is linear, from 6 to 8 features, but for a m.q is linear, from 6 to 9 features",
        ),
        (
            [one("a"), Summand("b", 1.0, {"m.q": pair(2)._replace(kind="embedding")})],
            {},
            "b: m.q is embedding, from 6 to 9",
        ),
        (
            [Summand("a", 1.0, {"m.q": with_a(np.ones((3, INSIDE)))})],
            {},
            "a: m.q: A is [3, 6] and B is [9, 2]; expected [rank, in] and [out, rank]",
        ),
        ([Summand("a", 1.0, {"m.q": with_a(np.ones((2, 3, 4)))})], {}, "A is [2, 3, 4]"),
        ([Summand("a", 1.0, {"m.q": with_a(np.ones((2, 0)))})], {}, "A is [2, 0]"),
        (
            [Summand("a", 1.0, {"m.q": with_a(np.full((2, INSIDE), np.nan))})],
            {},
            "a: m.q: has numbers that are infinite or none",
        ),
        (
            [Summand("a", 1.0, {"m.q": pair(2, scaling=math.nan)})],
            {},
            "a: m.q: its scaling is nan",
        ),
        (
            [one("support", rank=40), one("brand", rank=30)],
            {"max_rank": 64},
            "m.q: the ranks sum up to 40 (support) + 30 (brand) = 70, over the replicas' maximum "
            "of 64; write `rank: 64`",
        ),
        (
            [one("a", rank=40), one("b", rank=30)],
            {"max_rank": 64, "rank": 65},
            "declared as 65, over the replicas' maximum of 64; write `rank: 64`",
        ),
        ([one("a")], {"rank": 0}, "declared as 0; write 1 or more"),
        ([one("a", 1e39)], {}, "m.q: the sum has numbers too large for float32; write smaller"),
        ([one("a", 1e38), one("b", 1e38)], {"rank": 2}, "m.q: the sum has numbers too large"),
        (
            [one("a", 1e6)],
            {"dtype": "float16"},
            "too large for float16; write smaller weights, or store it in float32",
        ),
    ],
)
def test_what_cannot_be_mixed_is_told(
    parts: list[Summand], more: dict[str, Any], told: str
) -> None:
    with pytest.raises(MixError) as caught:
        combine(parts, **more)
    assert told in str(caught.value)


def without_b(made: lora.Tensors) -> lora.Tensors:
    return {name: each for name, each in made.items() if "0.self_attn.q_proj.lora_B" not in name}


def renamed(made: lora.Tensors, to: str) -> lora.Tensors:
    return {**made, f"{check.PREFIX}{lora.path_of(0, 'q_proj')}.{to}": np.ones(3, np.float32)}


@pytest.mark.parametrize(
    ("made", "said", "told"),
    [
        (lora.tensors(), {"use_dora": True}, "use_dora: true; expected a plain LoRA"),
        (lora.tensors(), {"bias": "all"}, "bias: all; expected no bias"),
        (lora.tensors(), {"lora_bias": True}, "lora_bias: true; expected no bias"),
        (lora.tensors(), {"modules_to_save": ["lm_head"]}, "modules_to_save: lm_head"),
        (lora.tensors(), {"init_lora_weights": "pissa"}, "init_lora_weights: pissa"),
        (lora.tensors(), {"target_parameters": ["experts"]}, "target_parameters"),
        (without_b(lora.tensors()), {}, "model.layers.0.self_attn.q_proj without lora_B"),
        (renamed(lora.tensors(), "lora_magnitude_vector"), {}, "train it without DoRA"),
        (renamed(lora.tensors(), "lora_B.bias"), {}, "tensor base_model.model.model.layers.0"),
        (lora.tensors(rank=3), {}, "lora_A.weight has rank 3; expected 4"),
        (lora.tensors(), {"rank_pattern": {"q_proj": 3}}, "has rank 4; expected 3"),
        (lora.tensors(), {"alpha_pattern": {"q_proj(": 3}}, "'(.*\\\\.)?(q_proj()$', which is no"),
        ({**lora.tensors(), "x": np.ones(2)}, {}, "tensor x; expected"),
        (lora.tensors(dtype="float64"), {}, "in F64; expected one of F32"),
        (
            {
                **lora.tensors(layers=[0]),
                f"{check.PREFIX}{lora.path_of(0, 'q_proj')}.lora_embedding_A": np.ones(
                    (4, 32), np.float32
                ),
                f"{check.PREFIX}{lora.path_of(0, 'q_proj')}.lora_embedding_B": np.ones(
                    (32, 4), np.float32
                ),
            },
            {},
            "model.layers.0.self_attn.q_proj: has lora_ and lora_embedding_ tensors",
        ),
    ],
)
def test_adapters_that_are_no_plain_loras_are_told_by_name(
    tmp_path: Path, made: lora.Tensors, said: dict[str, Any], told: str
) -> None:
    wrong = lora.write(tmp_path / "wrong", made, lora.config(**said))
    right = lora.write(tmp_path / "right")
    with pytest.raises(MixError) as caught:
        mix.mix([Part(right, 1.0), Part(wrong, 1.0, "odd")], tmp_path / "out")
    assert str(caught.value).startswith("odd: ")
    assert told in str(caught.value)
    assert not (tmp_path / "out").exists()
    mix.mix([Part(right, 1.0), Part(wrong, 0.0, "odd")], tmp_path / "out")  # it is not looked at


def test_files_that_are_none_are_told(tmp_path: Path) -> None:
    for name in ("gone", "torn"):
        lora.write(tmp_path / name)
    (tmp_path / "gone" / files.WEIGHTS).unlink()
    (tmp_path / "torn" / files.WEIGHTS).write_bytes(b"garbage")
    for name in ("gone", "torn"):
        with pytest.raises(files.AdapterError, match=f"{name}/{files.WEIGHTS}"):
            mix.mix([Part(tmp_path / name, 1.0)], tmp_path / "out")


def test_bases_may_be_declared_to_match(tmp_path: Path) -> None:
    parts = [
        Part(lora.write(tmp_path / name, said=lora.config(base_model_name_or_path=base)), 1.0)
        for name, base in (("a", "Org/Tiny"), ("b", "/models/tiny/"), ("c", "unsloth/tiny-4bit"))
    ]
    mix.mix(parts[:2], tmp_path / "ab")  # a local path and the Hub's name end alike
    assert files.read(tmp_path / "ab").config.base_model_name_or_path == "Org/Tiny"
    with pytest.raises(MixError, match="c: is for the base unsloth/tiny-4bit"):
        mix.mix(parts, tmp_path / "abc")
    mix.mix(parts, tmp_path / "abc", base_matches=True)


# ---------------------------------------------------------------- directories


def content(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.mark.parametrize("more", [{}, {"rank": 5}, {"rank": 5, "dtype": "bfloat16"}])
def test_the_same_parts_make_the_same_bytes(tmp_path: Path, more: dict[str, Any]) -> None:
    parts = [
        Part(lora.write(tmp_path / "a"), 1.0),
        Part(
            lora.write(
                tmp_path / "b",
                lora.tensors(["o_proj", "q_proj"], seed=1),
                lora.config(["o_proj", "q_proj"]),
            ),
            0.8,
        ),
    ]
    reports = [mix.mix(parts, tmp_path / name, **more) for name in ("one", "two")]
    assert reports[0] == reports[1]
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert content(tmp_path / "one").keys() == {files.CONFIG, files.WEIGHTS}


def test_what_is_written_is_an_adapter_for_all_to_read(tmp_path: Path) -> None:
    parts = [
        Part(lora.write(tmp_path / name, lora.tensors(seed=seed)), 1.0)
        for seed, name in enumerate("ab")
    ]
    report = mix.mix(parts, tmp_path / "deep" / "out", max_rank=8, dtype="bfloat16")
    out = tmp_path / "deep" / "out"
    said = json.loads((out / files.CONFIG).read_text())
    assert said["r"] == said["lora_alpha"] == report.rank == 8
    assert said["target_modules"] == ["q_proj", "v_proj"]
    assert said["base_model_name_or_path"] == "base"
    base = files.read_base(lora.write_base(tmp_path / "base"))
    assert not check.check(files.read(out), base, name="out", base_id="base", max_rank=8)
    with safe_open(out / files.WEIGHTS, framework="np") as library:
        assert library.metadata() == {"format": "pt"}
        names = library.keys()
        assert len(names) == 2 * report.modules == 8
        assert {library.get_slice(name).get_dtype() for name in names} == {"BF16"}
    assert stat.S_IMODE(out.stat().st_mode) == 0o755
    assert report.size == 2 * 8 * 4 * 32 + 2 * 8 * (2 * 32 + 2 * 16)


def test_nothing_is_at_its_place_when_it_fails_half_way(tmp_path: Path) -> None:
    made = lora.tensors()
    last = f"{check.PREFIX}{lora.path_of(1, 'v_proj')}.lora_B.weight"
    made[last][0, 0] = np.inf  # met when all other modules have been written
    parts = [Part(lora.write(tmp_path / "in" / "a", made), 1.0)]
    with pytest.raises(MixError, match=r"a: model.layers.1.self_attn.v_proj: has numbers"):
        mix.mix(parts, tmp_path / "out" / "mix")
    assert list((tmp_path / "out").iterdir()) == []


def test_what_is_there_is_never_written_over(tmp_path: Path) -> None:
    parts = [Part(lora.write(tmp_path / "a"), 1.0)]
    mix.mix(parts, tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(MixError, match="out: exists already"):
        mix.mix(parts, tmp_path / "out")
    assert content(tmp_path / "out") == before
    assert {path.name for path in tmp_path.iterdir()} == {"a", "out"}


def test_one_module_at_a_time_is_read() -> None:
    """Numbers are asked for when their module's turn has come, each once."""
    asked: list[str] = []

    class Told(Stored):
        def float32(self) -> npt.NDArray[np.float32]:
            asked.append(self.name)
            return np.ones(self.shape, np.float32)

    def told(path: str) -> Lora:
        a = Told(Path("none"), f"{path}.a", "float32", (2, INSIDE), 0)
        return Lora(a, Told(Path("none"), f"{path}.b", "float32", (OUTSIDE, 2), 0), 1.0)

    with pytest.raises(MixError, match="over the replicas' maximum"):
        combine([Summand("x", 1.0, {"m.q": told("m.q")})], max_rank=1)
    assert asked == []
    combine([Summand("x", 1.0, {path: told(path) for path in ("m.v", "m.q")})])
    assert asked == ["m.q.a", "m.q.b", "m.v.a", "m.v.b"]


# ---------------------------------------------------------------- recipes


def test_a_recipe_is_what_makes_a_difference() -> None:
    a, b = "a" * 64, "b" * 64
    same = recipe([(a, 1.0), (b, 0.8)], None)
    assert same == recipe([(b, 0.8), (a, 1)], None)
    assert same == recipe([(a, 1.0), (b, 0.8), ("c" * 64, 0.0)], None)
    others = {
        recipe([(a, 1.0), (b, 0.8)], 16),
        recipe([(a, 1.0), (b, 0.8)], None, "float32"),
        recipe([(a, 0.8), (b, 1.0)], None),
        recipe([(a, 1.0), (b, math.nextafter(0.8, 1))], None),
        recipe([(a, 1.0)], None),
        recipe([(a, 1.0), (a, 0.8)], None),
    }
    assert len(others | {same}) == 7


# ---------------------------------------------------------------- real ones


def test_the_demos_adapters_mix(tmp_path: Path) -> None:
    weights = {"support": 1.0, "brand": 0.8}
    parts = [Part(DEMO / name, weight) for name, weight in weights.items()]
    expected: dict[str, Delta] = {}
    for name, weight in weights.items():
        for path, delta in loaded(DEMO / name).items():
            expected[path] = expected.get(path, np.zeros(1)) + weight * delta
    report = mix.mix(parts, tmp_path / "exact", max_rank=16)
    assert (report.rank, report.modules, report.dtype) == (16, 28, "bfloat16")
    lost = distance(loaded(tmp_path / "exact"), expected)
    assert lost < BFLOAT16
    assert report.relative_error == pytest.approx(lost, rel=0.01)
    mix.mix(parts, tmp_path / "wide", max_rank=16, dtype="float32")
    assert distance(loaded(tmp_path / "wide"), expected) < FLOAT32
    half = mix.mix(parts, tmp_path / "half", max_rank=8, rank=8, dtype="float32")
    best = math.hypot(*(tail(each, 8) for each in expected.values()))
    whole = math.hypot(*(float(np.linalg.norm(each)) for each in expected.values()))
    assert half.relative_error == pytest.approx(best / whole, abs=FLOAT32)
    assert distance(loaded(tmp_path / "half"), expected) == pytest.approx(best / whole, abs=FLOAT32)
    base = files.read_base(DEMO.parent / "base")
    for name in ("exact", "wide", "half"):
        assert not check.check(files.read(tmp_path / name), base, name=name, max_rank=16)
