"""Compositions: what a cascade reaches at which cost, and what a composed request adds in time.

    python -m benchmarks.compositions [--only scored|vllm] [--data PATH] [--write]

First on RouteLLM's answers of a strong and a weak model, scored and priced: the production cascade,
with a check that tells right from wrong as often as stated, beside either model alone and the
learned router. Then on a real vLLM with the demo's tiny base and its adapter for freight notes, and
a stand-in for a commercial provider. Nothing that is checked knows the right answer there.
"""

import argparse
import asyncio
import contextlib
import math
import random
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import httpx
import numpy as np

from benchmarks import quality
from demo import show, suites, tasks, vllm_server
from demo.questions import FREIGHT, Asked
from demo.run import BASE, CASCADE, COMMERCIAL, ROOT, adapters_loaded, ask_all, gateway, stand_in
from demo.tasks import Example
from gateway.classify.bert import BertEncoder
from gateway.cli.routing import CACHE, ENCODER
from gateway.compose.best_of import best_of
from gateway.compose.cascade import cascade
from gateway.compose.moves import Given, Last, Machine, Said
from gateway.learn.bench import measure, read_by, vectors_of
from gateway.learn.data import Pool, read
from gateway.types.compositions import Check, Composition, Step

SEED = 101
"""None that training, the suites, the demo or a test uses."""

# ---------------------------------------------------------------- scored answers

RELIABILITIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
DRAWS, ROUTER_DRAWS = 20, 5
CHECKED = Composition(
    "checked",
    "cascade",
    (Step("1", "weak", (Check("contains", text="passes"),)), Step("2", "strong")),
)


class Point(NamedTuple):
    """Shares: of right answers, of always-strong's cost, of those that escalated; and the standard
    error of the first over draws."""

    right: float
    cost: float
    escalated: float
    error: float = 0.0


def escalates(composition: Composition, text: str) -> bool:
    """Whether the production cascade asks a second step after a first that says so."""
    machine = cascade(composition, "", {})
    (ask,) = next(machine)
    return isinstance(ending(machine, (Said(ask, b"", text),)), Last)


def ending(machine: Machine, heard: tuple[Said, ...]) -> object:
    """What a machine ends in that asks nothing more."""
    try:
        machine.send(heard)
    except StopIteration as ended:
        found: object = ended.value
        return found
    raise AssertionError("it asks more")


def checked(pool: Pool, reliability: float, draws: int = DRAWS) -> Point:
    """The cascade from the cheaper of two models to the dearer, over draws of what the check says:
    of right answers a share of `reliability` pass, of wrong ones a share of it do not."""
    weak, strong = (int(each) for each in np.argsort(pool.cost.mean(axis=0)))
    right = pool.quality[:, weak] >= 0.5
    after = {said: escalates(CHECKED, said) for said in ("passes", "does not")}
    found = []
    for draw in range(draws):
        told = np.random.default_rng(draw).random(len(right)) < reliability
        said = np.where(right == told, "passes", "does not")
        on = np.array([after[each] for each in said])
        got = np.where(on, pool.quality[:, strong], pool.quality[:, weak]).mean()
        cost = (pool.cost[:, weak] + np.where(on, pool.cost[:, strong], 0.0)).mean()
        found.append((got, cost / pool.cost[:, strong].mean(), on.mean()))
    means = np.mean(found, axis=0)
    error = np.std([each[0] for each in found], ddof=1) / math.sqrt(draws)
    return Point(float(means[0]), float(means[1]), float(means[2]), float(error))


def routed(pool: Pool) -> tuple[Sequence[float], Sequence[float]]:
    """The learned router's curve: shares of always-strong's cost, and of right answers at each."""
    encoder = BertEncoder(ENCODER)
    vectors = vectors_of(pool.prompts, encoder, CACHE, lambda n: None)
    asked = read_by("vectors", pool, encoder, vectors)
    curves = measure(pool, *asked, seeds=ROUTER_DRAWS, progress=print).curves
    dear = float(pool.cost.mean(axis=0).max())
    return [each / dear for each in curves.x], curves.routers["learned"]


