"""What bites where vLLM is used by hand, one after the other, and what the gateway does about it.

The numbers are those of the list of things that vLLM lets happen; the table is that of its errors.
Number 6, a restart that loses every adapter, is in `test_fleet`, and number 8, a queue where the
adapter is resident, in `tests/policy/test_decide.py`.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from safetensors.numpy import save_file

from gateway.adapters import mix
from gateway.types.backends import Version
from gateway.types.snapshot import Snapshot
from tests.adapters import lora
from tests.gateway.support import Served
from tests.vllm.conftest import Replica
from tests.vllm.support import (
    PARTS,
    ROOM,
    SLOTS,
    asked,
    command,
    configuration,
    gateway,
    right,
    sources,
    telling,
)

SUPPORT = "local/tiny+support"


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    found = Replica(tmp_path_factory.mktemp("bites"), ROOM)
    yield found
    found.server.stop()


def one(replica: Replica, folder: Path, adapters: Any, **backend: Any) -> Snapshot:
    """A configuration of one replica, with changes to its backend."""
    made = configuration([replica.url], folder, adapters)
    changed = msgspec.structs.replace(made.backends["local"], **backend)
    return msgspec.structs.replace(made, backends={"local": changed})


async def listed(replica: Replica) -> set[str]:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{replica.url}/v1/models")
    return {model["id"] for model in answer.json()["data"]}


async def is_well(served: Served, replica: Replica, *others: str) -> None:
    """The engine lives, the base answers, and so does every other adapter, rightly."""
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"{replica.url}/health")).status_code == 200
    assert (await served.chat("hello", "local/tiny", max_tokens=1)).status_code == 200
    for name in others:
        assert await right(served, f"local/tiny+{name}", name, 2) == 1.0


def evicting(folder: Path, count: int) -> dict[str, dict[str, Version]]:
    """Adapters of no use but to push others out."""
    found = {}
    for n in range(count):
        part = mix.Part(PARTS / "brand", 1.0 - 1e-3 * n)
        mix.mix([part], folder / "sources" / f"more{n}", max_rank=16)
        found[f"more{n}"] = {"": Version("", source=f"more{n}")}
    return found


async def push_out(served: Served, names: Any) -> None:
    """Uses so many others that nothing which was used before is in memory any more."""
    assert len(list(names)) > SLOTS
    for name in names:
        assert (await served.chat("hello", f"local/tiny+{name}", max_tokens=1)).status_code == 200


# ---------------------------------------------------------------- what bites


async def test_1_an_evicted_adapter_whose_files_are_gone_does_not_end_the_engine(
    replica: Replica, tmp_path: Path
) -> None:
    gone = tmp_path / "sources" / "gone"
    shutil.copytree(PARTS / "support", gone)
    others = evicting(tmp_path, SLOTS + 1)
    found = {"support": {"": Version("", source="gone")}, **others}
    async with gateway(one(replica, tmp_path, found), tmp_path) as served:
        assert await right(served, SUPPORT, "support", 2) == 1.0
        shutil.rmtree(gone)
        await push_out(served, others)
        assert await right(served, SUPPORT, "support", 4) == 1.0
        await is_well(served, replica)


async def test_2_an_evicted_adapter_that_is_read_again_is_the_one_that_it_was(
    replica: Replica, tmp_path: Path
) -> None:
    """Its source is overwritten meanwhile; vLLM would answer otherwise without any load call."""
    source = tmp_path / "sources" / "desk"
    shutil.copytree(PARTS / "support", source)
    others = evicting(tmp_path, SLOTS + 1)
    found = {"desk": {"": Version("", source="desk")}, **others}
    async with gateway(one(replica, tmp_path, found), tmp_path) as served:
        assert await right(served, "local/tiny+desk", "support", 2) == 1.0
        shutil.copytree(PARTS / "brand", source, dirs_exist_ok=True)
        await push_out(served, others)
        assert await right(served, "local/tiny+desk", "support", 4) == 1.0


def _config(changes: dict[str, Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def _weights(change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def changed(folder: Path) -> None:
        path = folder / "adapter_model.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return changed


def _other_modules(folder: Path) -> None:
    """Modules that the base does not have; the names are as long as before."""
    _weights(lambda body: body.replace(b"q_proj", b"x_proj"))(folder)
    modules = ["x_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    _config({"target_modules": modules})(folder)


def _empty(folder: Path) -> None:
    save_file({}, folder / "adapter_model.safetensors")


def _other_size(folder: Path) -> None:
    lora.write(folder, lora.tensors(), lora.config())


UNFIT: dict[str, tuple[Callable[[Path], None], str]] = {
    "hidden-size": (_other_size, "adapter_model.safetensors"),
    "other-base": (_config({"base_model_name_or_path": "somebody/else"}), "somebody/else"),
    "modules": (_other_modules, "x_proj"),
    "ia3": (_config({"peft_type": "IA3"}), "IA3"),
    "rank": (_config({"r": 4}), "adapter_config.json"),
    "dora": (_config({"use_dora": True}), "use_dora"),
    "bias": (_config({"bias": "all"}), "bias"),
    "modules-to-save": (_config({"modules_to_save": ["lm_head"]}), "modules_to_save"),
    "garbage": (_weights(lambda body: os.urandom(len(body))), "adapter_model.safetensors"),
    "truncated": (_weights(lambda body: body[: len(body) // 2]), "adapter_model.safetensors"),
    "no-tensors": (_empty, "adapter_model.safetensors"),
}
"""What vLLM loads without a word, or answers 500 for: how it is made, and what is said of it."""


async def test_3_what_does_not_fit_the_base_never_reaches_a_replica(
    replica: Replica, tmp_path: Path
) -> None:
    for name, (spoil, _) in UNFIT.items():
        folder = tmp_path / "sources" / name
        shutil.copytree(PARTS / "support", folder)
        spoil(folder)
    found = sources("support", *UNFIT)
    async with gateway(one(replica, tmp_path, found), tmp_path) as served:
        for name, (_, said) in UNFIT.items():
            answer = await served.chat("hello", f"local/tiny+{name}", max_tokens=1)
            assert answer.status_code == 503, (name, answer.text)
            message = answer.json()["error"]["message"]
            assert f"{name}: " in message, message
            assert said in message, message
            assert "expected" in message, message
        present = await listed(replica)
        assert not [id for id in present if id.partition("@")[0] in UNFIT]
        ready = (await served.client.get("/ready")).json()
        assert {f"local/tiny+{name}" for name in UNFIT} == ready["unusable"].keys()
        await is_well(served, replica, "support")


async def test_4_a_version_that_a_replica_refuses_leaves_the_old_one_serving(
    replica: Replica, tmp_path: Path
) -> None:
    """Its rank is over the replica's maximum, which nobody declared: vLLM answers 500."""
    mix.mix(
        [mix.Part(PARTS / name, 1.0) for name in ("support", "brand", "contracts")],
        tmp_path / "sources" / "wide",
        max_rank=64,
    )
    versions = {"v1": Version("v1", source="support"), "v2": Version("v2", source="wide")}
    made = one(replica, tmp_path, {"desk": versions}, max_rank=None)
    async with gateway(made, tmp_path) as served:
        body = {"version": "v2"}
        refused = await served.client.post("/admin/adapters/promote/desk", json=body, timeout=60)
        assert refused.status_code == 409
        assert "max_lora_rank" in refused.text
        shown = (await served.client.get("/admin/adapters/desk")).json()
        assert shown["live"] == "v1"
        assert await right(served, "local/tiny+desk", "support", 4) == 1.0
        named = await served.chat("hello", "local/tiny+desk@v2", max_tokens=1)
        assert named.status_code in (502, 503)
        assert "max_lora_rank" in named.json()["error"]["message"]
        await is_well(served, replica)


