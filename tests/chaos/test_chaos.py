"""Two minutes of chaos: `make chaos MINUTES=30 SEED=…` is the same for longer."""

import os

from tests.chaos.run import Run, run

SECONDS = float(os.environ.get("CHAOS_SECONDS", "120"))
SEED = int(os.environ.get("CHAOS_SEED", "4"))
REPLICAS = os.environ.get("CHAOS_REPLICAS", "yes") != "no"
"""To be left out while working on something else: they take half a minute to start."""

MOST_S = 240.0

DONE = {
    *("apply", "apply under guard", "apply what is wrong", "roll back"),
    *("reload", "reload what is wrong", "drain", "kill a provider", "hold a provider"),
}
"""What every run has enough time for."""

OURS = {"kill a replica", "hold a replica", "promote"}
"""What of it is done to our own servers."""

SHED = 0.01
"""Share of the requests that may be told to come back, as all who are well had too much to do."""


async def test_nothing_is_lost_while_everything_breaks() -> None:
    done = await run(Run(SEED, SECONDS, MOST_S, replicas=REPLICAS))

    assert not done.wrongs, done.report()
    assert len(done.told) > 100, done.report()
    assert done.acts.keys() >= DONE | (OURS if REPLICAS else set()), done.report()
    assert sum(told.shed for told in done.told) < SHED * len(done.told), done.report()
    if REPLICAS:
        assert any(target.startswith("local/") for target in done.by_target()), done.report()
