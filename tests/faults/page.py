"""The table of docs/reliability.md, of what was seen: no times, ports or ids stand in it."""

from collections.abc import Sequence
from pathlib import Path

from tests.faults.cases import HEALTHY, SAID, Fate
from tests.faults.matrix import Observed

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- written by `make faults` -->", "<!-- end -->"

HEAD = (
    "| the backend … | the client sees | with another candidate | upstream calls | the row says"
    " | billed | hung up on |\n|---|---|---|---|---|---|---|\n"
)


def table(observed: Sequence[Observed]) -> str:
    """Both forms of request, a line for each fault."""
    parts = []
    for streams, title in ((False, "A whole answer"), (True, "A stream")):
        of_form = [seen for seen in observed if seen.trial.streams is streams]
        names = dict.fromkeys(seen.trial.case.name for seen in of_form)
        lines = [
            _line(name, [seen for seen in of_form if seen.trial.case.name == name])
            for name in names
        ]
        parts.append(f"### {title}\n\n{HEAD}{''.join(lines)}")
    return "\n".join(parts)


def written(page: str, observed: Sequence[Observed]) -> str:
    """The page with the table of these observations."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table(observed)}\n{END}{after}"


def _line(name: str, seen: Sequence[Observed]) -> str:
    alone = [each for each in seen if each.trial.lineup.alone]
    others = [each for each in seen if not each.trial.lineup.alone]
    first = alone[0]
    cells = [
        name,
        _same(_told(each) for each in alone),
        _same(_told(each) for each in others),
        " ".join(f"{each.counted}" for each in seen),
        f"{first.row['outcome']}, {first.row['status']}",
        _billed(first),
        "yes" if any(call.aborted.is_set() for calls in first.calls for call in calls) else "",
    ]
    return f"| {' | '.join(cells)} |\n"


def _same(told: object) -> str:
    """What is the same whoever else is there is said once."""
    assert hasattr(told, "__iter__")
    return " or ".join(dict.fromkeys(told))


def _told(seen: Observed) -> str:
    answer = seen.answer
    error = answer.error
    if answer.status != 200:
        assert error is not None
        wait = answer.headers.get("retry-after")
        return f"{answer.status} `{error['code']}`" + (f", `retry-after: {wait}`" if wait else "")
    if error is not None:
        code = f" `{error['code']}`" if error["code"] else ""
        return f"its beginning, an error event{code}"
    whose = {SAID: "its answer", HEALTHY: "the other's answer"}
    return whose[answer.text] + ("" if answer.looks_whole else ", not ended")


def _billed(seen: Observed) -> str:
    if not seen.row["cost_usd"]:
        return "nothing"
    if seen.answer.status != 200:
        return "its input, estimated"
    how = "estimated" if seen.row["estimated"] else "exactly"
    part = seen.trial.case.rule(seen.trial.streams).fate is Fate.BREAKS
    return f"what came, {how}" if part else f"all, {how}"
