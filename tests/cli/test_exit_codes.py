"""How commands end: 0 when done, 1 when something is wrong, 2 for what they do not take."""

import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.cli.running import switchboard
from tests.config.trees import FILES, GATEWAY, write

SWITCHBOARD = str(Path(sys.executable).with_name("switchboard"))


@pytest.mark.parametrize(
    "words",
    [
        ["nothing"],
        ["explain"],
        ["explain", "text", "--rute", "x"],
        ["policy", "shw"],
        ["policy", "show"],
        ["init"],
        ["keys", "create"],
        ["keys", "create", "--name", "x", "--routes", " , "],
        ["keys", "create", "--name", "x", "--expires", "soon"],
        ["keys", "create", "--name", " "],
        ["serve", "--listen", "here"],
        ["serve", "--listen", "127.0.0.1:99999"],
        ["adapters", "list", "--gateway", "here"],
        ["log", "--limit", "0"],
        ["usage", "--since", "then"],
        ["bench", "classify"],
    ],
)
def test_what_a_command_does_not_take_is_2(words: list[str], tmp_path: Path) -> None:
    ran = switchboard(*words, home=write(tmp_path))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err
    assert not list(tmp_path.glob("*.db"))


@pytest.mark.parametrize(
    "words",
    [
        ["validate"],
        ["explain", "text"],
        ["explain", "req_1"],
        ["policy", "show", "balanced"],
        ["serve"],
    ],
)
def test_a_configuration_that_cannot_run_is_1(words: list[str], tmp_path: Path) -> None:
    write(tmp_path, {**FILES, "gateway.yaml": GATEWAY.replace("default_route", "default_rout")})
    assert switchboard(*words, home=tmp_path).code == 1


def test_a_directory_without_configuration_is_1_and_says_how_to_make_one(tmp_path: Path) -> None:
    ran = switchboard("validate", "--config", str(tmp_path / "nowhere"))
    assert ran.code == 1
    assert "there is no such file" in ran.out
    assert "`switchboard init DIR` makes one" in ran.out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve", "--store", "here"], "'here' is no store; write sqlite:///FILE"),
        (["serve", "--store", "sqlite:///no/where.db"], "make no first"),
        (["init", "gateway.yaml/new"], "gateway.yaml/new: Not a directory"),
        (["schema", "gateway.yaml"], "gateway.yaml: File exists"),
        (["explain", "text", "--route", "contract"], "did you mean 'contract-summary'?"),
    ],
)
def test_what_goes_wrong_is_told_without_a_trace(
    words: list[str], said: str, tmp_path: Path
) -> None:
    ran = switchboard(*words, home=write(tmp_path))
    assert ran.code == 1
    assert said in ran.said
    assert "Traceback" not in ran.err


def test_an_address_that_is_taken_is_1_and_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ran = switchboard("serve", "--listen", address, home=write(tmp_path))
    assert ran.code == 1
    assert f"http://{address} cannot be listened on" in ran.said


def test_a_folder_without_data_is_1(tmp_path: Path) -> None:
    ran = switchboard("bench", "classify", "--data", str(tmp_path), home=tmp_path)
    assert (ran.code, ran.out) == (1, "")
    assert "is this the data directory?" in ran.said


@pytest.mark.parametrize("words", [[], ["policy"], ["keys"], ["bench"]])
def test_a_group_alone_shows_its_help(words: list[str]) -> None:
    ran = switchboard(*words)
    assert ran.code == 2
    assert "Usage: " in ran.out + ran.err
    assert "Commands" in ran.out + ran.err


@pytest.mark.parametrize("words", [["--help"], ["explain", "--help"], ["keys", "create", "--help"]])
def test_help_is_no_error(words: list[str]) -> None:
    ran = switchboard(*words)
    assert ran.code == 0
    assert ran.out.lstrip().startswith("Usage: ")


def test_the_version_is_told(tmp_path: Path) -> None:
    ran = switchboard("--version", home=tmp_path)
    assert (ran.code, ran.out) == (0, f"switchboard {version('switchboard')}\n")


def test_the_command_is_installed_and_starts_without_the_gateway() -> None:
    """Each command imports what it needs only: help must not wait for the rest."""
    program = (
        "import sys; from gateway.cli import build; build(); "
        "print([m for m in ('numpy', 'sqlalchemy', 'uvicorn', 'fastapi') if m in sys.modules])"
    )
    heavy = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert heavy.stdout == "[]\n"
    shown = subprocess.run([SWITCHBOARD, "--help"], capture_output=True, text=True, check=True)
    assert "serve" in shown.stdout


# ---------------------------------------------------------------- init


def test_what_init_writes_can_be_used_at_once(tmp_path: Path) -> None:
    new = str(tmp_path / "new")
    assert switchboard("init", new, env={}).code == 0
    for words in (
        ["validate"],
        ["explain", "Please summarise this report."],
        ["policy", "show", "balanced", "--route", "summary"],
    ):
        ran = switchboard(*words, "--config", new, env={})
        assert ran.code == 0, ran
    told = switchboard("explain", "Please summarise this report.", "--config", new, env={}).out
    assert told.startswith("route   summary  by keyword: summarise  (certain)")
    assert switchboard("schema", "--check", str(tmp_path / "new" / "schemas")).code == 0


def test_init_says_what_to_do_next(tmp_path: Path) -> None:
    ran = switchboard("init", "here", home=tmp_path, env={})
    last = ran.out.splitlines()[-1]
    assert last == "next: switchboard validate --config here"
    assert switchboard(*last.split()[2:], home=tmp_path, env={}).code == 0


def test_init_twice_is_1_and_changes_nothing(tmp_path: Path) -> None:
    switchboard("init", str(tmp_path), env={})
    changed = tmp_path / "gateway.yaml"
    changed.write_text("mine")
    ran = switchboard("init", str(tmp_path), env={})
    assert ran.code == 1
    assert ran.said.startswith(f"nothing was written: {changed}")
    assert ran.said.endswith("would be overwritten")
    assert changed.read_text() == "mine"
