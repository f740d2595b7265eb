"""A model that judges, as a call between steps. Pure."""

from gateway.compose.moves import Ask, Heard, Said
from gateway.evals.judge import by_rubric, mark_in
from gateway.types.compositions import JUDGED_TOKENS, Judge


def judging(judge: Judge, name: str, question: str, said: Said) -> Ask:
    """The call that has an answer marked."""
    system, prompt = by_rubric(judge.rubric, judge.scale, question, said.text)
    return Ask(
        name,
        judge.target,
        system=system,
        prompt=prompt,
        alone=True,
        inner=True,
        max_tokens=JUDGED_TOKENS,
        temperature=0.0,
    )


def mark(judge: Judge, heard: Heard) -> float | None:
    """The mark that was given, from 1 to the judge's scale; None where there is none."""
    if not isinstance(heard, Said):
        return None
    share = mark_in(heard.text, judge.scale)
    return None if share is None else 1.0 + share * (judge.scale - 1)
