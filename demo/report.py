"""The report beside the weights: what training measured, and how a new one compares. Pure."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

Report = Mapping[str, Any]

CLOSE = 0.02
"""As near as two machines may come: other processors round otherwise."""


class Figure(NamedTuple):
    """One accuracy, as the tree's report has it and as it is now; `before` is None if it is new."""

    model: str
    task: str
    before: float | None
    now: float

    @property
    def agrees(self) -> bool:
        """True when it is the same but for rounding."""
        return self.before is not None and abs(self.before - self.now) <= CLOSE


def figures(before: Report, now: Report) -> list[Figure]:
    """Every model's share of the house's answers, task by task, old beside new."""
    return [
        Figure(model, task, old, share)
        for model, task, share in _shares(now)
        for old in [_share(before, model, task)]
    ]


def table(compared: list[Figure]) -> str:
    """A line for each model, a column for each task; where the two differ, `old > new`."""
    tasks = list(dict.fromkeys(figure.task for figure in compared))
    rows = {figure.model: [""] * len(tasks) for figure in compared}
    for figure in compared:
        rows[figure.model][tasks.index(figure.task)] = _cell(figure)
    return "\n".join(
        f"{name:10}" + "".join(f"{cell:>15}" for cell in cells)
        for name, cells in [("", tasks), *rows.items()]
    )


def verdict(compared: list[Figure], same_bytes: bool) -> str:
    """One line on whether the new weights are the tree's."""
    same = sum(figure.before == figure.now for figure in compared)
    said = f"{same} of {len(compared)} accuracies are those of the report in the tree"
    if other := [f"{each.model} on {each.task}" for each in compared if not each.agrees]:
        return f"{said}; further than {CLOSE} apart: {', '.join(other)}"
    if same_bytes:
        return f"{said}, and the weights are the same byte for byte"
    return f"{said}, the others within {CLOSE}; the weights' bytes differ"


def carried_over(before: Report, now: Report, same_bytes: bool) -> dict[str, Any]:
    """The new report; what vLLM was measured to serve stays true of the very same weights only."""
    served = {"served": before["served"]} if same_bytes and "served" in before else {}
    return {**now, **served}


def _shares(report: Report) -> Iterator[tuple[str, str, float]]:
    for model, by_convention in report["teacher_forced"].items():
        for task, share in by_convention["house"].items():
            yield model, task, share


def _share(report: Report, model: str, task: str) -> float | None:
    found: float | None = report.get("teacher_forced", {}).get(model, {}).get("house", {}).get(task)
    return found


def _cell(figure: Figure) -> str:
    if figure.before is None or figure.before == figure.now:
        return f"{figure.now:.3f}"
    return f"{figure.before:.3f} > {figure.now:.3f}"
