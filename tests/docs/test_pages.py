"""Whatever README.md and docs/ show is run, loaded or compared here."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import typer.main

from gateway.cli import build
from tests.docs import pages
from tests.docs.checks import LIVE, Wrong, check, parsed
from tests.docs.pages import PAGES, ROOT, Block, blocks, page, unlike
from tests.docs.world import World, world

FOLDERS = ("benchmarks", "demo", "docs", "gateway", "policies", "routes", "schemas", "scripts")


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_so(name: str, tmp_path: Path) -> None:
    found = blocks(page(name), name)
    if LIVE.isdisjoint(block.kind for block in found):
        check(found, tmp_path / "configurations", None)
        return
    with world(tmp_path / "world") as running:
        check(found, tmp_path / "configurations", running)


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_somewhere(name: str) -> None:
    for link in pages.links(page(name)):
        path, _, anchor = link.partition("#")
        there = (ROOT / name).parent / path if path else ROOT / name
        assert there.exists(), f"{name}: {link}"
        assert not anchor or anchor in pages.anchors(there.read_text("utf-8")), f"{name}: {link}"


@pytest.mark.parametrize("name", PAGES)
def test_what_a_line_names_is_there(name: str) -> None:
    for code in pages.codes(page(name)):
        match code.split():
            case ["switchboard", *words]:
                assert options_of(words) is not None, f"{name}: {code}"
            case ["make", target, *_]:
                makefile = (ROOT / "Makefile").read_text("utf-8")
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{name}: {code}"
            case [path] if path.partition("/")[0] in FOLDERS and "NAME" not in path:
                assert any(ROOT.glob(path)) or _of_an_example(path), f"{name}: {code}"


def _of_an_example(path: str) -> bool:
    """A route or a policy that a snippet of the same pages declares."""
    folder, _, file = path.partition("/")
    named = f"name: {file.removesuffix('.yaml')}\n"
    snippets = [block.text for each in PAGES for block in blocks(page(each), each)]
    return folder in ("routes", "policies") and any(text.startswith(named) for text in snippets)


def options_of(words: list[str]) -> set[str] | None:
    """The options of the command that these words name; None where one of the words is none."""
    command: Any = typer.main.get_command(build())
    rest = list(words)
    while rest and rest[0] in getattr(command, "commands", {}):
        command = command.commands[rest.pop(0)]
    known = {name for param in command.params for name in param.opts} | {"--help"}
    asked = {word for word in rest if word.startswith("-")}
    is_group = hasattr(command, "commands")
    return known if asked <= known and not (is_group and set(rest) - asked) else None


def test_every_page_is_led_to_from_the_first() -> None:
    led_to = set(pages.links(page("README.md")))
    assert set(PAGES) - {"README.md"} <= led_to


# ---------------------------------------------------------------- that this can fail


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("world") / "home") as found:
        yield found


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("", "anything", "nothing is known of ```:"),
        ("haskell", "main = print 1", "nothing is known of ```haskell"),
        ("yaml", "name: x\nwaiting: {first_token: 2 eur/s}\n", "usd/s"),
        ("yaml", "servr: {listen: 127.0.0.1:8080}\n", "did you mean `server`"),
        ("yaml", "name: r\ncandidates: [{target: local/nope, quality: 1}]\n", "local/nope"),
        ("yaml", "- a\n", "is no part of a configuration"),
        ("sh", "apt install switchboard", "it is not known how to check"),
        ("sh", "make demos", "demos"),
        ("sh", "switchboard policy shw balanced", "there is no command"),
        ("sh", "switchboard log --rout x", "--rout"),
        ("sh", "switchboard policy show balancd", "did you mean 'balanced'"),
        ("sh", "curl http://127.0.0.1:8080/v1/nothing", "404"),
        ("sh", "curl --compressed http://127.0.0.1:8080/health", "--compressed"),
        ("sh", "python -m gateway.nothing", "there is no module gateway.nothing"),
        ("sh", "python3 scripts/nothing.py", "nothing of this tree"),
        ("sh", "vllm serve Qwen/Qwen3-8B --lora-magic", "--lora-magic"),
        ("sh", "vllm serve Qwen/Qwen3-8B --max-lora-rank 63", "--max-lora-rank 63"),
        ("console", "$ switchboard policy show best\nbest: the least net value\n", "but it is"),
        ("console", "$ make demo\neverything sent to  wrong\n", "but it is"),
        ("console", "no command\n", "this output is of no command"),
        ("python", "import nothing_that_is_there", "nothing_that_is_there"),
        ("python", "print('')", "it prints nothing"),
        ("json", "{'a': 1}", "Expecting property name"),
        ("text", "decide, then recognise", "in this order"),
        ("text", "recognise decide dispatch ▶ local/tny relay meter", "no target local/tny"),
        ("nginx", "server { listen 80 }", "after"),
        ("nginx", "server { lissen 80; }", "lissen"),
        ("nginx", "server { listen 80;", "not closed"),
        ("ini", "[Unit]\nDescription=x\n", "has the sections"),
        (
            "ini",
            "[Unit]\n[Service]\nExecStart=/x/switchboard serve --confg /y\n[Install]\n",
            "--confg",
        ),
        ("ini", "[Unit]\n[Service]\nExecStrt=/x\n[Install]\n", "ExecStrt"),
    ],
)
def test_what_is_not_so_fails(
    kind: str, text: str, told: str, running: World, tmp_path: Path
) -> None:
    with pytest.raises((Wrong, ValueError)) as caught:
        check([Block("page.md:1", kind, text + "\n")], tmp_path / "home", running)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/etc"}),
        ("/v1/unload_lora_adapter", {"lora_name": "support"}),
        ("/sleep", {}),
        ("/tokenize", {"model": "base", "prompt": "x"}),
    ],
)
def test_vllms_own_calls_are_not_passed_on(path: str, body: dict[str, str], running: World) -> None:
    """As docs/deploy.md says."""
    before = loaded(running)
    answer = httpx.post(f"{running.url}{path}", json=body, timeout=20)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"
    assert loaded(running) == before != set()


def loaded(running: World) -> set[str]:
    """What the stand-in for vLLM serves."""
    listed = httpx.get(f"{running.vllm_url}/v1/models", timeout=20).json()["data"]
    return {model["id"] for model in listed}


@pytest.mark.parametrize(
    ("shown", "real", "same"),
    [
        ("a  1.5 s\nb", "a 20.25 s\nb\n", True),
        ("a 1.5 s", "a 20 ms", False),
        ("a", "a\nb", False),
        ("a\n…", "a\nb", True),
        ("…\nb", "a\nb", True),
        ("a\n…\nc", "a\nb\nc", True),
        ("a\n…\nb", "a\nc", False),
        ("b\n…", "a\nb", False),
        ("snapshot 2b94f8320574", "snapshot 99aa11bb22cc", True),
        ("req_0a1b2c", "req_ffff", True),
        ("", "a", False),
        ("", "", True),
    ],
)
def test_outputs_are_compared_in_shape(shown: str, real: str, same: bool) -> None:
    assert (unlike(shown, real) is None) == same


def test_an_open_fence_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"x\.md:2: the fence is not closed"):
        blocks("a\n```sh\nmake test\n", "x.md")


def test_inner_commands_are_looked_up() -> None:
    assert options_of(["keys"]) is not None
    assert options_of(["keys", "create", "--name", "NAME"]) is not None
    assert options_of(["keys", "make"]) is None
    assert options_of(["log", "--rote"]) is None
    parsed(["bench", "classify", "--data", "x"])
