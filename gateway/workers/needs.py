"""What several workers need that one does not; pure."""

from collections.abc import Iterator

from gateway.errors import Problem
from gateway.types.snapshot import Snapshot


def lacking(snapshot: Snapshot, store: str, workers: int) -> Iterator[Problem]:
    """Why `workers` of this configuration cannot serve together, each with its mend. `store` is
    the URL that is used."""
    if workers <= 1:
        return
    many = f"{workers} workers"
    if snapshot.server.coordinator is None:
        yield Problem(
            "gateway.yaml",
            0,
            "coordinator",
            f"{many} share limits, budgets and hints through Redis, and none is declared",
            "add the line `coordinator: redis://HOST:6379`, or serve with `--workers 1`",
        )
    if store.startswith("sqlite"):
        yield Problem(
            "gateway.yaml",
            0,
            "store",
            f"{many} write one log, and SQLite takes one writer at a time",
            "change the line to `store: postgresql://USER@HOST/DATABASE`, or serve with "
            "`--workers 1`",
        )
    for name, backend in snapshot.backends.items():
        if backend.turns is not None:
            yield Problem(
                "gateway.yaml",
                0,
                f"backends.{name}.turns",
                f"each of {many} would wake and put to sleep models that the others' requests run "
                "on",
                "take `turns` out, or serve this backend by a gateway with `--workers 1`",
            )