def scored(pool: Pool) -> list[str]:
    """The rows of one pool."""
    weak, strong = (int(each) for each in np.argsort(pool.cost.mean(axis=0)))
    alone = pool.quality.mean(axis=0)
    cheap = pool.cost[:, weak].mean() / pool.cost[:, strong].mean()
    x, y = routed(pool)

    def row(what: str, point: Point) -> str:
        router = float(np.interp(point.cost, x, y))
        return (
            f"| {pool.name} | {what} | {point.right:.1%} (± {point.error:.1%})"
            f" | {point.cost:.1%} | {point.escalated:.1%} | {router:.1%} |"
        )

    rows = [row("weak alone", Point(float(alone[weak]), float(cheap), 0.0))]
    for each in RELIABILITIES:
        rows.append(row(f"cascade, check right {each:.0%} of the time", checked(pool, each)))
    return [*rows, row("strong alone", Point(float(alone[strong]), 1.0, 1.0))]


# ---------------------------------------------------------------- the best of several

SAMPLES = (1, 3, 5, 9)
SHARES = (0.45, 0.6, 0.75)
QUESTIONS = 4_000
WRONG = ("a", "b", "c")


def voted(share: float, samples: int, questions: int = QUESTIONS) -> float:
    """How often the production vote is right, where each sample is by itself right with that
    chance, and else says one of three wrong things."""
    made = Composition("voted", "best_of", (Step("1", "model"),), samples=samples)
    rng = random.Random(f"{SEED}/{share}/{samples}")
    right = 0
    for _ in range(questions):
        machine = best_of(made, "", {})
        heard = tuple(
            Said(ask, b"", "right" if rng.random() < share else rng.choice(WRONG))
            for ask in next(machine)
        )
        given = ending(machine, heard)
        assert isinstance(given, Given)
        right += given.said.text == "right"
    return right / questions


# ---------------------------------------------------------------- a real vLLM

NEW = 20
"""Notes, of a hundred and some, to cities that no model has seen."""

MISTAKES = 10
"""One answer in so many of the capable provider is another city."""

PLAIN = "composed/plain"
SURENESS = 0.1
"""The share of notes such as those trained on whose answers the adapter may be less sure of."""

MORE = """
  plain:
    kind: cascade
    steps: [local/tiny, commercial/large]
    checks: [{{kind: regex, pattern: "({cities})"}}]
"""


def home(folder: Path) -> Path:
    """This tree's configuration with one composition more: from the base without an adapter, by the
    cities that the house serves."""
    for name in ("routes", "policies", "prompts"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "demo").symlink_to(ROOT / "demo")
    declared = (ROOT / "gateway.yaml").read_text()
    (folder / "gateway.yaml").write_text(declared + MORE.format(cities="|".join(tasks.CITIES)))
    return folder


def notes(new: int = NEW) -> list[Example]:
    """Held-out freight notes: those of the suite, and some to cities that no model has seen."""
    return [*suites.cases(FREIGHT), *tasks.unseen(new, SEED)]


