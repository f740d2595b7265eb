"""What is done with each kind of block. A kind that is not here is an error."""

import configparser
import importlib.util
import io
import json
import re
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer.main
import yaml
from rich.console import Console

from demo import show
from demo.run import AUTO, BASE, CASCADE, COMMERCIAL
from gateway.cli import build
from gateway.config import yaml as configured
from gateway.config.files.suites import SuiteFile
from gateway.config.load import load
from gateway.config.problems import validated
from tests.docs.pages import ROOT, Block, Said, commands, unlike
from tests.docs.world import World, copy_configuration, curl, words_of


class Wrong(Exception):
    """A page says what is not so; the text has the place."""


LIVE = frozenset({"sh", "console", "python"})
"""Kinds of block that need a running gateway."""


def check(blocks: list[Block], folder: Path, world: World | None) -> None:
    """Each block of a page in its order. Raises Wrong at the first that is not as it says.

    `folder` is for configurations; `world` is where commands run.
    """
    pages = Configurations(folder)
    for block in blocks:
        if block.kind in LIVE:
            assert world is not None
            _run(block, world)
        elif block.kind == "yaml":
            pages.load(block)
        elif block.kind in STATIC:
            STATIC[block.kind](block)
        else:
            raise Wrong(
                f"{block.place}: nothing is known of ```{block.kind}: name one of "
                f"{', '.join(sorted([*LIVE, *STATIC, 'yaml']))}, or teach {__file__}"
            )


# ---------------------------------------------------------------- configurations


class Configurations:
    """This tree's configuration with the snippets of one page put into it, each on the last."""

    def __init__(self, home: Path) -> None:
        self._home = home

    def load(self, block: Block) -> None:
        """Puts a snippet in and reads the whole as the gateway does."""
        try:
            snippet = yaml.safe_load(block.text)
        except yaml.YAMLError as error:
            raise Wrong(f"{block.place}: {error}") from error
        if not isinstance(snippet, dict):
            raise Wrong(f"{block.place}: is no part of a configuration")
        if block.text.startswith("# evals/"):
            _suite(block)
            return
        if not (self._home / "gateway.yaml").exists():
            copy_configuration(self._home)
        if "candidates" in snippet:
            (self._home / "routes" / f"{snippet['name']}.yaml").write_text(block.text, "utf-8")
        elif "name" in snippet:
            (self._home / "policies" / f"{snippet['name']}.yaml").write_text(block.text, "utf-8")
        else:
            self._merge(snippet)
        named = re.findall(r"\$\{(\w+)\}", block.text)
        try:
            load(self._home, dict.fromkeys(named, "set"))
        except Exception as error:
            raise Wrong(f"{block.place}: {error}") from error

    def _merge(self, snippet: Mapping[str, Any]) -> None:
        path = self._home / "gateway.yaml"
        base = yaml.safe_load(path.read_text("utf-8"))
        if "classifier" in snippet:
            base.pop("classifier", None)  # another one stands in its place
        merged = _deep(base, snippet)
        directory = snippet.get("classifier", {}).get("directory")
        if directory is not None:
            (self._home / directory).mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(merged, allow_unicode=True), "utf-8")


def _suite(block: Block) -> None:
    """A suite's file is right, as far as it is one without its data."""
    document, problems = configured.read(block.text, block.place, {})
    assert document is not None
    _, wrong = validated(SuiteFile, document)
    if problems or wrong:
        raise Wrong(f"{block.place}: {'; '.join(str(each) for each in [*problems, *wrong])}")


