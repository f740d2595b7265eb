"""Everything that was set to run, in one list: revisions of the files and of adapters."""

from typing import Any

import msgspec

from gateway.revisions.running import brief
from gateway.store.adapters import AdapterBook, Change
from gateway.store.revisions import Revision, Revisions


def history(book: Revisions, adapters: AdapterBook, limit: int = 20) -> list[dict[str, Any]]:
    """The last `limit` of them, the newest first, ready for JSON.

    Each says `of`: the files (`configuration`), or an adapter's target. `running` is true of the
    one whose files are served.
    """
    revisions = book.list(limit)
    entries = [_configuration(each, n == 0) for n, each in enumerate(revisions)]
    entries += [_adapter(each) for each in adapters.changes(limit)]
    entries.sort(key=lambda each: -each["saved"])
    return entries[:limit]


def _configuration(revision: Revision, running: bool) -> dict[str, Any]:
    return {"of": "configuration", **brief(revision), "running": running}


def _adapter(change: Change) -> dict[str, Any]:
    return {
        "of": change.target,
        "kind": change.change.partition(" ")[0],
        "note": change.change,
        "author": change.author,
        "saved": change.saved,
        "state": msgspec.to_builtins(change.state),
    }
