"""A whole gateway whose PostgreSQL goes away: requests go on, and every row is written later."""

import asyncio
from pathlib import Path

from gateway.app import Gateway
from gateway.serving import listening
from gateway.standin.behaviour import Behaviour, to_length
from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.store.store import Store
from tests import servers
from tests.gateway.support import serving_client, snapshot, target
from tests.store.world import until

WORDS = to_length("one two three four five", 5)


async def test_requests_and_keys_go_on_while_the_database_is_away(tmp_path: Path) -> None:
    with servers.postgres() as database:
        async with StandIn(Behaviour(answer=lambda _: WORDS)) as provider:
            configuration = snapshot([target("openai/mini", provider.url)])
            store = Store.open(database.url, patience_s=1.0)
            token = Keys(store).create("test", role="read").secret
            gateway = Gateway(configuration, store, cache=tmp_path)
            await gateway.start()
            async with listening(gateway, "127.0.0.1", 0, configuration.server) as port:
                async with serving_client(gateway, port, token) as served:
                    answers = [await served.chat() for _ in range(5)]
                    assert (await served.decision(answers[0]))["outcome"] == "ok"
                    await asyncio.to_thread(database.kill)
                    answers += [await served.chat() for _ in range(20)]
                    writer = gateway.writer
                    await asyncio.to_thread(until, lambda: writer.away and not writer.waiting)
                    id = answers[0].headers["x-switchboard-decision"]
                    away = await served.client.get(f"/v1/decisions/{id}")
                    await asyncio.to_thread(database.start)
                    await asyncio.to_thread(until, lambda: not writer.spooled)
                    rows = [await served.decision(answer) for answer in answers]
                    page = (await served.client.get("/metrics")).text
            await gateway.stop()
    assert {answer.status_code for answer in answers} == {200}
    assert (away.status_code, away.json()["error"]["code"]) == (503, "store_away")
    assert away.headers["retry-after"] == "5"
    assert {row["outcome"] for row in rows} == {"ok"}
    assert "switchboard_log_refused_total 0.0" in page
    assert "switchboard_log_spooled_bytes 0.0" in page
