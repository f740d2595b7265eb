"""`switchboard adapters fetch`: everything on the shelf before a gateway needs it."""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from gateway.cli.fetching import fetched
from tests.adapters import lora
from tests.adapters.making import sha256
from tests.adapters.serving import Answer, Site, site
from tests.cli.running import switchboard
from tests.config.trees import ENV, FILES, GATEWAY, loaded, write

FAR = "local/qwen+far"


def packed(folder: Path) -> bytes:
    """An adapter as a .tar.gz, large enough to come in pieces."""
    lora.write(folder, lora.tensors(rank=64), lora.config(rank=64))
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    return held.getvalue()


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Site]:
    archive = packed(tmp_path / "packed")
    (tmp_path / "far.tar.gz").write_bytes(archive)
    with site() as found:
        found.pages["/far.tar.gz"] = lambda request: Answer(archive)
        yield found


def files(home: Path, far: Site) -> dict[str, str]:
    """The good configuration with an adapter to fetch, and a mix of it."""
    lora.write(home / "contracts-v3", lora.tensors(rank=8), lora.config(rank=8))
    digest = sha256((home.parent / "far.tar.gz").read_bytes())
    adapters = f"""\
          contracts: {{source: contracts-v3, base_matches: true}}
          far: {{source: {far.url}/far.tar.gz, sha256: {digest}, base_matches: true}}
          both: {{mix: {{contracts: 1.0, far: 0.5}}, base_matches: true}}
"""
    text = GATEWAY.replace("          contracts: {source: contracts-v3}\n", adapters)
    return {**FILES, "gateway.yaml": text}


def test_every_version_is_fetched_and_mixed_once(tmp_path: Path, far: Site) -> None:
    home = tmp_path / "home"
    write(home, files(home, far))
    ran = switchboard("adapters", "fetch", home=home, env=ENV)
    assert ran.code == 0, ran.said
    assert [line.split()[0] for line in ran.out.splitlines()[1:]] == [
        "local/qwen+contracts",
        FAR,
        "local/qwen+both",
    ]
    asked = len(far.said("GET"))
    again = switchboard("adapters", "fetch", "local/qwen+both", "--json", home=home, env=ENV)
    told = json.loads(again.out)
    assert list(told) == ["local/qwen+both"]
    assert told["local/qwen+both"]["files"]["rank"] == 72
    assert len(far.said("GET")) == asked


def test_what_cannot_be_used_is_told_and_the_exit_code_says_so(tmp_path: Path, far: Site) -> None:
    home = tmp_path / "home"
    write(home, files(home, far))
    far.pages.clear()
    ran = switchboard("adapters", "fetch", home=home, env=ENV)
    assert ran.code == 1
    assert "404" in ran.out
    unknown = switchboard("adapters", "fetch", "local/qwen+nearly", home=home, env=ENV)
    assert unknown.code == 1
    assert "there is no adapter local/qwen+nearly; declared are local/qwen+contracts" in (
        unknown.said
    )


def test_a_bar_shows_how_far_it_is(tmp_path: Path, far: Site) -> None:
    snapshot = loaded(tmp_path / "home", files(tmp_path / "home", far)).snapshot
    out = Console(file=io.StringIO(), force_terminal=True, width=120)
    found = fetched(snapshot, [FAR], out)
    assert found[FAR].files is not None
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out.file.getvalue())  # type: ignore[attr-defined]
    assert FAR in shown
    assert re.search(r"(\d+\.\d)/\1 kB", shown)
