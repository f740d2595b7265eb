"""A whole gateway whose PostgreSQL goes away: requests go on, and every row is written later."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import pytest

from gateway.app import Gateway
from gateway.learn import versions
from gateway.learn.features import WordKind
from gateway.learn.rows import Answer, rows_of
from gateway.learn.training import train
from gateway.revisions.opening import Home, open_home
from gateway.serving import listening
from gateway.standin.behaviour import Behaviour, to_length
from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.store.learned import LearnedBook
from gateway.store.reader import Reader
from gateway.store.revisions import Revisions
from gateway.store.store import Store, StoreAway
from tests import servers
from tests.gateway.files import write
from tests.gateway.support import Served, serving_client, snapshot, target
from tests.store.world import until

SECRET = "sk-of-the-provider"
TWO = """
default_route: general
backends:
  openai:
    kind: openai
    url: {url}
    api_key: ${{PROVIDER_KEY}}
    models:
      mini: {{id: mini, price: {{input: 1 usd/Mtok, output: 4 usd/Mtok}}}}
      maxi: {{id: maxi, price: {{input: 1 usd/Mtok, output: 4 usd/Mtok}}}}
store: {store}
"""
BOTH = """
name: general
value: 0.01 usd
candidates: [{target: openai/mini, quality: 0.9}, {target: openai/maxi, quality: 0.8}]
policy: balanced
"""

WORDS = to_length("one two three four five", 5)


@asynccontextmanager
async def before(database: servers.RealServer, folder: Path) -> AsyncIterator[Served]:
    """A gateway whose store is that database."""
    async with StandIn(Behaviour(answer=lambda _: WORDS)) as provider:
        configuration = snapshot([target("openai/mini", provider.url)])
        store = Store.open(database.url, patience_s=1.0)
        token = Keys(store).create("test", role="read").secret
        gateway = Gateway(configuration, store, cache=folder)
        await gateway.start()
        async with listening(gateway, "127.0.0.1", 0, configuration.server) as port:
            async with serving_client(gateway, port, token) as served:
                yield served
        await gateway.stop()


async def test_requests_and_keys_go_on_while_the_database_is_away(tmp_path: Path) -> None:
    with servers.postgres() as database:
        async with before(database, tmp_path) as served:
            answers = [await served.chat() for _ in range(5)]
            body = {"model": "auto", "input": "hello"}
            first = await served.client.post("/v1/responses", json=body)
            assert (await served.decision(answers[0]))["outcome"] == "ok"
            await asyncio.to_thread(database.kill)
            answers += [await served.chat() for _ in range(20)]
            more = {**body, "previous_response_id": first.json()["id"]}
            answers += [first, await served.client.post("/v1/responses", json=more)]
            writer = served.gateway.writer
            await asyncio.to_thread(until, lambda: writer.away and not writer.waiting)
            id = answers[0].headers["x-switchboard-decision"]
            away = await served.client.get(f"/v1/decisions/{id}")
            await asyncio.to_thread(database.start)
            await asyncio.to_thread(until, lambda: not writer.spooled)
            rows = [await served.decision(answer) for answer in answers]
            page = (await served.client.get("/metrics")).text
    assert {answer.status_code for answer in answers} == {200}
    assert (away.status_code, away.json()["error"]["code"]) == (503, "store_away")
    assert away.headers["retry-after"] == "5"
    assert {row["outcome"] for row in rows} == {"ok"}
    assert "switchboard_log_refused_total 0.0" in page
    assert "switchboard_log_spooled_bytes 0.0" in page


async def test_a_database_that_takes_connections_and_says_nothing_delays_no_request(
    tmp_path: Path,
) -> None:
    with servers.postgres() as database:
        async with before(database, tmp_path) as served:
            answers = [await served.chat() for _ in range(5)]
            writer = served.gateway.writer
            took: list[float] = []
            database.hold()
            try:
                while not (writer.spooled and len(took) >= 40) and len(took) < 1_000:
                    began = time.monotonic()
                    answers.append(await served.chat())
                    took.append(time.monotonic() - began)
                    await asyncio.sleep(0.02)
                told = (await served.client.get("/ready")).json()["store_away"]
            finally:
                database.go_on()
            await asyncio.to_thread(until, lambda: not writer.spooled)
            await asyncio.to_thread(writer.flush)
        store = Store.open(database.url)
        kept = [row["id"] for row in Reader(store).recent(limit=None)]
        store.close()
    assert {answer.status_code for answer in answers} == {200}
    assert told
    # A write hangs for two seconds before it counts as away: no request waits for that.
    assert median(took) < 0.2
    assert max(took) < 1.0
    assert sorted(kept) == sorted(answer.headers["x-request-id"] for answer in answers)


@asynccontextmanager
async def started(home: Path, token: str | None) -> AsyncIterator[tuple[Served, str]]:
    """As `switchboard serve` does it, and what it says first."""
    where = Home(home, {"PROVIDER_KEY": SECRET})
    store, opening = open_home(where, None, patience_s=1.0)
    gateway = Gateway(opening.snapshot, store, cache=where.cache, home=where, opening=opening)
    await gateway.start()
    async with listening(gateway, "127.0.0.1", 0, opening.snapshot.server) as port:
        async with serving_client(gateway, port, token) as served:
            yield served, "\n".join(opening.said)
    await gateway.stop()


async def test_a_start_without_the_database_serves_what_was_known_last(tmp_path: Path) -> None:
    with servers.postgres() as database:
        async with StandIn(Behaviour(answer=lambda _: WORDS), keys=[SECRET]) as provider:
            write(tmp_path, "")
            (tmp_path / "gateway.yaml").write_text(TWO.format(url=provider.url, store=database.url))
            (tmp_path / "routes/general.yaml").write_text(BOTH)
            store = Store.open(database.url)
            token = Keys(store).create("test", role="admin").secret
            async with started(tmp_path, token) as (served, _):
                assert (await served.chat()).headers["x-switchboard-target"] == "openai/mini"
                drain = {"subject": "openai/mini", "share": 0}
                assert (await served.client.post("/admin/weights", json=drain)).is_success
            (file,) = (tmp_path / ".switchboard/known").iterdir()
            assert file.stat().st_mode & 0o777 == 0o600
            text = file.read_text()
            assert "${PROVIDER_KEY}" in text
            assert SECRET not in text
            assert token not in text

            database.kill()
            async with started(tmp_path, token) as (served, said):
                assert "revision 1, which was known last, is served" in said
                answers = [await served.chat() for _ in range(5)]
                stranger = {"authorization": "Bearer sb-nobody"}
                refused = await served.client.get("/ready", headers=stranger)
                detail = (await served.client.get("/ready")).json()
                page = (await served.client.get("/metrics")).text
                change = await served.client.post("/admin/rollback", json={})
                writer = served.gateway.writer
                await asyncio.to_thread(until, lambda: writer.spooled > 0 == writer.waiting)

                await asyncio.to_thread(database.start)
                await asyncio.to_thread(until, lambda: not writer.spooled)
                await asyncio.to_thread(until, lambda: not served.gateway.store.behind)
                after = (await served.client.get("/ready")).json()
                # What another process sets to run is noticed again.
                first = Revisions(store).latest()
                assert first is not None
                text = first.files["gateway.yaml"] + "aliases: {other: auto}\n"
                files = {**first.files, "gateway.yaml": text}
                Revisions(store).save("1" * 64, files, "ops", 5e9)
                await asyncio.to_thread(until, lambda: served.gateway.running.seq > 1)
                rows = [await served.decision(answer) for answer in answers]
            store.close()
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-switchboard-target"] for answer in answers} == {"openai/maxi"}
    assert refused.json() == {"ready": True}
    assert detail["store_away"].startswith("since the start")
    assert detail["revision"]["seq"] == 1
    assert "switchboard_store_away 1.0" in page
    assert change.status_code >= 400
    assert after["store_away"] is None
    assert {row["outcome"] for row in rows} == {"ok"}


async def test_a_start_without_the_database_decides_by_what_was_learned_last(
    tmp_path: Path,
) -> None:
    targets = ("openai/mini", "openai/maxi")
    tried = []
    for n in range(60):
        for easy, text in ((1.0, f"add up these figures {n}"), (0.0, f"prove this theorem {n}")):
            tried += [Answer(text, targets[0], easy, 0.0), Answer(text, targets[1], 1 - easy, 0.0)]
    trained = train(rows_of(tried, targets, WordKind()), 0.01)
    with servers.postgres() as database:
        async with StandIn(Behaviour(answer=lambda _: WORDS), keys=[SECRET]) as provider:
            write(tmp_path, "")
            (tmp_path / "gateway.yaml").write_text(TWO.format(url=provider.url, store=database.url))
            (tmp_path / "routes/general.yaml").write_text(BOTH)
            policy = tmp_path / "policies/balanced.yaml"
            policy.write_text("name: balanced\nquality: learned\n")
            store = Store.open(database.url)
            token = Keys(store).create("test").secret
            about = versions.Version("", 1.0, "general", WordKind.name, (), trained.report)
            made = versions.keep(LearnedBook(store), trained.model, about, "ann")
            async with started(tmp_path, token) as (served, _):
                known = tmp_path / ".switchboard/known"
                await asyncio.to_thread(until, lambda: any(known.glob("*.learned")))
            (file,) = known.glob("*.learned")
            assert file.stat().st_mode & 0o777 == 0o600

            database.kill()
            for _ in range(2):  # what is known outlives a start that saw no store
                async with started(tmp_path, token) as (served, _):
                    went = [
                        (await served.chat(text)).headers["x-switchboard-target"]
                        for text in ("add up these figures 7", "prove this theorem 7")
                    ]
                    assert served.gateway.learned.known["general"].version == made.version
                assert went == ["openai/mini", "openai/maxi"]
            store.close()


async def test_a_first_start_without_the_database_says_why_it_ends(tmp_path: Path) -> None:
    write(tmp_path, "http://127.0.0.1:9/v1", "store: postgresql://x@127.0.0.1:9/x\n")
    with pytest.raises(StoreAway, match=r"cannot open the store [\s\S]*nothing of it is known"):
        open_home(Home(tmp_path), None)
