"""What targets' attempts did, as a canary is judged by it."""

from gateway.adapters.canary import Seen
from gateway.store.adapters import AdapterBook
from gateway.store.store import Store
from gateway.types.records import Outcome, Record

from .world import attempt, keep, record

CANARY = "local/qwen+support@v8"


def asked(n: int, outcome: Outcome, status: int, told: int | None = None) -> Record:
    """A request whose attempt ended so; the client was told another status if `told`."""
    tried = attempt(CANARY, outcome=outcome, status=status, total_s=1.0)
    return record(n, attempts=(tried,), outcome=outcome, status=told or status)


def test_what_is_wrong_with_a_request_is_not_held_against_a_canary(store: Store) -> None:
    keep(
        store,
        asked(1, "ok", 200),
        asked(2, "error", 400),
        asked(3, "error", 413),
        asked(4, "error", 422),
        asked(5, "error", 404),  # a response to go on with is not there
        asked(6, "error", 404, told=502),  # the adapter is not there
        asked(7, "error", 500, told=502),
        asked(8, "error", 429),
        asked(9, "truncated", 200),
        asked(10, "abandoned", 200),
        asked(11, "error", 200),
        asked(12, "error", 400, told=200),  # the live version has answered it
    )
    assert AdapterBook(store).seen(CANARY, 0.0) == Seen(requests=7, errors=6, timed=1)
