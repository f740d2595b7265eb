"""`switchboard adapters`, as it is typed, at a running gateway."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.standin.engine import Vllm
from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from tests.adapters import lora
from tests.adapters.test_fleet import configuration
from tests.cli.running import Ran, switchboard
from tests.config.trees import ENV, write
from tests.gateway.support import Served, serving


class Commands:
    """An administrator at the command line."""

    def __init__(self, served: Served) -> None:
        key = Keys(served.gateway.store).create("ops", role="operate").secret
        served.gateway.keyring.refresh()
        url = f"http://127.0.0.1:{served.port}"
        self.env = {**ENV, "SWITCHBOARD_GATEWAY": url, "SWITCHBOARD_ADMIN_KEY": key}

    async def __call__(self, *words: str) -> Ran:
        return await asyncio.to_thread(switchboard, "adapters", *words, env=self.env)


@pytest.fixture
async def adapters(tmp_path: Path) -> AsyncIterator[Commands]:
    async with StandIn(vllm=Vllm()) as first, StandIn(vllm=Vllm()) as second:
        async with serving(configuration(tmp_path, first, second), tmp_path) as served:
            await served.gateway.adapters_present()
            await served.chat()
            yield Commands(served)


async def test_the_list_shows_what_is_live_and_its_last_hour(adapters: Commands) -> None:
    ran = await adapters("list")
    assert ran.code == 0
    head, line = ran.out.splitlines()
    assert head.split()[:4] == ["adapter", "live", "canary", "loaded"]
    first = ["local/qwen+support", "v7", "–", "2", "of", "2", "0.99", "1"]
    assert line.split()[:8] == first


async def test_one_is_shown_with_versions_replicas_and_history(adapters: Commands) -> None:
    assert (await adapters("promote", "support", "v8")).code == 0
    ran = await adapters("show", "support")
    assert ran.code == 0
    text = ran.out
    for words in ("v8", "live", "v7", "before", "support@v8-", "http://127.0.0.1:", "promote v8"):
        assert words in text
    (told,) = [json.loads((await adapters("show", "support", "--json")).out)]
    assert told["live"] == "v8"
    assert told["history"][0]["author"] == "ops"


async def test_promote_and_rollback_say_what_is_live(adapters: Commands) -> None:
    promoted = await adapters("promote", "support", "v8")
    assert promoted.out == "v8 is live; `rollback support` goes back to v7\n"
    assert (await adapters("rollback", "support")).out == "v7 is live\n"


async def test_a_canary_tells_its_steps(adapters: Commands) -> None:
    ran = await adapters("canary", "support", "v8", "--share", "5%")
    assert ran.out == "v8 on trial: 5 % → 25 % → 100 %\n"
    assert "v8 5 %" in (await adapters("list")).out


async def test_load_unload_and_pin(adapters: Commands) -> None:
    loaded = await adapters("load", "support@v8")
    assert loaded.out.count("loaded at http://127.0.0.1:") == 2
    assert (await adapters("unload", "support@v8")).out.count("unloaded at") == 2
    assert (await adapters("unload", "support@v8")).out == "it was loaded nowhere\n"
    assert (await adapters("pin", "support")).out == "pinned\n"
    assert "pinned" in (await adapters("list")).out
    assert (await adapters("pin", "support", "--off")).out == "no longer pinned\n"


async def test_what_the_gateway_refuses_is_told_and_ends_with_1(adapters: Commands) -> None:
    ran = await adapters("promote", "support", "v9")
    assert (ran.code, ran.out) == (1, "")
    assert "has no version 'v9'; there are v7, v8" in ran.said


async def test_without_a_key_it_says_how_to_have_one(adapters: Commands) -> None:
    del adapters.env["SWITCHBOARD_ADMIN_KEY"]
    ran = await adapters("list")
    assert ran.code == 1
    assert "SWITCHBOARD_ADMIN_KEY" in ran.said


def test_where_no_gateway_answers_it_says_so(tmp_path: Path) -> None:
    home = write(tmp_path)
    ran = switchboard("adapters", "list", "--gateway", "http://127.0.0.1:9", home=home)
    assert ran.code == 1
    assert "no gateway answers at http://127.0.0.1:9" in ran.said


@pytest.mark.parametrize("share", ["0", "150 %", "much"])
def test_a_share_is_a_share(share: str, tmp_path: Path) -> None:
    ran = switchboard("adapters", "canary", "support", "v8", "--share", share, home=tmp_path)
    assert ran.code == 2


def test_a_share_that_may_be_meant_in_percent_is_told_so(tmp_path: Path) -> None:
    ran = switchboard("weight", "local/qwen", "25", home=tmp_path)
    assert ran.code == 2
    assert "'25' is not at least 0 % and at most 100 %: it is 2500 %" in ran.plain
    assert "write '25 %' or 0.25" in ran.plain
    more = switchboard("weight", "local/qwen", "150 %", home=tmp_path)
    assert "'150 %' is not at least 0 % and at most 100 %" in more.plain
    assert "write" not in more.plain.partition("150 %")[2]


# ---------------------------------------------------------------- check


def test_a_good_adapter_passes_with_a_summary(tmp_path: Path) -> None:
    base = lora.write_base(tmp_path / "base")
    path = lora.write(tmp_path / "support")
    ran = switchboard("adapters", "check", str(path), "--base", str(base), "--max-rank", "8")
    assert ran.code == 0
    assert ran.out.startswith(f"✓ {path}  rank 4, ")


def test_a_bad_one_is_told_with_the_mend_and_ends_with_1(tmp_path: Path) -> None:
    base = lora.write_base(tmp_path / "base")
    path = lora.write(tmp_path / "support", said=lora.config(use_dora=True))
    good = lora.write(tmp_path / "brand")
    ran = switchboard("adapters", "check", str(path), str(good), "--base", str(base))
    assert ran.code == 1
    assert "found:    use_dora: true" in ran.out
    assert "expected: a plain LoRA" in ran.out
    assert f"✓ {good}" in ran.out


def test_what_is_no_adapter_is_told_too(tmp_path: Path) -> None:
    ran = switchboard("adapters", "check", str(tmp_path), "--json")
    assert ran.code == 1
    (found,) = json.loads(ran.out)[str(tmp_path)]
    assert found["file"] == "adapter_config.json"
    assert found["found"] == "there is no such file"
