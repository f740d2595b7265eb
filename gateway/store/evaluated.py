"""What eval runs found, as far as quality is learned from it: so any host learns from all runs."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import delete, insert, select

from gateway.store.rows import storable
from gateway.store.schema import eval_prompts, eval_runs
from gateway.store.store import Store


class Evaluated(msgspec.Struct, frozen=True):
    """A run of a route's suite, by its name; `hash` is of what is kept of it, `at` when it ended,
    in Unix seconds."""

    run: str
    route: str
    hash: str
    at: float


class Prompt(msgspec.Struct, frozen=True):
    """A prompt of a run, by a digest of its text, with its text or its features; and for each
    answer to it the target, how right it was in 0..1, and what it cost in dollars."""

    prompt: str
    text: str | None
    features: bytes | None
    answers: tuple[tuple[str, float, float], ...]


class EvalBook:
    """The store's eval runs. Every call raises StoreError where the store is away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, run: Evaluated, prompts: Sequence[Prompt]) -> bool:
        """Keeps a run, in the place of what was kept of it; whether that was news."""
        found = select(eval_runs.c.hash).where(eval_runs.c.run == run.run)
        with self._store.change() as connection:
            if connection.scalar(found) == run.hash:
                return False
            connection.execute(delete(eval_prompts).where(eval_prompts.c.run == run.run))
            connection.execute(delete(eval_runs).where(eval_runs.c.run == run.run))
            connection.execute(insert(eval_runs), [msgspec.structs.asdict(run)])
            rows = [
                {
                    "run": run.run,
                    "n": n,
                    "prompt": each.prompt,
                    "text": None if each.text is None else storable(each.text),
                    "features": each.features,
                    "answers": msgspec.json.encode(each.answers).decode(),
                }
                for n, each in enumerate(prompts)
            ]
            if rows:
                connection.execute(insert(eval_prompts), rows)
        return True

    def read(self, route: str) -> list[tuple[str, list[Prompt]]]:
        """The names of a route's runs with their prompts, the oldest first."""
        c, of = eval_prompts.c, eval_runs.c
        names = select(of.run).where(of.route == route).order_by(of.at, of.run)
        prompts = (
            select(c.run, c.prompt, c.text, c.features, c.answers)
            .select_from(eval_prompts.join(eval_runs, c.run == of.run))
            .where(of.route == route)
            .order_by(c.run, c.n)
        )
        with self._store.read() as connection:
            found: dict[str, list[Prompt]] = {row.run: [] for row in connection.execute(names)}
            for run, prompt, text, features, answers in connection.execute(prompts):
                told = msgspec.json.decode(answers, type=tuple[tuple[str, float, float], ...])
                kept = None if features is None else bytes(features)
                found.setdefault(run, []).append(Prompt(prompt, text, kept, told))
        return list(found.items())