async def test_5_versions_have_names_of_their_own_so_no_copy_of_another_answers(
    replica: Replica, tmp_path: Path
) -> None:
    versions = {"v1": Version("v1", source="support"), "v2": Version("v2", source="brand")}
    async with gateway(one(replica, tmp_path, {"desk": versions}), tmp_path) as served:
        await command(served, "promote", "desk", version="v2")
        await command(served, "unload", "desk")
        assert await right(served, "local/tiny+desk", "brand", 3) == 1.0
        await command(served, "rollback", "desk")
        assert await right(served, "local/tiny+desk", "support", 3) == 1.0
    names = {id for id in await listed(replica) if id.startswith("desk@v")}
    assert {name.partition("-")[0] for name in names} == {"desk@v1", "desk@v2"}


async def test_7_what_is_resident_is_known_from_use_and_not_from_the_metrics(
    replica: Replica, tmp_path: Path
) -> None:
    """The page keeps series of what was in use long ago, beside what is."""
    names = evicting(tmp_path, SLOTS + 2)
    async with gateway(one(replica, tmp_path, names), tmp_path) as served:
        await push_out(served, names)
        held = {}
        for name in names:
            shown = (await served.client.get(f"/admin/adapters/{name}")).json()
            held[name] = shown["replicas"][replica.url]["p_resident"]
    assert [held[name] for name in names] == [0.0, 0.0, *[1.0] * SLOTS]


