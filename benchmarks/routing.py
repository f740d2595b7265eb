"""Measures learned routing on RouteLLM's pairs: `python -m benchmarks.routing --write`."""

import argparse
from pathlib import Path
from typing import Any, Literal

from benchmarks import quality
from gateway.classify.bert import BertEncoder
from gateway.cli.routing import CACHE, ENCODER
from gateway.learn.bench import measure, read_by, vectors_of
from gateway.learn.data import read

Found = dict[str, dict[str, Any]]
KINDS: dict[Literal["vectors", "words"], str] = {
    "vectors": "by an encoder's vectors, as where the classifier is `embedding`",
    "words": "by words (`--features words`), as where it is `lexical`",
}


def told(by: dict[Literal["vectors", "words"], Found]) -> str:
    """The part of the page."""
    lines = [
        "By `python -m benchmarks.routing --write`, which is `switchboard bench routing`:"
        " RouteLLM's pair of gpt-4-1106-preview and Mixtral-8x7B. Means over 20 seeds with their"
        " standard error; MMLU by draws of 1,500 labels, GSM8K by five folds, anew by each seed."
        " kNN (k = 100, on the same encoder) and ridge (on TF-IDF) are on the same draws; the"
        " margins are the 2.5 % quantiles of the mean over seeds by a paired bootstrap of the rows"
        " tested on. CPU time of a decision is that of scoring both, features given; the machine"
        " was busy with other work.",
    ]
    for kind, found in by.items():
        lines += [
            "",
            f"Prompts read {KINDS[kind]}:",
            "",
            "| | APGR | CPT50, % | CPT80, % | kNN's APGR | margin at least | ridge's APGR"
            " | margin at least | us a decision |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for name, each in found.items():
            lines.append(
                f"| {name} | {each['apgr']:.3f} (± {each['se']:.3f}) | {each['cpt50']:.1f}"
                f" | {each['cpt80']:.1f} | {each['knn_apgr']:.3f} | {each['vs_knn_low']:.3f}"
                f" | {each['ridge_apgr']:.3f} | {each['vs_ridge_low']:.3f} | {each['us']:.0f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Measures, prints, and with `--write` writes the page's part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/routellm"))
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    encoder = BertEncoder(ENCODER)
    pools = read(given.data, {})
    found: dict[Literal["vectors", "words"], Found] = {}
    for kind in KINDS:
        found[kind] = {}
        for pool in pools:
            vectors = vectors_of(pool.prompts, encoder, CACHE, lambda n: None)
            asked = read_by(kind, pool, encoder, vectors)
            found[kind][pool.name] = measure(pool, *asked, progress=print).figures
            print({name: found[kind][pool.name][name] for name in ("apgr", "cpt50", "vs_knn_low")})
    print(told(found))
    if given.write:
        quality.write("routing", told(found))


if __name__ == "__main__":
    main()
