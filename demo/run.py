"""`make demo`: sets everything up, then routes real requests on a real vLLM and shows what came.

    python -m demo.run [--keep] [--stand-ins]

Starts vLLM with the demo's tiny base, a stand-in for a commercial provider, and the gateway on the
configuration in this tree. Then it sends the same requests three times: as `auto`, all to the
commercial model, all to the base; and freight notes alone to a cascade, too. With `--keep` it goes
on serving until ctrl-C; with `--stand-ins` a stand-in takes vLLM's place, as it does where vLLM
cannot be had.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import httpx
from rich.console import Console

from demo import processes, questions, show, tasks, vllm_server
from demo.questions import Asked
from demo.show import Got

ROOT = Path(__file__).resolve().parent.parent
VLLM_ENVIRONMENT = ROOT / "demo" / "vllm_env.py"
AUTO, COMMERCIAL, BASE = "auto", "commercial/large", "local/tiny"
CASCADE = "composed/freight"
AT_ONCE = 4
STREAMED = 3
"""Every so many-th request is streamed."""

ADAPTERS_DEADLINE_S = 60.0
TELL_EVERY_S = 10.0


class Ended(BaseException):
    """A signal wants the demo to end; its number is the argument."""


class Options(NamedTuple):
    """The command line."""

    keep: bool
    stand_ins: bool


# ---------------------------------------------------------------- what is started


def can_have_vllm(console: Console) -> bool:
    """Makes vLLM's environment if need be; says so plainly where it cannot be made."""
    with processes.launch([_python(), str(VLLM_ENVIRONMENT)]) as making:
        if making.process.wait() == 0:
            return True
    _say_without_vllm(console, "vLLM cannot be had here, for the reason above")
    return False


def wait_for_vllm(server: vllm_server.Server, console: Console) -> bool:
    """True once it serves; False, with what it said last, where it does not start."""
    try:
        with waiting(console, "vLLM starts, about half a minute") as told:
            server.wait(240, told)
    except vllm_server.VllmFailed as failure:
        console.print(str(failure), markup=False, highlight=False)
        _say_without_vllm(console, "vLLM was installed but did not start, as told above")
        server.stop()
        return False
    console.print(f"vLLM serves the tiny base at {server.url}")
    return True


def _say_without_vllm(console: Console, why: str) -> None:
    console.print(
        f"[bold yellow]{why}: a stand-in takes its place.\nWhat that answers comes from a table "
        "and is no model's work.[/bold yellow]"
    )


def stand_in(folder: Path, name: str, config: dict[str, Any], port: int = 0) -> processes.Guarded:
    """A stand-in as a process; it prints its base URL."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config))
    command = [sys.executable, "-m", "gateway.standin", "--config", str(path), "--port", str(port)]
    return processes.launch(command, log_path=folder / f"{name}.log")


def gateway(
    folder: Path, vllm_url: str, commercial_url: str, home: Path = ROOT
) -> processes.Guarded:
    """The gateway on the configuration in `home`, with a store of its own."""
    command = [
        *(str(Path(sys.executable).parent / "switchboard"), "serve", "--config", str(home)),
        *("--listen", "127.0.0.1:0", "--store", store_of(folder)),
    ]
    env = os.environ | {
        "SWITCHBOARD_VLLM_URL": vllm_url,
        "SWITCHBOARD_COMMERCIAL_URL": commercial_url,
    }
    return processes.launch(command, log_path=folder / "gateway.log", env=env)


def store_of(folder: Path) -> str:
    """The URL of the demo's store."""
    return f"sqlite:///{folder}/switchboard.db"


def adapters_loaded(url: str) -> None:
    """Waits until the gateway has loaded every declared adapter at every replica.

    Raises DidNotStart when one cannot be loaded or the deadline passes.
    """
    until = time.monotonic() + ADAPTERS_DEADLINE_S
    with httpx.Client(base_url=url) as client:
        while time.monotonic() < until:
            told = client.get("/ready").json()
            replicas = told["replicas"].values()
            if all(set(tasks.ADAPTERS) <= _adapters_of(state["loaded"]) for state in replicas):
                return
            failed = [text for state in replicas for text in state["failed"].values()]
            if failed := failed + [text for text in told["unusable"].values() if text]:
                raise processes.DidNotStart(f"an adapter could not be loaded: {failed[0]}")
            time.sleep(processes.POLL_S)
    raise processes.DidNotStart(f"the adapters were not loaded in {ADAPTERS_DEADLINE_S:.0f} s")


