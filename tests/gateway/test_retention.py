"""A gateway that serves lets go of what was kept for as long as is declared."""

import asyncio
import time
from pathlib import Path

import msgspec

from gateway.standin.behaviour import Behaviour, to_length
from gateway.standin.standin import StandIn
from gateway.store.reader import Reader
from gateway.store.store import Store
from gateway.types.snapshot import Retention
from tests.gateway.support import serving, snapshot, target
from tests.store.world import keep, record, until

HOUR_S = 3600.0


async def test_old_texts_go_by_themselves_and_new_ones_stay(tmp_path: Path) -> None:
    store = Store.open(f"sqlite:///{tmp_path}/switchboard.db")
    old, new = time.time() - 3 * HOUR_S, time.time() - HOUR_S
    keep(store, record(1, started=old, text="a clause"), record(2, started=new, text="a clause"))
    reader = Reader(store)

    def text(id: str) -> object:
        row = reader.find(id)
        assert row is not None
        return row["text"]

    async with StandIn(Behaviour(answer=lambda _: to_length("one two", 2))) as provider:
        plain = snapshot([target("openai/mini", provider.url)])
        kept = msgspec.structs.replace(plain, retention=Retention(text_s=2 * HOUR_S))
        async with serving(kept, tmp_path) as served:
            assert (await served.chat()).status_code == 200
            await asyncio.to_thread(until, lambda: text("req_000001") is None)
    assert text("req_000002") == "a clause"
    store.close()