def _deep(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = _deep(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


# ---------------------------------------------------------------- commands

_ASSIGNED = re.compile(r"^([A-Z][A-Z_]*)=\$\((.*)\)$")
_SET = re.compile(r"^[A-Z][A-Z_]*=\S*$")

VLLM_OPTIONS = frozenset(
    {
        "--host", "--port", "--api-key", "--enable-lora", "--max-loras", "--max-cpu-loras",
        "--max-lora-rank", "--max-model-len", "--served-model-name",
    }
)  # fmt: skip
"""Options of `vllm serve` 0.32, as its own help names them."""

LORA_RANKS = {"1", "8", "16", "32", "64", "128", "256", "320", "512"}


def _run(block: Block, world: World) -> None:
    if block.kind == "python":
        _python(block, world)
        return
    for said in commands(block):
        output = _command(said, world)
        if said.output is not None and (why := unlike(said.output, output)) is not None:
            raise Wrong(f"{said.place}: {said.command}: {why}")


def _python(block: Block, world: World) -> None:
    done = world.python(world.meant(block.text))
    if done.returncode != 0:
        raise Wrong(f"{block.place}: {done.stderr}")
    if "print(" in block.text and not done.stdout.strip():
        raise Wrong(f"{block.place}: it prints nothing")


def _command(said: Said, world: World) -> str:
    """What a command prints. Raises Wrong where it fails, or is none that is known here."""
    assigned = _ASSIGNED.match(said.command.strip())
    if assigned is not None:
        name, inner = assigned.groups()
        world.variables[name] = _command(said._replace(command=inner), world).strip()
        return ""
    words = words_of(world.meant(said.command))
    while _SET.match(words[0]):
        words = words[1:]
    try:
        match words:
            case ["make", *targets]:
                return _make(targets)
            case ["switchboard", *arguments]:
                return _switchboard(arguments, world)
            case ["curl", *arguments]:
                return curl(arguments)
            case ["sed", "-i", script, file]:
                world.edit(script, file)
                return ""
            case ["python3" | "python" as which, *arguments]:
                return _script(which, arguments)
            case ["vllm", "serve", model, *arguments] if not model.startswith("-"):
                return _vllm(arguments)
            case ["kubectl", *arguments]:
                return _kubectl(arguments)
            case ["docker", "build", "-f", file, *_] if (ROOT / file).is_file():
                return ""
    except (ValueError, OSError) as error:
        raise Wrong(f"{said.place}: {error}") from error
    raise Wrong(f"{said.place}: it is not known how to check {said.command!r}: teach {__file__}")


def _kubectl(arguments: list[str]) -> str:
    """Nothing is run: what it is pointed to has to be there, and what is run in a pod to exist."""
    if "-k" in arguments:
        folder = arguments[arguments.index("-k") + 1]
        if not (ROOT / folder / "kustomization.yaml").is_file():
            raise ValueError(f"there is no kustomization in {folder}")
    if "--" in arguments:
        inner = arguments[arguments.index("--") + 1 :]
        if inner[0] == "switchboard":
            parsed(inner[1:])
    return ""


def _make(targets: list[str]) -> str:
    """A dry run, which fails for a target that there is not; the demo's sums with any figures."""
    dry = subprocess.run(
        ["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if dry.returncode != 0:
        raise ValueError(f"make {' '.join(targets)}: {dry.stderr}")
    return _sums() if targets == ["demo"] else ""


def _sums() -> str:
    """The tables that the demo ends with: tests/demo runs it, here only their shape counts."""
    any_figures = show.Total(right=1, of=2, cost_usd=0.5, mean_ms=1.0)
    out = Console(width=show.WIDTH, file=io.StringIO())
    with out.capture() as captured:
        out.print(show.totals(dict.fromkeys((AUTO, COMMERCIAL, BASE), any_figures)))
        out.print()
        several = dict.fromkeys((AUTO, COMMERCIAL, BASE, CASCADE), any_figures)
        out.print(show.shares(several, COMMERCIAL))
    return captured.get()


def _switchboard(arguments: list[str], world: World) -> str:
    parsed(arguments)
    if arguments[0] == "serve":
        world.serves(*arguments)
        return ""
    if arguments[:2] == ["bench", "classify"]:
        return ""  # minutes, and data that is not in this tree: tests/classify runs it on less
    ran = world.switchboard(*arguments)
    if ran.code != 0 and (arguments[0], ran.code) != ("diff", 2):  # 2: there is a difference
        raise ValueError(f"switchboard {' '.join(arguments)}: {ran.out}{ran.err}")
    if arguments[:2] == ["keys", "create"]:
        world.until_known(ran.out.strip())
    return ran.out


def parsed(arguments: list[str]) -> None:
    """Raises ValueError where the command line does not take these words."""
    command: Any = typer.main.get_command(build())
    rest = list(arguments)
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            raise ValueError(f"there is no command `switchboard {' '.join(arguments)}`")
        command = command.commands[rest.pop(0)]
    try:
        command.make_context(command.name, rest)
    except typer.TyperException as error:
        raise ValueError(f"switchboard {' '.join(arguments)}: {error}") from error


def _script(which: str, arguments: list[str]) -> str:
    """Scripts and modules of this tree must be there; they are not run."""
    match arguments:
        case ["-m", module, *_]:
            if importlib.util.find_spec(module) is None:
                raise ValueError(f"there is no module {module}")
        case [script, *_] if (ROOT / script).is_file():
            pass
        case _:
            raise ValueError(f"{which} {' '.join(arguments)}: nothing of this tree")
    return ""


def _vllm(arguments: list[str]) -> str:
    options = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    if unknown := options - VLLM_OPTIONS:
        raise ValueError(f"vllm serve may not know {', '.join(sorted(unknown))}")
    if "--max-lora-rank" in arguments:
        rank = arguments[arguments.index("--max-lora-rank") + 1]
        if rank not in LORA_RANKS:
            raise ValueError(f"vllm takes no --max-lora-rank {rank}")
    return ""


# ---------------------------------------------------------------- what is only read

UNIT_KEYS = {
    "Unit": {"Description", "After", "Wants"},
    "Service": {
        "Type", "ExecStart", "WorkingDirectory", "EnvironmentFile", "User", "Restart",
        "RestartSec", "TimeoutStopSec", "KillSignal", "NoNewPrivileges", "ProtectSystem",
        "ProtectHome", "PrivateTmp", "ReadWritePaths", "StateDirectory", "LimitNOFILE", "UMask",
        "DynamicUser", "LogsDirectory",
    },
    "Install": {"WantedBy"},
}  # fmt: skip
"""What man systemd.unit, systemd.exec and systemd.service know, as far as the pages use it."""


def _unit(block: Block) -> None:
    """A systemd unit: known keys in known sections, and a command that Switchboard takes."""
    unit = configparser.ConfigParser(interpolation=None, delimiters="=")
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        unit.read_string(block.text)
    except configparser.Error as error:
        raise Wrong(f"{block.place}: {error}") from error
    if set(unit.sections()) != set(UNIT_KEYS):
        raise Wrong(f"{block.place}: has the sections {unit.sections()}")
    for section, known in UNIT_KEYS.items():
        if unknown := set(unit[section]) - known:
            raise Wrong(f"{block.place}: [{section}] has {', '.join(sorted(unknown))}")
    program, *arguments = words_of(unit["Service"]["ExecStart"])
    if not program.startswith("/") or Path(program).name != "switchboard":
        raise Wrong(f"{block.place}: ExecStart needs the command's whole path")
    try:
        parsed(arguments)
    except ValueError as error:
        raise Wrong(f"{block.place}: {error}") from error


_NGINX_TOKEN = re.compile(r"\"[^\"]*\"|[{};]|[^\s{};\"#]+|#[^\n]*")
NGINX = frozenset(
    {
        "server", "location", "listen", "server_name", "ssl_certificate", "ssl_certificate_key",
        "proxy_pass", "proxy_http_version", "proxy_buffering", "proxy_request_buffering",
        "proxy_read_timeout", "proxy_set_header", "client_max_body_size", "deny", "allow",
        "upstream", "keepalive", "return",
    }
)  # fmt: skip


def _nginx(block: Block) -> None:
    """nginx's grammar: directives end in `;`, blocks in `}`; and names that are known."""
    statement: list[str] = []
    depth = 0
    for token in _NGINX_TOKEN.findall(block.text):
        if token.startswith("#"):
            continue
        if token not in "{};":
            statement.append(token)
            continue
        if token == "}":
            depth -= 1
            if statement or depth < 0:
                raise Wrong(f"{block.place}: `}}` after {statement}")
            continue
        if not statement or statement[0] not in NGINX:
            raise Wrong(f"{block.place}: nginx may not know {statement}")
        depth += token == "{"
        statement = []
    if depth or statement:
        raise Wrong(f"{block.place}: something is not closed")


def _json(block: Block) -> None:
    try:
        json.loads(block.text)
    except ValueError as error:
        raise Wrong(f"{block.place}: {error}") from error


STEPS = ("recognise", "decide", "dispatch", "relay", "meter")


def _picture(block: Block) -> None:
    """The way of a request: its steps in the pipeline's order, and nothing named that is not."""
    places = [block.text.find(step) for step in STEPS]
    if -1 in places or places != sorted(places):
        raise Wrong(f"{block.place}: the steps are {', '.join(STEPS)}, in this order")
    if _steps_of_pipeline() != STEPS:
        raise Wrong(f"gateway/pipeline.py says that the steps are {_steps_of_pipeline()}")
    targets = load(ROOT, {}).snapshot.targets
    for name in re.findall(r"▶ (\S+/\S+)", block.text):
        if name not in targets and not name.endswith(".py"):
            raise Wrong(f"{block.place}: there is no target {name}")
    for path in re.findall(r"\b(?:[a-z]+/)*[a-z_]+\.py\b", block.text):
        if not (ROOT / "gateway" / path).is_file():
            raise Wrong(f"{block.place}: there is no gateway/{path}")


def _steps_of_pipeline() -> tuple[str, ...]:
    """From the first line of the module that is the way."""
    said = (ROOT / "gateway/pipeline.py").read_text("utf-8").split("\n")[0]
    return tuple(re.findall(r"\w+", said.partition("whole way: ")[2]))


STATIC: Mapping[str, Callable[[Block], None]] = {
    "ini": _unit,
    "json": _json,
    "nginx": _nginx,
    "text": _picture,
}