def _adapters_of(served: Sequence[str]) -> set[str]:
    """The adapters' names, without the versions under which they are served."""
    return {name.partition("@")[0] for name in served}


def _python() -> str:
    """The Python that ours is an environment of: vLLM's is not made from within another one."""
    return getattr(sys, "_base_executable", sys.executable)


# ---------------------------------------------------------------- what is asked


async def ask_all(url: str, asked: Sequence[Asked], model: str) -> list[Got]:
    """Every question to one model, a few at a time; what they cost is read from the gateway's log.

    Raises httpx.HTTPStatusError for an answer that is none.
    """
    limit = asyncio.Semaphore(AT_ONCE)
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:

        async def ask(n: int, question: Asked) -> tuple[str, str, float]:
            async with limit:
                began = time.perf_counter()
                answer, decision = await _chat(client, question.text, model, n % STREAMED == 2)
                return answer, decision, (time.perf_counter() - began) * 1e3

        answered = await asyncio.gather(*(ask(n, each) for n, each in enumerate(asked)))
        return [await _with_row(client, *each) for each in answered]


async def _chat(client: httpx.AsyncClient, text: str, model: str, stream: bool) -> tuple[str, str]:
    """The answer, and the id of the decision behind it."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 24,
        "temperature": 0,
        "stream": stream,
    }
    answer = await client.post("/v1/chat/completions", json=body)
    answer.raise_for_status()
    said = streamed(answer.text) if stream else answer.json()["choices"][0]["message"]["content"]
    return said, answer.headers["x-switchboard-decision"]


async def _with_row(client: httpx.AsyncClient, answer: str, decision: str, ms: float) -> Got:
    found = await client.get(f"/v1/decisions/{decision}")
    row = found.raise_for_status().json()
    steps = row["decision"].get("steps") or []
    escalated = any(step["came_to"].startswith("escalated") for step in steps)
    return Got(answer, row["route"], row["target"], row["cost_usd"], ms, escalated)


def streamed(body: str) -> str:
    """The text of a streamed chat completion."""
    events = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith("data:")]
    chunks = [json.loads(event) for event in events if event != "[DONE]"]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    return "".join(delta.get("content") or "" for delta in deltas)


# ---------------------------------------------------------------- what is shown


@contextlib.contextmanager
def waiting(console: Console, text: str) -> Iterator[vllm_server.Progress]:
    """Shows that a step goes on: as it runs in a terminal, else with a line now and then."""
    told = 0.0

    def tell(elapsed_s: float) -> None:
        nonlocal told
        if console.is_terminal:
            status.update(f"{text} … {elapsed_s:.0f} s")
        elif elapsed_s - told >= TELL_EVERY_S:
            told = elapsed_s
            console.print(f"    {elapsed_s:.0f} s")

    if not console.is_terminal:
        console.print(f"{text} …")
    with console.status(f"{text} …") as status:
        yield tell


def show_runs(url: str, real: bool, console: Console) -> None:
    """Asks everything in the three ways, and freight notes in four; prints what came of it."""
    asked, notes = questions.questions(), questions.freight()
    runs = _asked(url, asked, (AUTO, COMMERCIAL, BASE), console)
    of_notes = _asked(url, notes, (AUTO, COMMERCIAL, BASE, CASCADE), console)
    console.print()
    console.print(show.results(asked, runs[AUTO]))
    known = show.recognised(asked, runs[AUTO])
    console.print(
        f"[dim]{known} of {len(asked)} taken for the work they are; ! marks others.[/dim]"
    )
    console.print()
    console.print(show.totals({name: show.total(asked, got) for name, got in runs.items()}))
    console.print()
    totals = {name: show.total(notes, got) for name, got in of_notes.items()}
    console.print(show.shares(totals, COMMERCIAL))
    console.print(f"\n[dim]{_honestly(real)}[/dim]")


def _asked(
    url: str, asked: Sequence[Asked], models: Sequence[str], console: Console
) -> dict[str, list[Got]]:
    runs: dict[str, list[Got]] = {}
    for model in models:
        with waiting(console, f"{len(asked)} requests to {model}, {AT_ONCE} at a time"):
            runs[model] = asyncio.run(ask_all(url, asked, model))
    return runs


def _honestly(real: bool) -> str:
    ours = (
        "vLLM's answers are a real model's."
        if real
        else "vLLM's answers come from a table of what its models were trained to say, and its "
        "milliseconds\nmean nothing: a stand-in had its place."
    )
    return (
        f"{ours} Its tokens cost what its replica does at full load, as\n"
        "declared in gateway.yaml. The commercial provider is a stand-in: its answers come from a "
        "table\nof someone who knows the world but not this house's conventions; its prices and "
        "delays are\nthose declared in gateway.yaml. "
        f"{CASCADE} asks our base with its adapter, and the\ncommercial model where that is not "
        f"sure of what it says: {questions.NEW} of the notes go to cities that it has\nnever seen."
    )


def how_to_try(url: str, folder: Path) -> str:
    """What to type while the demo serves: curl, openai-python, and our own log."""
    body = '{"model": "auto", "messages": [{"role": "user", "content": "My phone fell apart."}]}'
    return (
        f"curl -i {url}/v1/chat/completions -H 'content-type: application/json' -d '{body}'\n\n"
        "from openai import OpenAI\n"
        f'client = OpenAI(base_url="{url}/v1", api_key="none")\n'
        'print(client.chat.completions.create(model="auto", messages=[{"role": "user", '
        '"content": "My phone fell apart."}]).choices[0].message.content)\n\n'
        f"{Path(sys.executable).parent / 'switchboard'} log --store {store_of(folder)}\n\n"
        "With that --store go `explain`, `usage`, `quality`, `experiment show`, `shadow report`, "
        f"`export`, `apply` and `keys create`, too; with --gateway {url}, and a key of the role "
        "operate, what acts at once: `drain`, `experiment stop`."
    )


# ---------------------------------------------------------------- the whole


def demo(folder: Path, options: Options, console: Console) -> None:
    """The whole show. What it starts side by side has ended when it returns, whatever happens."""
    real = not options.stand_ins and can_have_vllm(console)
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        port = vllm_server.free_port()
        log_path = folder / "vllm.log"
        vllm = stack.enter_context(vllm_server.launch(port, log_path=log_path)) if real else None
        provider = stack.enter_context(stand_in(folder, "commercial", questions.commercial()))
        commercial_url = provider.wait_for_line(r"^(http://\S+)")
        console.print(f"a stand-in for a commercial provider answers at {commercial_url}")
        ours = stack.enter_context(gateway(folder, f"http://127.0.0.1:{port}", commercial_url))
        url = ours.wait_for_line(r"serves (http://\S+)")
        console.print(f"the gateway serves {url}")
        real = vllm is not None and wait_for_vllm(vllm, console)
        if not real:
            config = questions.in_place_of_vllm(vllm_server.SERVED_NAME)
            other = stack.enter_context(stand_in(folder, "instead-of-vllm", config, port))
            other.wait_for_line(r"^(http://\S+)")
        adapters_loaded(url)
        console.print(f"all of it is up after {time.monotonic() - began:.0f} s")
        show_runs(url, real, console)
        if options.keep:
            console.print(f"\nIt goes on serving at [bold]{url}[/bold]; ctrl-C ends it. Try:\n")
            console.print(how_to_try(url, folder), markup=False, highlight=False, soft_wrap=True)
            signal.pause()


def _end(number: int, _: FrameType | None) -> None:
    """Ends the demo once: while it cleans up, more of the same changes nothing."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Ended(number)


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keep", action="store_true", help="go on serving")
    parser.add_argument("--stand-ins", action="store_true", help="do without vLLM")
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    console = Console(width=None if sys.stdout.isatty() else show.WIDTH)
    with tempfile.TemporaryDirectory(prefix="switchboard-demo-") as folder:
        try:
            demo(Path(folder), Options(options.keep, options.stand_ins), console)
        except processes.DidNotStart as failure:
            console.print(str(failure), markup=False, highlight=False)
            return 1
        except Ended as ended:
            console.print("ended; nothing is left running")
            return 128 + int(ended.args[0])
    return 0


if __name__ == "__main__":
    sys.exit(main())
