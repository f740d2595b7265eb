"""A suite asked of its targets: each answer once, kept by its content, scored, in a fixed order.

A run that was interrupted goes on where it was when it is begun again.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gateway.classify.encoder import Encoder
from gateway.errors import SwitchboardError
from gateway.evals.asking import messages_of
from gateway.evals.marking import Marker
from gateway.evals.purse import Answers, Cache, Purse
from gateway.evals.runs import Asked, Result
from gateway.evals.suites import Case, Suite, To, filled
from gateway.types.backends import Target

AT_ONCE = 8


class Runner:
    """Runs one suite. `progress` changes while it does, and `told` is called whenever it has."""

    def __init__(
        self,
        suite: Suite,
        targets: Sequence[To],
        declared: Mapping[str, Target],
        answers: Answers,
        cache: Cache,
        *,
        limit_usd: float | None = None,
        at_once: int = AT_ONCE,
        encoder: Encoder | None = None,
        internal: bool = False,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        """`declared` are the targets of the configuration, whose prices bound what is spent. With
        `internal` data only self-hosted ones are asked, or judge.

        Raises ScorerError for a scorer that cannot be made, RunFailed for a target that is not
        there, or may not be asked.
        """
        self._purse = Purse(declared, answers, cache, limit_usd=limit_usd, told=told)
        self.progress = self._purse.progress
        self._suite = suite
        self._targets = targets
        self._at_once = asyncio.Semaphore(at_once)
        self._told = told
        self._marker = Marker(suite.scorers, suite.folder, self._purse, encoder)
        for name in [each.target for each in targets] + _judges(suite):
            self._purse.check(name, internal=internal)

    @property
    def count(self) -> int:
        """Answers of the whole run."""
        return len(self._suite.cases) * len(self._targets) * self._suite.repetitions

    async def run(self) -> tuple[list[Asked], list[Result]]:
        """Who was asked, and the results in the order of cases, targets and repetitions; fewer
        where the limit stopped it. Raises ScorerError, RunFailed."""
        asked = [
            Asked(
                to.label,
                await self._purse.who(to.target),
                to.system,
                to.prompt,
                None if to.name is None else to.target,
            )
            for to in self._targets
        ]
        for name in dict.fromkeys(_judges(self._suite)):
            await self._purse.who(name, judging=True)
        places = [
            (case, to, rep)
            for case in self._suite.cases
            for to in self._targets
            for rep in range(self._suite.repetitions)
        ]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._one(*place)) for place in places]
        except* SwitchboardError as errors:
            raise errors.exceptions[0] from errors
        results = [task.result() for task in tasks]
        return asked, [each for each in results if each is not None]

    # ------------------------------------------------------------ one answer

    async def _one(self, case: Case, to: To, rep: int) -> Result | None:
        async with self._at_once:
            prompt = case.prompt if to.prompt is None else filled(to.prompt, case.fields)
            body: dict[str, Any] = {
                "model": to.target,
                "messages": messages_of(to.system or self._suite.system, prompt),
                "max_tokens": self._suite.max_tokens,
                "temperature": self._suite.temperature,
            }
            if self._suite.temperature > 0.0:
                body["seed"] = self._suite.seed + rep
            found = await self._purse.reply(to.target, body, rep)
            if found is None:
                return None
            reply, cached = found
            scores, judge_usd = await self._marker.scored(case, prompt, reply)
            if scores is None:
                return None
        right = scores.get(self._suite.right)
        self.progress.done += 1
        self.progress.errors += reply.error is not None
        self._told()
        return Result(
            case=case.id,
            target=to.label,
            rep=rep,
            input=prompt,
            expected=case.expected,
            output=reply.text,
            error=reply.error,
            scores=scores,
            right=None if right is None else self._suite.scorer.is_right(right),
            cost_usd=reply.cost_usd,
            judge_usd=judge_usd,
            first_token_s=reply.first_token_s,
            total_s=reply.total_s,
            input_tokens=reply.input_tokens,
            output_tokens=reply.output_tokens,
            cached=cached,
        )


def _judges(suite: Suite) -> list[str]:
    return [each.part.target for each in suite.scorers if each.part.target is not None]
