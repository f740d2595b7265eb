"""Swaps of the configuration under load: what they cost, and that nothing is lost by them.

    python -m benchmarks.swaps [--swaps 10000] [--seconds 300] [--stream-seconds 30] [--json]

Gateway, stand-in providers and clients share one process, so the figures of time and memory are of
all of them. Ends with 1 where any request failed, was cut, or was served by two snapshots.
"""

import argparse
import asyncio
import logging
import tempfile
from pathlib import Path

import msgspec

from tests.gateway.swapping import Report, swapped


def main() -> None:
    """Run it, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=300.0, help="that they are spread over")
    parser.add_argument("--stream-seconds", type=float, default=30.0, help="of each long stream")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    logging.getLogger("switchboard").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        report = asyncio.run(
            swapped(
                Path(folder),
                swaps=options.swaps,
                seconds=options.seconds,
                long_s=options.stream_seconds,
            )
        )
    print(msgspec.json.encode(report).decode() if options.json else in_words(report))
    raise SystemExit(bool(report.wrong))


def in_words(report: Report) -> str:
    """The report for people."""
    grown, objects = report.grown()
    lines = [
        f"{report.swaps:,} swaps of {report.swap_ms:.1f} ms on average, under load",
        f"{report.requests:,} requests by {report.snapshots_seen:,} snapshots, "
        f"{report.long_streams} of them long streams",
        f"{len(report.wrong)} failed, were cut, or saw two snapshots",
        f"memory {report.sizes[-1].rss / 1e6:.0f} MB, by {grown / 1e3:+.1f} kB and {objects:+.1f} "
        f"objects with each swap after the first quarter; {report.planes_alive} plane left",
        *report.wrong[:20],
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
