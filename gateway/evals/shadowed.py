"""Answered requests and their copies, judged: each pair is a case of a run with two targets.

A model that judges `against: expected` is asked which of both answers is better, in both orders,
and does not learn which is the copy; any other scorer scores each by itself. Answers that are the
same word for word are equal, and cost no judge. What has no text on both sides is left out, and
counted.
"""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from gateway.errors import SwitchboardError
from gateway.evals.asking import Reply
from gateway.evals.marking import Marker
from gateway.evals.purse import Purse
from gateway.evals.runs import Result
from gateway.evals.scoring import ScorerError
from gateway.evals.suites import Case, Scorer
from gateway.store.shadows import Pair

ALONE = ("judge", "schema", "python")
"""Kinds of scorers that need no expected answer: nobody has written one for what was asked."""


class Both(msgspec.Struct, frozen=True):
    """A pair that can be judged: what was asked, and what both said."""

    pair: Pair
    question: str
    answer: str
    shadow: str


class Chosen(msgspec.Struct, frozen=True):
    """The pairs to judge, and why others are not, with how many."""

    pairs: tuple[Both, ...]
    left_out: Mapping[str, int]


def chosen(pairs: Sequence[Pair], count: int, seed: int) -> Chosen:
    """At most so many of the pairs that have texts, by the seed, in their order."""
    left_out: Counter[str] = Counter()
    found = []
    for pair in pairs:
        question = question_of(pair)
        answer, shadow = said(pair.answer), said(pair.shadow_answer)
        if pair.shadow_outcome != "ok":
            left_out["were not answered by the shadow"] += 1
        elif question is None or answer is None or shadow is None:
            left_out["have no text that is kept"] += 1
        else:
            found.append(Both(pair, question, answer, shadow))
    if len(found) > count:
        left_out["are more than were wanted"] += len(found) - count
        places = sorted(random.Random(seed).sample(range(len(found)), count))
        found = [found[place] for place in places]
    return Chosen(tuple(found), dict(left_out))


def question_of(pair: Pair) -> str | None:
    """What was asked as text: the one message by itself, or all of them with who speaks."""
    try:
        messages = json.loads(pair.messages or "")
        texts = [(str(each["role"]), _text(each.get("content"))) for each in messages]
    except (ValueError, KeyError, TypeError, AttributeError):
        return pair.text
    if len(texts) == 1:
        return texts[0][1]
    return "\n\n".join(f"{role}: {text}" for role, text in texts) or pair.text


def _text(content: object) -> str:
    if isinstance(content, str):
        return content
    return "" if content is None else json.dumps(content, ensure_ascii=False)


def said(answer: str | None) -> str | None:
    """The text of an answer: a stream's is kept as text, a plain one as its body."""
    if answer is None or not answer.startswith("{"):
        return answer
    try:
        choice = msgspec.json.decode(answer)["choices"][0]
        text = choice["message"]["content"] if "message" in choice else choice["text"]
    except (msgspec.DecodeError, LookupError, TypeError):
        return answer
    return text if isinstance(text, str) else answer


class Judging:
    """Judges pairs by one scorer, out of a purse."""

    def __init__(
        self,
        scorer: Scorer,
        folder: Path,
        purse: Purse,
        *,
        at_once: int,
        internal: bool,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        """Files that the scorer names are looked for in `folder`. Raises ScorerError for one that
        needs an expected answer, RunFailed for a judge that may not be asked."""
        if scorer.part.kind not in ALONE:
            raise ScorerError(
                f"the scorer `{scorer.name}` ({scorer.part.kind}) needs an expected answer, and a"
                f" shadow's requests have none; those of kind {', '.join(ALONE)} need none"
            )
        self._scorer = scorer
        self._purse = purse
        self._marker = Marker((scorer,), folder, purse)
        self._at_once = asyncio.Semaphore(at_once)
        self._told = told
        if scorer.part.target is not None:
            purse.check(scorer.part.target, internal=internal)

    @property
    def pairwise(self) -> bool:
        """Whether both answers are judged together, so that neither is right or wrong."""
        return self._scorer.part.kind == "judge" and self._scorer.part.against == "expected"

    async def judged(self, pairs: Sequence[Both]) -> list[Result]:
        """Two results of each pair, that of the answer and that of the copy; fewer where money is
        at an end. Raises ScorerError, RunFailed."""
        differ = any(both.answer != both.shadow for both in pairs)
        if self._scorer.part.target is not None and (differ or not self.pairwise):
            await self._purse.who(self._scorer.part.target, judging=True)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(both)) for both in pairs]
        except* SwitchboardError as errors:
            raise errors.exceptions[0] from errors
        return [result for task in tasks for result in task.result()]

    async def _one(self, both: Both) -> list[Result]:
        async with self._at_once:
            marks = await (self._preferred(both) if self.pairwise else self._scored(both))
        if marks is None:
            return []
        answer, shadow, dollars = marks
        self._purse.progress.done += 1
        self._told()
        pair = both.pair
        return [
            self._result(
                both, pair.target, both.answer, answer, 0.0,
                pair.cost, pair.first_token_s, pair.total_s,
            ),
            self._result(
                both, pair.shadow_target or "shadow", both.shadow, shadow, dollars,
                pair.shadow_cost, pair.shadow_first_token_s, pair.shadow_total_s,
            ),
        ]  # fmt: skip

    async def _preferred(self, both: Both) -> tuple[float | None, float | None, float] | None:
        """How far the answer and the copy are preferred, and dollars; None where money is at an
        end. What the judge does not say has no score."""
        if both.answer == both.shadow:
            return 0.5, 0.5, 0.0
        share, dollars = await self._marker.preferred(
            self._scorer, both.question, both.shadow, both.answer
        )
        if share is None:
            return None if self._purse.progress.stopped else (None, None, dollars)
        return 1.0 - share, share, dollars

    async def _scored(self, both: Both) -> tuple[float | None, float | None, float] | None:
        case = Case(both.pair.request, {"input": both.question}, both.question, "")
        dollars, found = 0.0, []
        for text in dict.fromkeys((both.answer, both.shadow)):
            scores, spent = await self._marker.scored(case, both.question, Reply(text))
            if scores is None:
                return None
            dollars += spent
            found.append(scores.get(self._scorer.name))
        return found[0], found[-1], dollars

    def _result(
        self,
        both: Both,
        target: str,
        text: str,
        score: float | None,
        judge_usd: float,
        cost: float,
        first_token_s: float | None,
        total_s: float,
    ) -> Result:
        known = score is not None and not self.pairwise
        return Result(
            case=both.pair.request,
            target=target,
            rep=0,
            input=both.question,
            expected="",
            output=text,
            error=None,
            scores={} if score is None else {self._scorer.name: score},
            right=self._scorer.is_right(score) if known and score is not None else None,
            cost_usd=cost,
            judge_usd=judge_usd,
            first_token_s=first_token_s,
            total_s=total_s,
            input_tokens=0,
            output_tokens=0,
        )
