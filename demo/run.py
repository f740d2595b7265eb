"""`make demo`: sets everything up, then routes real requests on a real vLLM and shows what came.

    python -m demo.run [--keep]

Starts vLLM with the demo's tiny base, a stand-in for a commercial provider, and the gateway on the
configuration in this tree. Then it sends the same requests three times: as `auto`, all to the
commercial model, all to the base. With `--keep` it goes on serving until ctrl-C.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
from rich.console import Console
from rich.table import Table

from demo import tasks, vllm_server
from demo.tasks import Example

ROOT = Path(__file__).resolve().parent.parent
PER_TASK = 5
SEED = 11
COMMERCIAL, BASE = "commercial/large", "local/tiny"

GENERAL_KNOWLEDGE = (
    ("What is the capital of France?", "Paris"),
    ("Which planet is known as the red planet?", "Mars"),
    ("Write a Python function that adds two numbers.", "def add(a, b):\n    return a + b"),
    ("Fix this bug: for i in range(10) print(i)", "for i in range(10):\n    print(i)"),
    ("Translate into German: good morning", "Guten Morgen"),
    ("How do you say thank you in French?", "merci"),
    ("Who wrote Hamlet?", "William Shakespeare"),
    ("What does HTTP stand for?", "Hypertext Transfer Protocol"),
)
"""Questions for a large model: the tiny base has never seen their like."""


class Asked(NamedTuple):
    """One request of the demo and the answer that is right."""

    text: str
    right: str


class Got(NamedTuple):
    """What came back."""

    answer: str
    route: str
    target: str
    cost_usd: float
    ms: float


def questions() -> list[Asked]:
    """A mix of kinds of work, none of whose prompts any model was trained on."""
    asked = [
        Asked(example.prompt, example.house)
        for task in tasks.TASKS
        for example in tasks.sample(task, PER_TASK, SEED, "test")
    ]
    return asked + [Asked(*pair) for pair in GENERAL_KNOWLEDGE]


def commercial_answers() -> list[dict[str, str]]:
    """The stand-in's table: it knows the world, but not the conventions of this house."""
    known: list[Example] = [
        example for task in tasks.TASKS for example in tasks.sample(task, PER_TASK, SEED, "test")
    ]
    rows = [(example.prompt, example.generic) for example in known] + list(GENERAL_KNOWLEDGE)
    return [{"match": f"^{re.escape(text)}$", "say": answer} for text, answer in rows]


@contextlib.contextmanager
def commercial(folder: Path) -> Iterator[str]:
    """The stand-in for a commercial provider, as a process; its base URL."""
    model = {"table": commercial_answers(), "first_token_s": 0.35, "between_tokens_s": 0.02}
    config = folder / "commercial.json"
    config.write_text(
        json.dumps({"models": {"large": model, "small": {**model, "first_token_s": 0.15}}})
    )
    command = [sys.executable, "-m", "gateway.standin", "--config", str(config)]
    with _process(command, folder / "commercial.log", {}) as process:
        yield process.line(r"^(http://\S+)")


@contextlib.contextmanager
def vllm(folder: Path, console: Console) -> Iterator[str | None]:
    """vLLM with the tiny base and no adapter yet; None where it cannot be had."""
    made = subprocess.run([_python(), str(ROOT / "demo/vllm_env.py")], check=False)
    if made.returncode:
        console.print(
            "[yellow]vLLM cannot be had here: its place is taken by a stand-in, and what it "
            "answers is no model's work.[/yellow]"
        )
        yield None
        return
    with console.status("starting vLLM …") as status:
        server = vllm_server.start(
            vllm_server.free_port(),
            log_path=folder / "vllm.log",
            progress=lambda s, _: status.update(f"starting vLLM … {s:.0f} s (about 30 s in all)"),
        )
    console.print(f"vLLM serves the tiny base at {server.url}")
    with server:
        yield server.url


