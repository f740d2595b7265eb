"""Revisions: what was set to run, in order. The last one is the truth.

Each has the texts of its files, with variables as they are written: no secret is kept that was not
in the files. What was left by a rollback is marked, so that nobody but a person sets it to run
again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection, Row, func, insert, or_, select, update

from gateway.errors import SwitchboardError
from gateway.store.schema import meta, revisions
from gateway.store.store import Store

Kind = Literal["start", "apply", "watch", "rollback", "guard", "experiment"]
"""How a revision came: the files of a first start, a command, a watcher, going back by a command or
by a guard, or the winner of an experiment."""

HIGHEST = 2**63 - 1
"""No revision's number is larger, nor could a database compare one with it."""


class Moved(SwitchboardError):
    """Another revision has come since the one that a change was made for."""


class Guard(msgspec.Struct, frozen=True):
    """How a revision is watched: for how long, and what it may be worse by. See
    `gateway.revisions.guard`. `window` is in seconds, `errors` and `latency` are shares."""

    window: float
    errors: float = 0.02
    latency: float = 0.5


class Revision(msgspec.Struct, frozen=True):
    """One content that was set to run. `files` maps a file's name to its text.

    `restores` is the `seq` that a rollback went back to; `rolled_back` the instant at which this
    one was left by one; `verdict` how its guard ended, empty while it lasts.
    """

    hash: str
    files: dict[str, str]
    author: str
    saved: float
    seq: int = 0
    kind: Kind = "start"
    note: str = ""
    environment: str | None = None
    restores: int | None = None
    rolled_back: float | None = None
    guard: Guard | None = None
    verdict: str = ""

    @property
    def origin(self) -> int:
        """The `seq` at which its content came first into its line."""
        return self.seq if self.restores is None else self.restores

    def same_as(self, hash: str, files: Mapping[str, str]) -> bool:
        """Whether that is its content: by its hash, or word for word where variables' values, and
        with them the hash, are others now."""
        return self.hash == hash or self.files == files


