"""The command: as many minutes as are asked for, by a seed that is told."""

import argparse
import asyncio
import logging
import random
import sys

from tests.chaos.run import Run, run


def main() -> None:
    """Exits with 1 where something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--no-replicas", action="store_true", help="stand-ins only")
    parser.add_argument("--aloud", action="store_true", help="print the story as it happens")
    asked = parser.parse_args()
    # What is wrong is applied on purpose, and told at length.
    level = logging.ERROR if asked.aloud else logging.CRITICAL
    logging.getLogger("switchboard").setLevel(level)
    print(f"seed {asked.seed}", flush=True)
    seconds = 60 * asked.minutes
    how = Run(asked.seed, seconds, seconds + 240, not asked.no_replicas, asked.aloud)
    done = asyncio.run(run(how))
    print(done.report())
    sys.exit(bool(done.wrongs))


if __name__ == "__main__":
    main()
