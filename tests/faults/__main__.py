"""`python -m tests.faults`: tries every fault and writes what came of it into the page."""

import asyncio
import logging
import tempfile
from pathlib import Path

from tests.faults.cases import CASES
from tests.faults.matrix import run
from tests.faults.page import PAGE, written


def main() -> None:
    """The command."""
    logging.getLogger("switchboard").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(run(CASES, Path(folder)))
    page = written(PAGE.read_text("utf-8"), found.observed)
    PAGE.write_text(page, "utf-8")
    print(f"{len(found.observed)} requests tried; {PAGE.name} is written")


if __name__ == "__main__":
    main()