class Revisions:
    """The revisions of a store. Any thread may call."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def save(
        self,
        hash: str,
        files: Mapping[str, str],
        author: str,
        at: float,
        *,
        kind: Kind = "apply",
        note: str = "",
        environment: str | None = None,
        guard: Guard | None = None,
        after: int | None = None,
    ) -> Revision | None:
        """Makes this the last revision; None if it is so already.

        Raises Moved when `after` is not the last one's `seq`. A content that was left and is gone
        back to stands in the list again.
        """
        with self._store.change_alone() as connection:
            last = connection.execute(_LAST).first()
            _check(last, after)
            if last is not None and _revision(last).same_as(hash, files):
                return None
            return _add(
                connection,
                Revision(
                    hash=hash,
                    files=dict(files),
                    author=author,
                    saved=at,
                    kind=kind,
                    note=note,
                    environment=environment,
                    guard=guard,
                ),
            )

    def go_back(
        self,
        to: Revision,
        author: str,
        at: float,
        *,
        kind: Kind = "rollback",
        note: str = "",
        after: int | None = None,
    ) -> Revision:
        """Makes the content of `to` the last revision, and marks what came after it as left.

        Raises Moved when `after` is not the last one's `seq`.
        """
        c = revisions.c
        with self._store.change_alone() as connection:
            _check(connection.execute(_LAST).first(), after)
            connection.execute(
                update(revisions)
                .where(c.seq > to.origin, c.rolled_back.is_(None), c.hash != to.hash)
                .values(rolled_back=at)
            )
            connection.execute(update(revisions).where(c.hash == to.hash).values(rolled_back=None))
            return _add(
                connection,
                Revision(
                    hash=to.hash,
                    files=to.files,
                    author=author,
                    saved=at,
                    kind=kind,
                    note=note,
                    environment=to.environment,
                    restores=to.origin,
                ),
            )

    def end_guard(self, seq: int, verdict: str, *, anew: bool = False) -> bool:
        """Says how a revision's guard ended, unless that is said already; whether it was not.

        With `anew` what was said is said again, better.
        """
        c = revisions.c
        change = update(revisions).where(c.seq == seq).values(verdict=verdict)
        with self._store.change() as connection:
            ended = connection.execute(change if anew else change.where(c.verdict == ""))
        return ended.rowcount > 0

    def was_left(self, hash: str, files: Mapping[str, str]) -> bool:
        """Whether that content was left by a rollback, and not set to run by anybody since."""
        content = _encode(files)
        query = (
            select(revisions.c.rolled_back)
            .where(or_(revisions.c.hash == hash, revisions.c.content == content))
            .order_by(revisions.c.seq.desc())
            .limit(1)
        )
        with self._store.read() as connection:
            return connection.scalar(query) is not None

    def last_seq(self) -> int:
        """The last one's `seq`, 0 for a new store: cheap enough to ask all the time."""
        with self._store.read() as connection:
            return int(connection.scalar(select(func.max(revisions.c.seq))) or 0)

    def latest(self) -> Revision | None:
        """The last one; None for a new store."""
        with self._store.read() as connection:
            row = connection.execute(_LAST).first()
        return None if row is None else _revision(row)

    def find(self, which: str | int) -> Revision | None:
        """The one with that `seq`, or the last with that hash, or the beginning of it."""
        if isinstance(which, int) and not 0 < which <= HIGHEST:
            return None
        c = revisions.c
        asked = (
            c.seq == which if isinstance(which, int) else c.hash.startswith(which, autoescape=True)
        )
        with self._store.read() as connection:
            row = connection.execute(
                select(revisions).where(asked).order_by(c.seq.desc()).limit(1)
            ).first()
        return None if row is None else _revision(row)

    def list(self, limit: int = 20) -> tuple[Revision, ...]:
        """The last ones, the newest first."""
        query = select(revisions).order_by(revisions.c.seq.desc()).limit(limit)
        with self._store.read() as connection:
            return tuple(_revision(row) for row in connection.execute(query))

    def homes(self) -> set[str]:
        """The directories whose files have been served from this store, as far as was noted."""
        query = select(meta.c.name).where(meta.c.name.startswith(_HOME, autoescape=True))
        with self._store.read() as connection:
            return {name.removeprefix(_HOME) for name in connection.scalars(query)}

    def add_home(self, directory: str) -> None:
        """Notes one more of them."""
        with self._store.change() as connection:
            connection.execute(insert(meta).values(name=_HOME + directory, value=1))


def before(revisions: Sequence[Revision], steps: int = 1) -> Revision | None:
    """What was run `steps` contents before the last one; None where there is nothing. Pure.

    `revisions` are the newest first. What was left by a rollback is stepped over, so that going
    back twice goes back further, and not to what was left.
    """
    if not revisions:
        return None
    last = revisions[0]
    contents = [last.hash]
    for each in revisions:
        if each.seq >= last.origin or each.rolled_back is not None or each.restores is not None:
            continue
        if each.hash != contents[-1]:
            contents.append(each.hash)
            if len(contents) > steps:
                return each
    return None


_HOME = "home:"

_LAST = select(revisions).order_by(revisions.c.seq.desc()).limit(1)


def _check(last: "Row[Any] | None", after: int | None) -> None:
    seq = 0 if last is None else last.seq
    if after is not None and seq != after:
        raise Moved(f"revision {seq} has come since revision {after}")


def _add(connection: Connection, new: Revision) -> Revision:
    values = msgspec.structs.asdict(new)
    del values["seq"]
    values["content"] = _encode(values.pop("files"))
    values["guard"] = None if new.guard is None else msgspec.json.encode(new.guard).decode()
    key = connection.execute(insert(revisions).values(**values)).inserted_primary_key
    assert key is not None
    return msgspec.structs.replace(new, seq=int(key[0]))


def _encode(files: Mapping[str, str]) -> str:
    return msgspec.json.encode(files, order="deterministic").decode()


def _revision(row: "Row[Any]") -> Revision:
    guard = None if row.guard is None else msgspec.json.decode(row.guard, type=Guard)
    return Revision(
        hash=row.hash,
        files=msgspec.json.decode(row.content),
        author=row.author,
        saved=row.saved,
        seq=row.seq,
        kind=row.kind,
        note=row.note,
        environment=row.environment,
        restores=row.restores,
        rolled_back=row.rolled_back,
        guard=guard,
        verdict=row.verdict,
    )
