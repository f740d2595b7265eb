"""The metrics of several workers as one page; pure.

Counters and histograms are summed up. A gauge of one worker says nothing of another's: it stands
once for each, with the label `worker`. What a worker had counted that has ended stays in the sums,
so that no counter goes backwards.
"""

import math
from collections.abc import Iterable, Mapping

import msgspec

SUMMED = frozenset({"counter", "histogram", "summary"})


class Family(msgspec.Struct):
    """One metric: its HELP and TYPE lines, and its samples by name and labels as written."""

    kind: str
    head: list[str]
    samples: dict[str, float]


Families = dict[str, Family]


def read(page: str) -> Families:
    """A page in Prometheus' text format, as `generate_latest` writes it."""
    families: Families = {}
    current: Family | None = None
    for line in page.splitlines():
        if line.startswith("# "):
            _, word, name, said = [*line.split(" ", 3), ""][:4]
            current = families.setdefault(name, Family("untyped", [], {}))
            current.head.append(line)
            if word == "TYPE":
                current.kind = said
        elif line and current is not None:
            sample, _, value = line.rpartition(" ")
            current.samples[sample] = float(value)
    return families


def added(base: Families, more: Families) -> Families:
    """`base` with the sums of `more` in it: what a worker has counted that is no more."""
    for name, family in more.items():
        if family.kind not in SUMMED:
            continue
        sums = base.setdefault(name, Family(family.kind, family.head, {})).samples
        for sample, value in family.samples.items():
            sums[sample] = sums.get(sample, 0.0) + value
    return base


def merged(gone: Families, workers: Mapping[int, Families]) -> str:
    """The page of all workers; `gone` is what those have counted that are no more."""
    sums = added({}, gone)
    for families in workers.values():
        added(sums, families)
    names = dict.fromkeys([*(n for each in workers.values() for n in each), *sums])
    return "".join(
        line + "\n"
        for name in names
        for line in (
            _lines(sums[name].head, sums[name].samples.items())
            if name in sums
            else _gauges(name, workers)
        )
    )


def _gauges(name: str, workers: Mapping[int, Families]) -> list[str]:
    found = {number: each[name] for number, each in workers.items() if name in each}
    samples = [
        (_labelled(sample, number), value)
        for number, family in found.items()
        for sample, value in family.samples.items()
    ]
    return _lines(next(iter(found.values())).head, samples)


def _labelled(sample: str, worker: int) -> str:
    name, brace, rest = sample.partition("{")
    return f'{name}{{worker="{worker}"' + (f",{rest}" if brace else "}")


def _lines(head: Iterable[str], samples: Iterable[tuple[str, float]]) -> list[str]:
    return [*head, *(f"{sample} {_number(value)}" for sample, value in samples)]


def _number(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else "+Inf" if value > 0 else "-Inf"
