"""A version of learned quality over several workers: trained once, all of them go by it."""

import asyncio
from pathlib import Path

import msgspec

from gateway.evals import runs
from tests.cli.running import switchboard
from tests.evals.test_compare import a_run, result
from tests.gateway.files import ROUTE
from tests.workers.support import chat, serving
from tests.workers.test_together import SERVES, comes

MAXI = "maxi: {id: maxi, price: {input: 1 usd/Mtok, output: 4 usd/Mtok}}"

NAMES = [
    first + last
    for first in ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn")
    for last in ("a", "o", "ie", "us", "y", "is", "el", "ix", "an", "on")
]


async def test_all_workers_go_by_the_version_that_is_used(home: Path, database: str) -> None:
    gateway = home / "gateway.yaml"
    text = gateway.read_text()
    gateway.write_text(text.replace("      mini: {", f"      {MAXI}\n      mini: {{", 1))
    route = ROUTE.format(name="general").replace(
        "quality: 0.9}", "quality: 0.9}, {target: openai/maxi, quality: 0.5}"
    )
    (home / "routes/general.yaml").write_text(route)
    for policy in (home / "policies").glob("*.yaml"):
        policy.write_text(policy.read_text() + "\nquality: learned\n")
    found = []
    for case in range(120):
        greets = case % 2 == 0
        name = NAMES[case // 2]
        said = f"hello there {name}" if greets else f"prove the theorem of {name}"
        for target in ("openai/mini", "openai/maxi"):
            right = (target == "openai/maxi") == greets
            found.append(result(case, target, right, input=said, cost_usd=1e-6))
    about = msgspec.structs.replace(a_run(), id="1", suite="greetings", route="general")
    runs.write(home / runs.HOME, about, found)
    where = ("--config", str(home), "--store", database)

    async with serving(home) as running:
        running.url = await running.says(SERVES)

        async def targets() -> set[str]:
            async def one() -> str:
                async with running.client() as client:
                    answer = await chat(client)
                assert answer.status_code == 200, answer.text
                return answer.headers["x-switchboard-target"]

            return set(await asyncio.gather(*(one() for _ in range(20))))

        assert await targets() == {"openai/mini"}
        ran = await asyncio.to_thread(switchboard, "train", *where)
        assert ran.code == 0, ran.err

        async def all_go_by_it() -> bool:
            return await targets() == {"openai/maxi"}

        await comes(all_go_by_it)
