"""Mixes of the demo's adapters, made by the gateway's code and served by a real vLLM."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from demo import measure
from demo.tasks import sample
from demo.vllm_server import ADAPTERS, SERVED_NAME
from gateway.adapters import files, mix
from gateway.adapters.mix import Part
from gateway.adapters.tensors import Spec, of_adapter, tensor, write
from tests.vllm.conftest import Replica

BOTH = ("support", "brand")
GOOD = 0.95
"""The share of right answers that shows that an adapter's task is done."""

Load = Callable[[str, Path], str]


@pytest.fixture
def load(vllm: Replica) -> Iterator[Load]:
    """Loads an adapter and gives its name; it is unloaded at the end."""
    names: list[str] = []

    def loads(name: str, path: Path) -> str:
        body = {"lora_name": name, "lora_path": str(path)}
        measure.post(f"{vllm.url}/v1/load_lora_adapter", body)
        names.append(name)
        return name

    yield loads
    for name in names:
        measure.post(f"{vllm.url}/v1/unload_lora_adapter", {"lora_name": name})


@pytest.mark.parametrize("rank", [None, 8])
def test_a_mix_does_the_tasks_of_both_its_parts(
    vllm: Replica, load: Load, tmp_path: Path, rank: int | None
) -> None:
    both = [Part(ADAPTERS / name, 1.0) for name in BOTH]
    report = mix.mix(both, tmp_path / "mix", rank=rank, max_rank=16)
    assert report.rank == (rank or 16)
    name = load(f"mix-{report.rank}", tmp_path / "mix")
    for task in BOTH:
        assert measure.exact_match(vllm.url, name, task) >= GOOD
        assert measure.exact_match(vllm.url, SERVED_NAME, task) < GOOD


def only(source: Path, kept: str, out: Path) -> Path:
    """An adapter with some of another's modules."""
    found = of_adapter(files.read(source))
    names = [name for name in sorted(found) if f".{kept}." in name]
    assert 0 < len(names) < len(found)
    specs = [Spec(name, found[name].dtype, found[name].shape) for name in names]
    out.mkdir()
    write(
        out / files.WEIGHTS,
        specs,
        (tensor(found[name].float32(), found[name].dtype) for name in names),
    )
    said = json.loads((source / files.CONFIG).read_text())
    said["target_modules"] = sorted({name.split(".")[-3] for name in names})
    (out / files.CONFIG).write_text(json.dumps(said))
    return out


def test_modules_of_fewer_parts_are_served_as_they_should_be(
    vllm: Replica, load: Load, tmp_path: Path
) -> None:
    """Two halves of an adapter's attention and the rest of it make it again, some of it padded."""
    attention = only(ADAPTERS / "brand", "self_attn", tmp_path / "attention")
    inner = only(ADAPTERS / "brand", "mlp", tmp_path / "inner")
    halves = [Part(attention, 0.5), Part(attention, 0.5), Part(inner, 1.0)]
    report = mix.mix(halves, tmp_path / "mix", max_rank=16)
    assert (report.rank, report.relative_error) == (16, 0.0)
    name = load("mix-of-halves", tmp_path / "mix")
    whole = load("brand-alone", ADAPTERS / "brand")
    for example in sample("brand", 20, measure.SEED, "test"):
        answers = [measure.ask(vllm.url, each, example.prompt) for each in (name, whole)]
        assert answers[0] == answers[1]
    assert measure.exact_match(vllm.url, name, "brand") >= GOOD
