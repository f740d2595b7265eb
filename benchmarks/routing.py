"""Measures learned routing on RouteLLM's pairs: `python -m benchmarks.routing --write`."""

import argparse
from pathlib import Path
from typing import Any

from benchmarks import quality
from gateway.classify.bert import BertEncoder
from gateway.cli.routing import CACHE, ENCODER
from gateway.learn.bench import measure, vectors_of
from gateway.learn.data import read


def told(found: dict[str, dict[str, Any]]) -> str:
    """The part of the page."""
    lines = [
        "By `python -m benchmarks.routing --write`, which is `switchboard bench routing`:"
        " RouteLLM's pair of gpt-4-1106-preview and Mixtral-8x7B. Means over 20 seeds with their"
        " standard error; MMLU by draws of 1,500 labels, GSM8K by five folds, anew by each seed."
        " kNN (k = 100, on the same encoder) and ridge (on TF-IDF) are on the same draws; the"
        " margins are the 2.5 % quantiles of the mean over seeds by a paired bootstrap of the rows"
        " tested on.",
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
    found = {
        pool.name: measure(
            pool, vectors_of(pool.prompts, encoder, CACHE, lambda n: None), progress=print
        ).figures
        for pool in read(given.data, {})
    }
    print(told(found))
    if given.write:
        quality.write("routing", told(found))


if __name__ == "__main__":
    main()
