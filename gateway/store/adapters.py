"""What commands have made of adapters, as revisions; and what adapters' targets did."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from sqlalchemy import Select, and_, case, func, insert, not_, select

from gateway.adapters.canary import Seen
from gateway.adapters.state import AdapterState
from gateway.store.schema import adapter_states, attempts, requests
from gateway.store.store import Store
from gateway.types.records import NONE_ANSWERED, WRONG_REQUEST


class Change(msgspec.Struct, frozen=True):
    """One revision of an adapter's state: what was done, by whom, and what came of it."""

    target: str
    state: AdapterState
    change: str
    author: str
    saved: float


class Use(msgspec.Struct, frozen=True):
    """What a target's attempts used in a time, and how many of them failed."""

    requests: int = 0
    failed: int = 0
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0


class AdapterBook:
    """The states of a store's adapters. The last revision of each is the truth."""

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now

    def version(self) -> int:
        """Grows with every change, by whomever."""
        with self._store.read() as connection:
            return connection.execute(select(func.max(adapter_states.c.seq))).scalar() or 0

    def states(self) -> dict[str, AdapterState]:
        """Each adapter's, by its target."""
        last = select(func.max(adapter_states.c.seq)).group_by(adapter_states.c.target)
        query = select(adapter_states).where(adapter_states.c.seq.in_(last))
        with self._store.read() as connection:
            return {str(row.target): _decode(row.state) for row in connection.execute(query)}

    def save(self, target: str, state: AdapterState, change: str, author: str) -> None:
        """Makes `state` the adapter's last revision."""
        with self._store.change_alone() as connection:
            connection.execute(
                insert(adapter_states).values(
                    target=target,
                    state=msgspec.json.encode(state).decode(),
                    change=change,
                    author=author,
                    saved=self._now(),
                )
            )

    def history(self, target: str, limit: int = 20) -> list[Change]:
        """An adapter's last revisions, the newest first."""
        return self._changes(select(adapter_states).where(adapter_states.c.target == target), limit)

    def changes(self, limit: int = 20) -> list[Change]:
        """The last revisions of all adapters, the newest first."""
        return self._changes(select(adapter_states), limit)

    def _changes(self, query: "Select[Any]", limit: int) -> list[Change]:
        with self._store.read() as connection:
            rows = connection.execute(query.order_by(adapter_states.c.seq.desc()).limit(limit))
            return [
                Change(row.target, _decode(row.state), row.change, row.author, row.saved)
                for row in rows
            ]

    def seen(self, target: str, since: float) -> Seen:
        """What a target's attempts did since an instant. Those that were abandoned, or asked what
        is wrong, say nothing: such a status that the client was told is of what it asked, any other
        the adapter's."""
        c, told = attempts.c, requests.c
        wrong = and_(
            c.status.in_(WRONG_REQUEST),
            told.status == c.status,
            not_(told.error.startswith(NONE_ANSWERED)),
        )
        query = (
            select(c.outcome, c.total_s)
            .select_from(attempts.join(requests, c.request_id == requests.c.id))
            .where(
                c.request_id >= _first_id(since),
                c.target == target,
                c.started >= since,
                c.outcome != "abandoned",
                not_(and_(c.outcome == "error", wrong)),
            )
        )
        with self._store.read() as connection:
            return _summed((row.outcome, row.total_s) for row in connection.execute(query))

    def use(self, since: float) -> dict[str, Use]:
        """What each target's attempts used since an instant, by target."""
        failed = func.sum(case((attempts.c.outcome.in_(("error", "truncated")), 1), else_=0))
        query = (
            select(
                attempts.c.target,
                func.count(),
                failed,
                func.sum(attempts.c.input_tokens),
                func.sum(attempts.c.cached_tokens),
                func.sum(attempts.c.output_tokens),
                func.sum(attempts.c.cost_usd),
            )
            .where(attempts.c.request_id >= _first_id(since), attempts.c.started >= since)
            .group_by(attempts.c.target)
        )
        with self._store.read() as connection:
            return {str(row[0]): _use(*row[1:]) for row in connection.execute(query)}


_decode = msgspec.json.Decoder(AdapterState).decode


def _first_id(since: float) -> str:
    """Ids begin with their millisecond, so the attempts since then lie in one range of the key.

    A request may have begun a while before its attempt.
    """
    longest_s = 600
    return f"req_{max(0, int((since - longest_s) * 1000)):012x}"


def _use(requests: int, failed: int, read: int, cached: int, written: int, cost_usd: float) -> Use:
    """PostgreSQL's sums of integers are decimals."""
    return Use(int(requests), int(failed), int(read), int(cached), int(written), cost_usd)


def _summed(rows: Iterable[tuple[str, float]]) -> Seen:
    requests = errors = timed = 0
    log_s = log_s2 = 0.0
    for outcome, total_s in rows:
        requests += 1
        if outcome != "ok":
            errors += 1
        elif total_s > 0.0:
            timed += 1
            logged = math.log(total_s)
            log_s += logged
            log_s2 += logged * logged
    return Seen(requests, errors, timed, log_s, log_s2)
