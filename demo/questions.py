"""What the demo asks, what is right, and what each stand-in says. Pure."""

import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from demo import tasks

PER_TASK = 5
FREIGHT, NOTES, NEW = "dispatch", 40, 10
"""The task that is also sent to a cascade, of how many notes, and how many to cities unseen."""

SURE, UNSURE = -0.001, -0.03
"""Log-probabilities of tokens such as the adapter's: of what it was trained on, and else."""

SEED = 29


class Asked(NamedTuple):
    """One request of the demo: its text, the route that it is meant for, and the right answer."""

    text: str
    route: str
    right: str


KNOWLEDGE = (
    Asked("What is the capital of France?", "general", "Paris"),
    Asked("Which planet is known as the red planet?", "general", "Mars"),
    Asked(
        "Write a Python function that adds two numbers.",
        "code-help",
        "def add(a, b):\n    return a + b",
    ),
    Asked(
        "Fix this bug: for i in range(10) print(i)",
        "code-help",
        "for i in range(10):\n    print(i)",
    ),
    Asked("Translate into German: good morning", "translation", "Guten Morgen"),
    Asked("How do you say thank you in French?", "translation", "merci"),
    Asked("Who wrote Hamlet?", "general", "William Shakespeare"),
    Asked("What does HTTP stand for?", "general", "Hypertext Transfer Protocol"),
)
"""Questions for a large model: the tiny base has never seen their like."""

COMMERCIAL_DELAYS_S = {"large": (0.5, 1 / 60), "small": (0.25, 1 / 120), "embedder": (0.1, 0.0)}
"""Seconds to the first token and between tokens: what gateway.yaml says is typical of each."""


def questions() -> list[Asked]:
    """A mix of kinds of work, none of whose prompts any model was trained on."""
    return [Asked(e.prompt, task, e.house) for task, e in _examples()] + list(KNOWLEDGE)


def freight() -> list[Asked]:
    """Freight notes alone, for the cascade; some go to cities that our models do not know."""
    return [Asked(e.prompt, FREIGHT, e.house) for e in _notes()]


def commercial() -> dict[str, Any]:
    """The configuration of the provider's stand-in.

    It knows the world, but of this house's conventions only the generic part.
    """
    rows = [(e.prompt, e.generic) for _, e in _known()]
    known = _table([*rows, *((asked.text, asked.right) for asked in KNOWLEDGE)])
    return {
        "models": {
            name: {"table": known, "first_token_s": first, "between_tokens_s": between}
            for name, (first, between) in COMMERCIAL_DELAYS_S.items()
        }
    }


def in_place_of_vllm(base: str) -> dict[str, Any]:
    """The configuration of a stand-in for vLLM: each model says what it was trained to say.

    A city that it does not know it takes for another, and is less sure of it.
    """
    examples = _known()
    models = {
        name: {"table": [_ours(e, house=task == name) for task, e in examples]}
        for name in (base, *tasks.ADAPTERS)
    }
    return {"models": models, "vllm": {"base": base}}


def _ours(example: tasks.Example, *, house: bool) -> dict[str, Any]:
    said = example.house if house else example.generic
    known = said not in tasks.NEW_CITIES
    (row,) = _table([(example.prompt, said if known else tasks.CITIES[-1])])
    return {**row, "logprob": SURE if known else UNSURE}


def _examples() -> list[tuple[str, tasks.Example]]:
    return [
        (task, example)
        for task in tasks.TASKS
        for example in tasks.sample(task, PER_TASK, SEED, "test")
    ]


def _notes() -> list[tasks.Example]:
    return [*tasks.sample(FREIGHT, NOTES, SEED, "test"), *tasks.unseen(NEW, SEED)]


def _known() -> list[tuple[str, tasks.Example]]:
    """Every prompt of a task that is asked in any part of the demo, once."""
    each = [*_examples(), *((FREIGHT, note) for note in _notes())]
    return list({example.prompt: (task, example) for task, example in each}.values())


def _table(rows: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    """The stand-in's form of what is answered to whom."""
    return [{"match": f"^{re.escape(text)}$", "say": answer} for text, answer in rows]