async def test_9_a_parameter_that_vllm_would_ignore_without_a_word_is_refused(
    replica: Replica, tmp_path: Path
) -> None:
    async with gateway(one(replica, tmp_path, {}), tmp_path) as served:
        answer = await served.chat("yes or no?", "local/tiny", guided_choice=["yes", "no"])
        assert answer.status_code == 400
        error = answer.json()["error"]
        assert error["param"] == "guided_choice"
        assert 'structured_outputs: {"choice": …}' in error["message"]
        kept = await served.chat(
            "yes or no?", "local/tiny", structured_outputs={"choice": ["yes", "no"]}
        )
        assert kept.json()["choices"][0]["message"]["content"] in ("yes", "no")


# ---------------------------------------------------------------- the table of errors


async def test_a_clients_mistakes_are_told_in_openais_shape(
    replica: Replica, tmp_path: Path
) -> None:
    """By the gateway where it can see them, and else in vLLM's own words."""
    async with gateway(one(replica, tmp_path, sources("support")), tmp_path) as served:

        async def posted(body: Any) -> tuple[int, dict[str, Any]]:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            answer = await served.client.post("/v1/chat/completions", content=content)
            error = answer.json()["error"]
            assert set(error) == {"message", "type", "param", "code"}
            return answer.status_code, error

        messages = [{"role": "user", "content": "hello"}]
        long = [{"role": "user", "content": "word " * 2000}]
        status, error = await posted({"model": "nothing-like-it", "messages": messages})
        assert (status, error["code"]) == (404, "model_not_found")
        status, error = await posted({"model": "local/tiny+nobody", "messages": messages})
        assert (status, error["code"]) == (404, "model_not_found")
        for nothing in ({}, {"model": ""}):  # vLLM's base would answer
            status, error = await posted({**nothing, "messages": messages})
            assert (status, error["param"]) == (400, "model")
        status, error = await posted(b'{"model": ')
        assert (status, error["code"]) == (400, "invalid_json")
        status, error = await posted({"model": SUPPORT})
        assert (status, error["param"]) == (400, "messages")
        status, error = await posted({"model": SUPPORT, "messages": long})
        assert status in (400, 422)
        status, error = await posted({"model": SUPPORT, "messages": messages, "max_tokens": 9999})
        assert status in (400, 422)
        await is_well(served, replica, "support")


async def test_a_path_that_replicas_do_not_see_is_told_and_the_base_serves_on(
    replica: Replica, tmp_path: Path
) -> None:
    """The mount is mapped wrongly: vLLM answers 404 to each load."""
    mix.mix([mix.Part(PARTS / "support", 0.97)], tmp_path / "sources" / "new", max_rank=16)
    found = {"new": {"": Version("", source="new")}}
    made = one(replica, tmp_path, found, shelf_on_replicas="/nowhere/shelf")
    async with gateway(made, tmp_path) as served:
        answer = await served.chat("hello", "local/tiny+new", max_tokens=1)
        assert answer.status_code in (502, 503)
        assert "/nowhere/shelf" in answer.json()["error"]["message"]
        shown = (await served.client.get("/admin/adapters/new")).json()
        failed = shown["replicas"][replica.url]["failed"]
        assert "/nowhere/shelf" in " ".join(failed.values())
        await is_well(served, replica)


async def test_a_name_that_is_loaded_already_is_taken_as_loaded(
    replica: Replica, tmp_path: Path
) -> None:
    """By another gateway, say, at the same moment: the name says the content."""
    made = one(replica, tmp_path, sources("support"))
    async with gateway(made, tmp_path) as served:
        shown = (await served.client.get("/admin/adapters/support")).json()
        (version,) = shown["versions"]
        await command(served, "unload", "support")
        async with httpx.AsyncClient() as client:
            body = {"lora_name": version["served"], "lora_path": version["path"]}
            loaded = await client.post(f"{replica.url}/v1/load_lora_adapter", json=body)
            assert loaded.status_code == 200
        assert await right(served, SUPPORT, "support", 3) == 1.0
        await is_well(served, replica)


async def test_an_unload_of_what_is_gone_already_is_no_error(
    replica: Replica, tmp_path: Path
) -> None:
    async with gateway(one(replica, tmp_path, sources("support")), tmp_path) as served:
        shown = (await served.client.get("/admin/adapters/support")).json()
        async with httpx.AsyncClient() as client:
            body = {"lora_name": shown["serving"]}
            gone = await client.post(f"{replica.url}/v1/unload_lora_adapter", json=body)
            assert gone.status_code == 200
        await command(served, "unload", "support")
        assert await asked(served, SUPPORT, telling("support", 1)[0])
