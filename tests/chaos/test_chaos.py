"""A minute or two of chaos: `make chaos MINUTES=30 SEED=…` is the same for longer."""

import os

from tests.chaos.run import Run, run

SECONDS = float(os.environ.get("CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("CHAOS_SEED", "4"))
REPLICAS = os.environ.get("CHAOS_REPLICAS", "yes") != "no"
"""To be left out while working on something else: they take half a minute to start."""

MOST_S = 200.0

DONE = {"apply", "drain", "kill a provider", "hold a provider"}
"""What every run has enough time for."""


async def test_nothing_is_lost_while_everything_breaks() -> None:
    done = await run(Run(SEED, SECONDS, MOST_S, replicas=REPLICAS))

    assert not done.wrongs, done.report()
    assert len(done.told) > 100, done.report()
    assert done.acts.keys() >= DONE, done.report()
    if REPLICAS:
        assert any(target.startswith("local/") for target in done.by_target()), done.report()