@contextlib.contextmanager
def stand_in_vllm(folder: Path) -> Iterator[str]:
    """In vLLM's place: answers as base and adapters would, from a table."""
    wants = [
        {"match": f"^{re.escape(example.prompt)}$", "say": example.generic}
        for task in tasks.TASKS
        for example in tasks.sample(task, PER_TASK, SEED, "test")
    ]
    config = folder / "vllm.json"
    config.write_text(json.dumps({"models": {"base": {"table": wants}}, "vllm": {"base": "base"}}))
    command = [sys.executable, "-m", "gateway.standin", "--config", str(config)]
    with _process(command, folder / "vllm.log", {}) as process:
        yield process.line(r"^(http://\S+)/v1")


@contextlib.contextmanager
def gateway(folder: Path, vllm_url: str, commercial_url: str) -> Iterator[str]:
    """The gateway on this tree's configuration; its base URL."""
    command = [
        *(str(Path(sys.executable).parent / "switchboard"), "serve", "--config", str(ROOT)),
        *("--listen", "127.0.0.1:0", "--store", f"sqlite:///{folder}/switchboard.db"),
    ]
    env = {"SWITCHBOARD_VLLM_URL": vllm_url, "SWITCHBOARD_COMMERCIAL_URL": commercial_url}
    with _process(command, folder / "gateway.log", env) as process:
        yield process.line(r"serves (http://\S+)")


class Process(NamedTuple):
    """A process of the demo, and the file that what it prints goes to."""

    popen: "subprocess.Popen[bytes]"
    log: Path

    def line(self, pattern: str, deadline_s: float = 30) -> str:
        """The first group of the first line that fits, as soon as it is printed."""
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            ended = self.popen.poll() is not None
            found = re.search(pattern, self.log.read_text())
            if found:
                return found.group(1)
            if ended:
                break
            time.sleep(0.02)
        raise RuntimeError(f"{self.log.stem} did not start:\n{self.log.read_text()[-2000:]}")


@contextlib.contextmanager
def _process(command: Sequence[str], log: Path, env: dict[str, str]) -> Iterator[Process]:
    """A process that ends with the block."""
    with log.open("wb") as out:
        popen = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            start_new_session=True,  # ctrl-C is for the demo, which ends this in its turn
        )
    try:
        yield Process(popen, log)
    finally:
        popen.terminate()
        try:
            popen.wait(20)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()


def _python() -> str:
    return getattr(sys, "_base_executable", sys.executable)


async def adapters_loaded(url: str) -> None:
    """Waits until the gateway has loaded every declared adapter."""
    async with httpx.AsyncClient(base_url=url) as client:
        for _ in range(600):
            replicas = (await client.get("/ready")).json()["replicas"].values()
            if all(len(state["loaded"]) > len(tasks.ADAPTERS) for state in replicas):
                return
            failed = [text for state in replicas for text in state["failed"].values()]
            if failed:
                raise RuntimeError(f"an adapter could not be loaded: {failed[0]}")
            await asyncio.sleep(0.1)
    raise RuntimeError("the adapters were not loaded within a minute")


async def ask_all(url: str, asked: Sequence[Asked], model: str) -> list[Got]:
    """Every question to one model, four at a time."""
    limit = asyncio.Semaphore(4)
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:

        async def ask(question: Asked) -> Got:
            body = {
                "model": model,
                "messages": [{"role": "user", "content": question.text}],
                "max_tokens": 24,
                "temperature": 0,
            }
            async with limit:
                began = time.perf_counter()
                answer = await client.post("/v1/chat/completions", json=body)
            answer.raise_for_status()
            return Got(
                answer.json()["choices"][0]["message"]["content"].strip(),
                answer.headers["x-switchboard-route"],
                answer.headers["x-switchboard-target"],
                float(answer.headers["x-switchboard-cost-usd"]),
                (time.perf_counter() - began) * 1e3,
            )

        return list(await asyncio.gather(*(ask(question) for question in asked)))


