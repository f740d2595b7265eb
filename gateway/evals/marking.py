"""Scores of an answer by a suite's scorers, whatever they need: the text, a model, or a process."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gateway.classify.encoder import Encoder
from gateway.config.files.suites import ScorerPart
from gateway.evals import code, judge
from gateway.evals.asking import Reply, messages_of
from gateway.evals.purse import Purse
from gateway.evals.scoring import ScorerError, of_text, own_function
from gateway.evals.suites import Case, Scorer


class Marker:
    """Scores answers; models that judge are asked out of `purse`."""

    def __init__(
        self, scorers: Sequence[Scorer], folder: Path, purse: Purse, encoder: Encoder | None = None
    ) -> None:
        """Files that scorers name are looked for in `folder`. Raises ScorerError for a scorer that
        cannot be made."""
        self._folder = folder
        self._purse = purse
        self._encoder = encoder
        self._scorers = [(scorer, self._made(scorer)) for scorer in scorers]

    async def scored(
        self, case: Case, prompt: str, reply: Reply
    ) -> tuple[dict[str, float] | None, float]:
        """The scores by scorer, and what judging cost; None where money is at an end. What was not
        answered, or a judge did not judge, has no score."""
        scores: dict[str, float] = {}
        before = self._purse.progress.judge_usd
        if reply.error is not None:
            return scores, 0.0
        judge_usd = 0.0
        for scorer, made in self._scorers:
            if scorer.part.kind == "judge":
                score, dollars = await self._judged(scorer, case, prompt, reply.text)
                judge_usd += dollars
                if self._purse.progress.stopped and score is None:
                    return None, self._purse.progress.judge_usd - before
            elif scorer.part.kind == "code":
                score = await self._ran(scorer, case, reply.text)
            else:
                assert made is not None
                score = await asyncio.to_thread(_made_to, made, scorer, case, reply.text)
            if score is not None:
                scores[scorer.name] = score
        return scores, judge_usd

    async def _ran(self, scorer: Scorer, case: Case, said: str) -> float:
        part, path = scorer.part, self._folder / (scorer.part.run or "")
        try:
            template = path.read_text("utf-8")
        except OSError as error:
            raise ScorerError(f"{path} cannot be read: {error}") from error
        source = code.program(template, said, {**case.fields, "expected": case.expected})
        worked, _ = await code.works(source, part.timeout, part.memory)
        return float(worked)

    async def _judged(
        self, scorer: Scorer, case: Case, prompt: str, said: str
    ) -> tuple[float | None, float]:
        part = scorer.part
        if part.against == "expected":
            return await self.preferred(scorer, prompt, said, case.expected)
        rubric = part.rubric or "Right, whole and to the point."
        texts, dollars = await self._said(part, [judge.by_rubric(rubric, part.scale, prompt, said)])
        return (judge.mark_in(texts[0], part.scale) if texts else None), dollars

    async def preferred(
        self, scorer: Scorer, prompt: str, one: str, other: str
    ) -> tuple[float | None, float]:
        """How far a judge prefers one answer to another, asked in both orders, and what that cost;
        None where money is at an end, or it did not say."""
        part = scorer.part
        questions = [
            judge.pairwise(part.rubric, prompt, one, other),
            judge.pairwise(part.rubric, prompt, other, one),
        ]
        texts, dollars = await self._said(part, questions)
        return (judge.preferred(*texts) if texts else None), dollars

    async def _said(
        self, part: ScorerPart, questions: Sequence[tuple[str, str]]
    ) -> tuple[list[str], float]:
        """What a judge says to each question, and what that cost; nothing where money is at an
        end."""
        texts, dollars = [], 0.0
        for system, question in questions:
            body = {
                "model": part.target,
                "messages": messages_of(system, question),
                "max_tokens": judge.MAX_TOKENS,
                "temperature": 0.0,
            }
            found = await self._purse.reply(part.target or "", body, 0, judging=True)
            if found is None:
                return [], dollars
            reply, cached = found
            dollars += 0.0 if cached else reply.cost_usd
            texts.append(reply.text)
        return texts, dollars

    def _made(self, scorer: Scorer) -> Callable[[Case, str], float] | None:
        """The function of a scorer that needs neither a model nor a process."""
        part, folder = scorer.part, self._folder
        if part.kind in ("judge", "code"):
            return None
        if part.kind == "python":
            own = own_function(part.function or "", folder)
            return lambda case, said: _within(own(said, case.expected, case.fields), scorer.name)
        if part.kind == "similarity":
            return self._similarity()
        score = of_text(part, folder)
        assert score is not None
        return lambda case, said: score(said, case.expected)

    def _similarity(self) -> Callable[[Case, str], float]:
        encoder = self._encoder
        if encoder is None:
            raise ScorerError(
                "a scorer by similarity needs a sentence encoder:"
                " `classifier: {kind: embedding, encoder: DIR}` in gateway.yaml"
            )
        return lambda case, said: max(
            0.0, float(np.prod(encoder.encode([said, case.expected]), axis=0).sum())
        )


def _made_to(made: Callable[[Case, str], float], scorer: Scorer, case: Case, said: str) -> float:
    """The score; whatever a function of the suite's raises is told with its scorer and case."""
    try:
        return made(case, said)
    except ScorerError:
        raise
    except Exception as error:
        raise ScorerError(
            f"the scorer `{scorer.name}` failed on case {case.id}: {type(error).__name__}: {error}"
        ) from error


def _within(score: object, name: str) -> float:
    if not isinstance(score, int | float) or not 0.0 <= score <= 1.0:
        raise ScorerError(f"the scorer `{name}` answered {score!r}; it must be from 0 to 1")
    return float(score)