def provider(examples: Sequence[Example], *, capable: bool) -> dict[str, Any]:
    """The stand-in's configuration: by the generic convention, or right but for one in ten."""

    def said(n: int, example: Example) -> str:
        if not capable:
            return example.generic
        others = [city for city in tasks.CITIES if city != example.house]
        return example.house if n % MISTAKES else others[n // MISTAKES % len(others)]

    table = [
        {"match": f"^{re.escape(example.prompt)}$", "say": said(n, example)}
        for n, example in enumerate(examples)
    ]
    return {"models": {name: {"table": table} for name in ("large", "small", "embedder")}}


@contextlib.contextmanager
def serving(folder: Path, vllm_url: str, said: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The URLs of a gateway with the compositions, and of the provider behind it."""
    folder.mkdir()
    with stand_in(folder, "commercial", dict(said)) as commercial:
        provider_url = commercial.wait_for_line(r"^(http://\S+)")
        with gateway(folder, vllm_url, provider_url, home(folder)) as served:
            url = served.wait_for_line(r"serves (http://\S+)")
            adapters_loaded(url)
            yield url, provider_url


def asked_of(url: str, examples: Sequence[Example]) -> dict[str, show.Total]:
    """Each target's total over the notes."""
    asked = [Asked(example.prompt, FREIGHT, example.house) for example in examples]
    targets = (COMMERCIAL, CASCADE, PLAIN, f"{BASE}+{FREIGHT}", BASE)
    return {name: show.total(asked, asyncio.run(ask_all(url, asked, name))) for name in targets}


def rows_of(setting: str, totals: Mapping[str, show.Total]) -> list[str]:
    """One setting of the provider as rows of the table."""
    dear = totals[COMMERCIAL].cost_usd
    return [
        f"| {setting} | {name} | {one.right / one.of:.1%} | {one.of}"
        f" | {1000 * one.cost_usd / one.of:.5f} | {one.cost_usd / dear:.1%}"
        f" | {one.escalated / one.of:.1%} |"
        for name, one in totals.items()
    ]


# ---------------------------------------------------------------- time

TIMES = 300


class Took(NamedTuple):
    """Milliseconds, medians: the composed request, and its steps called directly."""

    composed: float
    direct: float


def timed(url: str, vllm_url: str, provider_url: str, examples: Sequence[Example]) -> list[str]:
    """What the gateway adds to composed requests, one after the other, on this machine."""
    with httpx.Client(timeout=60) as client:
        listed = client.get(f"{vllm_url}/v1/models").json()["data"]
        (adapter,) = [each["id"] for each in listed if each["id"].startswith(f"{FREIGHT}@")]
        ours, theirs = f"{vllm_url}/v1", provider_url
        parts = {
            "passes: one step": (CASCADE, [(ours, adapter)]),
            "escalates: two steps": (PLAIN, [(ours, "base"), (theirs, "large")]),
        }
        lines = []
        for what, (name, steps) in parts.items():
            goes_on = len(steps) > 1
            fit = [each for each in examples if (each.generic != each.house) == goes_on]
            took = _timed(client, f"{url}/v1", name, steps, fit)
            lines.append(
                f"| {what} | {took.composed:.1f} | {took.direct:.1f}"
                f" | {took.composed - took.direct:.1f} |"
            )
    return lines


def _timed(
    client: httpx.Client,
    gateway_url: str,
    name: str,
    steps: Sequence[tuple[str, str]],
    examples: Sequence[Example],
) -> Took:
    """By turns, so that what else the machine does is in both."""
    composed, direct = [], []
    for n in range(TIMES):
        text = examples[n % len(examples)].prompt
        answer, ms = _once(client, gateway_url, name, text)
        told = answer.headers["x-switchboard-steps"]
        each = [_once(client, base, model, text)[1] for base, model in steps]
        if told.count(",") + 1 == len(steps):  # the one that was meant
            composed.append(ms)
            direct.append(sum(each))
    return Took(median(composed), median(direct))


def _once(client: httpx.Client, url: str, model: str, text: str) -> tuple[httpx.Response, float]:
    """One chat completion as a cascade's step is asked, and its milliseconds."""
    messages = [{"role": "user", "content": text}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_completion_tokens": 24}
    if model.startswith(FREIGHT):
        body["logprobs"] = True
    began = time.perf_counter()
    answer = client.post(f"{url}/chat/completions", json=body).raise_for_status()
    return answer, 1e3 * (time.perf_counter() - began)


def sure_of(vllm_url: str) -> float:
    """The probability that an adapter's answers to notes such as it was trained on exceed, but for
    a share of `SURENESS`: what its cascade's check was chosen by."""
    with httpx.Client(timeout=60) as client:
        listed = client.get(f"{vllm_url}/v1/models").json()["data"]
        (adapter,) = [each["id"] for each in listed if each["id"].startswith(f"{FREIGHT}@")]
        found = []
        for example in tasks.sample(FREIGHT, TIMES, SEED, "train"):
            answer, _ = _once(client, f"{vllm_url}/v1", adapter, example.prompt)
            tokens = answer.json()["choices"][0]["logprobs"]["content"]
            found.append(math.exp(np.mean([token["logprob"] for token in tokens])))
    return float(np.quantile(found, SURENESS))


# ---------------------------------------------------------------- the page


def on_scored_answers(data: Path) -> str:
    """The part that needs no model: the production logic on answers that were scored or drawn."""
    lines = [
        "**Accuracy against cost, on scored answers**, by"
        " `python -m benchmarks.compositions --only scored --write`. RouteLLM's pair,"
        " gpt-4-1106-preview and Mixtral-8x7B, every prompt with its own scores and costs. Which"
        " step answers is decided by the production cascade; what its check says is drawn: it"
        " passes the stated share of right answers, and stops the same share of wrong ones. Means"
        f" over {DRAWS} draws, with"
        " their standard error. Beside it what the learned router (mean of"
        f" {ROUTER_DRAWS} draws of 1,500 labels on MMLU; five folds, {ROUTER_DRAWS} times, on"
        " GSM8K) has right at the same cost; it looks at the prompt alone.",
        "",
        "| pool | | right | of strong's cost | escalated | learned router at that cost |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for pool in read(data, {}):
        lines += scored(pool)
    lines += [
        "",
        "**The best of n, by vote.** The production vote on simulated answers, seeded,"
        f" {QUESTIONS:,} questions of each: every sample is by itself right with the stated chance,"
        " and else says one of three wrong things. Real samples of one model err together, and"
        " gain less.",
        "",
        f"| one sample right | {' | '.join(f'best of {n}' for n in SAMPLES)} |",
        f"|---|{'--:|' * len(SAMPLES)}",
    ]
    for share in SHARES:
        cells = " | ".join(f"{voted(share, n):.1%}" for n in SAMPLES)
        lines.append(f"| {share:.0%} | {cells} |")
    return "\n".join(lines)


def on_vllm() -> str:
    """The part that needs a real vLLM."""
    examples = notes()
    rows: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        server = vllm_server.start(vllm_server.free_port(), log_path=folder / "vllm.log")
        try:
            for capable, words in ((False, "generic"), (True, "capable")):
                said = provider(examples, capable=capable)
                with serving(folder / words, server.url, said) as (url, provider_url):
                    rows += rows_of(words, asked_of(url, examples))
                    if capable:
                        times = timed(url, server.url, provider_url, examples)
                        sure = sure_of(server.url)
        finally:
            server.stop()
    lines = [
        "**On a real vLLM**, by `python -m benchmarks.compositions --only vllm --write`: its CPU"
        " build with the demo's tiny base and its adapter for freight"
        f" notes; {len(examples)} held-out notes, {NEW} of them to cities that no model of ours has"
        f" seen. `{CASCADE}` is the demo's: adapter, then `{COMMERCIAL}` where the mean probability"
        f" of the answer's tokens is under 99.3 %. (Of notes such as it was trained on"
        f" {1 - SURENESS:.0%} are answered with {sure:.1%} or more.) `{PLAIN}` is the base without"
        f" an adapter, then `{COMMERCIAL}` where the answer is none of the house's"
        f" {len(tasks.CITIES)} cities. No check sees the right answer. The provider is a stand-in"
        " at gateway.yaml's prices: *generic* follows the convention that is wrong for the house in"
        f" about half of the notes, *capable* is right but for one note in {MISTAKES}, where it"
        " names another city.",
        "",
        "| provider | target | right | of | dollars a thousand answers | of"
        f" {COMMERCIAL}'s cost | escalated |",
        "|---|---|--:|--:|--:|--:|--:|",
        *rows,
        "",
        "**Time that a composed request adds.** Whole answers, one request after the other, in"
        f" turns with the same calls made directly at the same servers, {TIMES} of each; medians in"
        " milliseconds, on a machine of 2 cores that also runs vLLM, the provider and the client."
        " Keys, decision, checks, rows of the log and metrics are in it.",
        "",
        "| | composed request | its steps called directly | added |",
        "|---|--:|--:|--:|",
        *times,
    ]
    return "\n".join(lines)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/routellm"))
    parser.add_argument("--only", choices=("scored", "vllm"), help="one of the two parts")
    parser.add_argument("--write", action="store_true", help="write docs/quality.md")
    asked = parser.parse_args()
    if asked.only != "vllm":
        _tell("compositions", on_scored_answers(asked.data), write=asked.write)
    if asked.only != "scored":
        _tell("compositions-vllm", on_vllm(), write=asked.write)


def _tell(part: str, found: str, *, write: bool) -> None:
    print(found)
    if write:
        quality.write(part, found)


if __name__ == "__main__":
    main()
