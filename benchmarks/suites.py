"""The demo's suites on the real vLLM and a stand-in for a provider: who is right how often.

    python -m benchmarks.suites [--write]

Every route's suite is asked of its targets by `switchboard eval run`, through a gateway on this
tree's configuration. The vLLM is the real one with the demo's tiny base and its adapters. The
commercial provider is a stand-in, told to answer by the generic convention where a suite is about
the house's own, and rightly elsewhere: its share of right answers says nothing of any model, its
prices are those that gateway.yaml declares.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import quality
from demo import suites, tasks, vllm_server
from demo.run import adapters_loaded, gateway, stand_in
from gateway.evals.suites import read

ROOT = Path(__file__).resolve().parent.parent
ROUTES = [*tasks.TASKS, "translation", "code-help"]


def provider() -> dict[str, Any]:
    """The stand-in's configuration: what it says to each question of the suites."""
    rows = [(each.prompt, each.generic) for task in tasks.TASKS for each in suites.cases(task)]
    for name in ("translation", "code-help"):
        suite = read(ROOT / f"evals/{name}.yaml", {})
        rows += [(case.prompt, answer_to(name, case.fields)) for case in suite.cases]
    table = [{"match": re.escape(question), "say": answer} for question, answer in rows]
    return {"models": {name: {"table": table} for name in ("large", "small", "embedder")}}


def answer_to(suite: str, fields: Any) -> str:
    """A right answer of the suites that are not about the house's conventions."""
    if suite == "translation":
        return str(fields["expected"])
    name = re.search(r"def (\w+)", fields["signature"])
    assert name is not None
    return SOLUTIONS[name[1]]


SOLUTIONS = {
    "merged": "def merged(a, b):\n    return sorted([*a, *b])",
    "is_leap": "def is_leap(year):\n"
    "    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)",
    "initials": "def initials(name):\n    return ''.join(w[0] for w in name.split()).upper()",
    "digits": "def digits(n):\n    return sum(int(d) for d in str(abs(n)))",
    "flat": "def flat(items):\n"
    "    out = []\n"
    "    for each in items:\n"
    "        out += flat(each) if isinstance(each, list) else [each]\n"
    "    return out",
    "most": "def most(words):\n    return max(words, key=words.count)",
}


@contextlib.contextmanager
def serving(folder: Path, vllm_url: str) -> Iterator[str]:
    """The URL of a gateway on this tree's configuration, before a vLLM and the stand-in."""
    with (
        stand_in(folder, "commercial", provider()) as commercial,
        gateway(folder, vllm_url, commercial.wait_for_line(r"^(http://\S+)")) as served,
    ):
        url = served.wait_for_line(r"serves (http://\S+)")
        adapters_loaded(url)
        yield url


def run(url: str, name: str, home: Path) -> dict[str, Any]:
    """One suite by the command; what it prints as JSON."""
    command = [str(Path(sys.executable).parent / "switchboard"), "eval", "run"]
    command += [str(ROOT / f"evals/{name}.yaml"), "--gateway", url, "--fresh", "--json"]
    command += ["--config", str(ROOT)]
    done = subprocess.run(command, capture_output=True, check=False, cwd=home, env=os.environ)
    if done.returncode:
        raise RuntimeError(done.stderr.decode()[-2000:])
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def measured(vllm_url: str, names: list[str]) -> dict[str, dict[str, Any]]:
    """What each suite found, by its name."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with serving(folder, vllm_url) as url:
            return {name: run(url, name, folder) for name in names}


def table(found: dict[str, dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "By `python -m benchmarks.suites --write`: each suite by `switchboard eval run`, through a"
        " gateway, on the real vLLM's CPU build with the demo's tiny base and its adapters.",
        "`commercial/…` is a stand-in: what it gets right is what it was told to (the generic"
        " convention where a suite is about the house's own), its prices are gateway.yaml's.",
        "",
        "| suite | target | right | of | dollars a thousand answers |",
        "|---|---|--:|--:|--:|",
    ]
    for name, told in found.items():
        for row in told["rows"]:
            each = 1000 * row["cost_usd"] / row["answers"]
            lines.append(
                f"| {name} | {row['target']} | {row['right'] / row['n']:.2f} | {row['n']}"
                f" | {each:.5f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="into docs/quality.md")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = vllm_server.start(vllm_server.free_port(), log_path=Path(folder) / "vllm.log")
        try:
            told = table(measured(server.url, ROUTES))
        finally:
            server.stop()
    print(told)
    if options.write:
        quality.write("suites", told)


if __name__ == "__main__":
    main()
