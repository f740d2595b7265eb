"""An experiment over several workers: users keep their arm, and stopped in one it is in all."""

import asyncio
from contextlib import closing
from pathlib import Path

import httpx

from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.store.store import Store
from tests.gateway.files import ROUTE
from tests.workers.support import Running, chat, serving
from tests.workers.test_together import SERVES, comes

EXPERIMENT = """
experiments:
  mini-vs-maxi:
    arms: {mini: openai/mini, maxi: openai/maxi}
    traffic: 60 %
"""
USERS = [f"user {n}" for n in range(30)]


async def _targets(running: Running) -> dict[str, set[str]]:
    """What each user gets, over connections of their own: of whichever worker takes them."""

    async def one(user: str) -> tuple[str, str]:
        async with running.client() as client:
            answer = await chat(client, user=user)
        assert answer.status_code == 200, answer.text
        return user, answer.headers["x-switchboard-target"]

    found: dict[str, set[str]] = {user: set() for user in USERS}
    for user, target in await asyncio.gather(*(one(user) for user in USERS for _ in range(4))):
        found[user].add(target)
    return found


async def test_users_keep_their_arm_over_workers_and_restarts_until_it_is_stopped_in_all(
    home: Path, database: str, provider: StandIn
) -> None:
    gateway = home / "gateway.yaml"
    maxi = "maxi: {id: maxi, price: {input: 1 usd/Mtok, output: 4 usd/Mtok}}"
    text = gateway.read_text()
    gateway.write_text(text.replace("      mini: {", f"      {maxi}\n      mini: {{", 1))
    (home / "routes/general.yaml").write_text(ROUTE.format(name="general") + EXPERIMENT)
    with closing(Store.open(database)) as store:
        token = Keys(store).create("ops", role="operate").secret
    seen = []
    for _ in range(2):
        async with serving(home) as running:
            running.url, running.token = await running.says(SERVES), token
            seen.append(await _targets(running))
            async with running.client() as client:
                stopped = await _stop(client) if len(seen) == 2 else None

            async def nobody_is_in_it() -> bool:
                return set.union(*(await _targets(running)).values()) == {"openai/mini"}

            if stopped is not None:
                assert stopped.is_success, stopped.text
                await comes(nobody_is_in_it)

    assert seen[0] == seen[1]
    assert {len(targets) for targets in seen[0].values()} == {1}
    assert set.union(*seen[0].values()) == {"openai/mini", "openai/maxi"}


async def _stop(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/admin/experiments/stop/mini-vs-maxi", json={"why": "enough"})
