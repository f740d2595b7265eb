"""Writes the cases of the demo's suites: held-out prompts of each task, as the house wants them.

    python -m demo.suites

Held out: the base and the adapters were trained on the other split only (`demo.tasks.split_of`).
"""

import json
from pathlib import Path

from demo import tasks

FOLDER = Path(__file__).resolve().parent.parent / "evals"
SEED, COUNT = 20, 100
"""The seed is none that training or the demo's own questions use."""


def cases(task: str) -> list[tasks.Example]:
    """`COUNT` different prompts of a task that nothing was trained on."""
    found: dict[str, tasks.Example] = {}
    for example in tasks.sample(task, 40 * COUNT, SEED, "test"):
        found.setdefault(example.prompt, example)
    return list(found.values())[:COUNT]


def main() -> None:
    """Writes a file for each task."""
    for task in tasks.TASKS:
        lines = [json.dumps({"input": each.prompt, "expected": each.house}) for each in cases(task)]
        (FOLDER / f"{task}.jsonl").write_text("\n".join(lines) + "\n")
        print(f"evals/{task}.jsonl: {len(lines)} cases")


if __name__ == "__main__":
    main()