def results(asked: Sequence[Asked], got: Sequence[Got]) -> Table:
    """What became of each request."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name, justify in (
        ("text", "left"),
        ("route", "left"),
        ("target", "left"),
        ("answer", "left"),
        ("", "left"),
        ("usd/1k", "right"),
        ("ms", "right"),
    ):
        table.add_column(name, justify=justify, no_wrap=True, max_width=44)  # type: ignore[arg-type]
    for question, one in zip(asked, got, strict=True):
        right = one.answer == question.right
        mark = "[green]right[/green]" if right else "[red]wrong[/red]"
        first_line = one.answer.split("\n")[0]
        table.add_row(
            question.text,
            one.route,
            f"[cyan]{one.target}[/cyan]",
            first_line,
            mark,
            f"{one.cost_usd * 1000:.4f}",
            f"{one.ms:.0f}",
        )
    return table


def totals(asked: Sequence[Asked], runs: dict[str, list[Got]]) -> Table:
    """The three ways side by side."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("everything sent to")
    for name in ("right", "usd for 1,000", "mean ms"):
        table.add_column(name, justify="right")
    for name, got in runs.items():
        right = sum(one.answer == question.right for question, one in zip(asked, got, strict=True))
        table.add_row(
            name,
            f"{right} of {len(asked)} ({right / len(asked):.0%})",
            f"{sum(one.cost_usd for one in got) / len(got) * 1000:.4f}",
            f"{sum(one.ms for one in got) / len(got):.0f}",
        )
    return table


def serve_on(url: str, console: Console) -> None:
    """Goes on serving until ctrl-C."""
    body = '{"model": "auto", "messages": [{"role": "user", "content": "The phone is broken"}]}'
    console.print(f"\nIt goes on serving at [bold]{url}[/bold]; ctrl-C ends it. Try:\n")
    console.print(
        f"curl -i {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'\n\n"
        "from openai import OpenAI\n"
        f'client = OpenAI(base_url="{url}/v1", api_key="none")\n'
        'print(client.chat.completions.create(model="auto", messages=[{"role": "user", '
        '"content": "The phone is broken"}]).choices[0].message.content)',
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            time.sleep(3600)


def demo(folder: Path, keep: bool, console: Console) -> None:
    """The whole show."""
    with contextlib.ExitStack() as stack:
        vllm_url = stack.enter_context(vllm(folder, console))
        if vllm_url is None:
            vllm_url = stack.enter_context(stand_in_vllm(folder))
        commercial_url = stack.enter_context(commercial(folder))
        console.print(f"a stand-in for a commercial provider answers at {commercial_url}")
        url = stack.enter_context(gateway(folder, vllm_url, commercial_url))
        console.print(f"the gateway serves {url}")
        asyncio.run(adapters_loaded(url))
        asked = questions()
        runs: dict[str, list[Got]] = {}
        for name, model in (
            ("auto", "auto"),
            ("the commercial model", COMMERCIAL),
            ("the base", BASE),
        ):
            with console.status(f"{len(asked)} requests to {name} …"):
                runs[name] = asyncio.run(ask_all(url, asked, model))
        console.print()
        console.print(results(asked, runs["auto"]))
        console.print()
        console.print(totals(asked, runs))
        console.print(
            "\n[dim]The commercial model is a stand-in: its answers come from a table of someone "
            "who knows the\nworld but not this house's conventions; its prices and delays are "
            "declared. vLLM's answers are real.[/dim]"
        )
        if keep:
            serve_on(url, console)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="go on serving")
    options = parser.parse_args()
    width = None if sys.stdout.isatty() else 160
    console = Console(width=width)
    with tempfile.TemporaryDirectory(prefix="switchboard-demo-") as folder:
        try:
            demo(Path(folder), options.keep, console)
        except KeyboardInterrupt:
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
