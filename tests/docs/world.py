"""Where the pages' commands run: a copy of this tree's configuration, served before stand-ins."""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx

from demo import processes
from demo.run import adapters_loaded
from tests.cli.running import Ran, switchboard
from tests.docs.pages import ROOT

BIN = Path(sys.executable).parent
SHOWN_URL = "http://127.0.0.1:8080"
"""Where the pages say that the gateway serves; it is the address in gateway.yaml."""

SHOWN_ID = "REQUEST_ID"
KNOWN_S = 20.0
PARTS = ("gateway.yaml", "routes", "policies", "prompts")
ASKED = (
    "Which party is bound by this clause?",
    "My phone fell apart.",
    "Translate into German: good morning",
)


def copy_configuration(into: Path) -> Path:
    """This tree's configuration in a directory that a test may change."""
    into.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, into / part)
        else:
            shutil.copy(source, into / part)
    (into / "demo").symlink_to(ROOT / "demo")  # the adapters
    return into


class World:
    """A directory with a configuration, its running gateway, and the variables of a shell."""

    def __init__(self, home: Path, env: Mapping[str, str], url: str, vllm_url: str) -> None:
        self.home = home
        self.url = url
        self.vllm_url = vllm_url.removesuffix("/v1")
        self.variables: dict[str, str] = {}
        self.last_id = ""
        self._env = env

    def meant(self, text: str) -> str:
        """What a page's text means here."""
        for name, value in self.variables.items():
            text = re.sub(rf"\$(?:{name}\b|\{{{name}\}})", value, text)
        return text.replace(SHOWN_URL, self.url).replace(SHOWN_ID, self.last_id)

    def switchboard(self, *words: str) -> Ran:
        """`switchboard WORDS` in the directory, to its end."""
        return switchboard(*words, home=self.home, env=self._env)

    def edit(self, script: str, file: str) -> None:
        """`sed -i` on a file of the directory. Raises ValueError where it changes nothing."""
        path = self.home / file
        before = path.read_text("utf-8")
        subprocess.run(["sed", "-i", script, str(path)], check=True)
        if path.read_text("utf-8") == before:
            raise ValueError(f"sed -i {script} changes nothing in {file}")

    def python(self, program: str) -> "subprocess.CompletedProcess[str]":
        """A program in the directory, to its end."""
        return subprocess.run(
            [sys.executable, "-c", program],
            cwd=self.home,
            env=dict(self._env),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def serves(self, *arguments: str) -> None:
        """A `serve` of its own on a free port, with a store of its own: who shares one shares what
        runs. Raises DidNotStart where it does not serve."""
        own = ["--listen", "127.0.0.1:0", "--store", "sqlite:///serve.db"]
        command = [str(BIN / "switchboard"), *arguments, *own]
        where = [sys.executable, "-c", _IN_DIRECTORY, str(self.home), *command]
        log = self.home / "serve.log"
        with processes.launch(where, log_path=log, env=self._env) as running:
            running.wait_for_line(r"serves (http://\S+)")

    def ask(self, text: str) -> None:
        """One request, so that there is something in the log; looking for it writes its row."""
        body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
        answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=20)
        answer.raise_for_status()
        self.last_id = answer.headers["x-request-id"]
        httpx.get(f"{self.url}/v1/decisions/{self.last_id}", timeout=20).raise_for_status()

    def until_known(self, key: str) -> None:
        """Waits until the gateway knows a key that was just made. Raises TimeoutError."""
        until = time.monotonic() + KNOWN_S
        headers = {"authorization": f"Bearer {key}"}
        while httpx.get(f"{self.url}/v1/models", headers=headers).is_error:
            if time.monotonic() > until:
                raise TimeoutError(f"the gateway does not know the key after {KNOWN_S:.0f} s")


_IN_DIRECTORY = "import os, sys; os.chdir(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"


@contextlib.contextmanager
def world(folder: Path) -> Iterator[World]:
    """A served configuration with three requests in its log."""
    home = copy_configuration(folder)
    plain = {name: value for name, value in os.environ.items() if "SWITCHBOARD" not in name}
    with contextlib.ExitStack() as stack:
        providers = [
            stack.enter_context(_stand_in(folder, name, config))
            for name, config in (("vllm", {"vllm": {"base": "base"}}), ("commercial", {}))
        ]
        vllm, commercial = (each.wait_for_line(r"^(http://\S+)") for each in providers)
        env = {
            **plain,
            "SWITCHBOARD_VLLM_URL": vllm,
            "SWITCHBOARD_COMMERCIAL_URL": commercial,
            "PYTHONUNBUFFERED": "1",
        }
        command = [str(BIN / "switchboard"), "serve", "--listen", "127.0.0.1:0"]
        where = [sys.executable, "-c", _IN_DIRECTORY, str(home), *command]
        log = folder / "gateway.log"
        gateway = stack.enter_context(processes.launch(where, log_path=log, env=env))
        found = World(home, env, gateway.wait_for_line(r"serves (http://\S+)"), vllm)
        adapters_loaded(found.url)
        for text in ASKED:
            found.ask(text)
        yield found


def _stand_in(folder: Path, name: str, config: dict[str, Any]) -> processes.Guarded:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "gateway.standin", "--config", str(path)]
    return processes.launch(command, log_path=folder / f"{name}.log")


def curl(words: list[str]) -> str:
    """What curl prints: the body, and with `-i` the head before it.

    Raises ValueError for an option that is not known here, or an answer that is an error.
    """
    method, body, url, head = "", None, "", False
    headers: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        match word:
            case "-s" | "-si" | "-i":
                head = head or "i" in word
            case "-X":
                method = next(rest)
            case "-H":
                name, _, value = next(rest).partition(":")
                headers[name.strip()] = value.strip()
            case "-d":
                body = next(rest)
            case _ if word.startswith("http://"):
                url = word
            case _:
                raise ValueError(f"{word!r} is not looked at: teach `curl` in {__file__}")
    how = method or ("POST" if body is not None else "GET")
    answer = httpx.request(how, url, headers=headers, content=body, timeout=20)
    if answer.is_error:
        raise ValueError(f"{how} {url}: {answer.status_code} {answer.text}")
    lines = [f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    return "\n".join([*lines, "", answer.text] if head else [answer.text])


def words_of(command: str) -> list[str]:
    """A command's words, as a shell parts them; what follows `#` is left out."""
    return shlex.split(command, comments=True)
