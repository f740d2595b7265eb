"""A suite asked of its targets: each answer once, kept by its content, scored, in a fixed order.

What is kept of an answer lies below its hash: of who answers (its name by its own word, so that
another version of an adapter is asked anew), of the question, and of the repetition. A run that was
interrupted goes on where it was when it is begun again.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from gateway.classify.encoder import Encoder
from gateway.errors import SwitchboardError
from gateway.evals import code, judge
from gateway.evals.asking import Reply, messages_of
from gateway.evals.runs import Asked, Result
from gateway.evals.scoring import ScorerError, of_text, own_function
from gateway.evals.suites import Case, Scorer, Suite, To, filled
from gateway.types import Target

AT_ONCE = 8


class RunFailed(SwitchboardError):
    """A run cannot be made or go on; the text says why."""


class Answers(Protocol):
    """Who answers: a gateway."""

    async def ask(self, body: Mapping[str, Any]) -> Reply: ...


class Progress(msgspec.Struct):
    """How far a run is. Dollars; `reserved` is what questions under way may cost at the most."""

    done: int = 0
    asked: int = 0
    cached: int = 0
    errors: int = 0
    cost_usd: float = 0.0
    judge_usd: float = 0.0
    reserved: float = 0.0
    stopped: str = ""

    @property
    def spent(self) -> float:
        """On answers and on judging them."""
        return self.cost_usd + self.judge_usd


class Cache:
    """Answers on disk by the hash of what was asked."""

    def __init__(self, folder: Path, *, reads: bool = True) -> None:
        """Without `reads` nothing is known that was kept before."""
        self._folder = folder
        self._reads = reads

    def key(self, model: str, body: Mapping[str, Any], rep: int) -> str:
        """Of who answers, what is asked and for which time."""
        content = msgspec.json.encode([model, body, rep], order="deterministic")
        return sha256(content).hexdigest()

    def get(self, key: str) -> Reply | None:
        """The answer that was kept, if it can be read."""
        if not self._reads:
            return None
        try:
            return msgspec.json.decode(self._path(key).read_bytes(), type=Reply)
        except (OSError, msgspec.DecodeError):
            return None

    def put(self, key: str, reply: Reply) -> None:
        """Keeps an answer, whole or not at all."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".new")
        beside.write_bytes(msgspec.json.encode(reply))
        os.replace(beside, path)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


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
        self._encoder = encoder
        self.progress = Progress()
        self._suite = suite
        self._targets = targets
        self._declared = declared
        self._answers = answers
        self._cache = cache
        self._limit = limit_usd
        self._at_once = asyncio.Semaphore(at_once)
        self._told = told
        self._models: dict[str, str] = {}
        self._scorers = [(scorer, self._made(scorer)) for scorer in suite.scorers]
        for name in [each.target for each in targets] + _judges(suite):
            _may_be_asked(name, declared, internal, limited=limit_usd is not None)

    @property
    def count(self) -> int:
        """Answers of the whole run."""
        return len(self._suite.cases) * len(self._targets) * self._suite.repetitions

    async def run(self) -> tuple[list[Asked], list[Result]]:
        """Who was asked, and the results in the order of cases, targets and repetitions; fewer
        where the limit stopped it. Raises ScorerError, RunFailed."""
        asked = [await self._who(to) for to in self._targets]
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

    async def _who(self, to: To) -> Asked:
        """What a target answers as: one token of it tells."""
        body = {
            "model": to.target,
            "messages": [{"role": "user", "content": "."}],
            "max_tokens": 1,
        }
        reply = await self._answers.ask(body)
        if reply.error is not None:
            raise RunFailed(f"{to.target} does not answer: {reply.error}")
        self.progress.cost_usd += reply.cost_usd
        self._models[to.target] = reply.model
        return Asked(to.target, reply.model, to.system, to.prompt)

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
            found = await self._reply(to.target, body, rep)
            if found is None:
                return None
            reply, cached = found
            scores, judge_usd = await self._scored(case, prompt, reply)
            if scores is None:
                return None
        right = scores.get(self._suite.right)
        self.progress.done += 1
        self.progress.errors += reply.error is not None
        self._told()
        return Result(
            case=case.id,
            target=to.target,
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

    async def _reply(
        self, target: str, body: Mapping[str, Any], rep: int, *, judging: bool = False
    ) -> tuple[Reply, bool] | None:
        """The answer, and whether it was kept from before; None where money is at an end.

        An answer that failed is not kept: it is asked again the next time.
        """
        key = self._cache.key(self._models.get(target, ""), body, rep)
        kept = self._cache.get(key)
        if kept is not None:
            self.progress.cached += not judging
            return kept, True
        most = self._most(target, body)
        progress = self.progress
        if self._limit is not None and progress.spent + progress.reserved + most > self._limit:
            progress.stopped = f"the limit of {self._limit:g} usd"
        if progress.stopped:
            return None
        progress.reserved += most
        try:
            reply = await self._answers.ask(body)
        finally:
            progress.reserved -= most
        if judging:
            progress.judge_usd += reply.cost_usd
        else:
            progress.cost_usd += reply.cost_usd
            progress.asked += 1
        if reply.error is None:
            self._cache.put(key, reply)
        self._told()
        return reply, False

    def _most(self, target: str, body: Mapping[str, Any]) -> float:
        """The most that a question costs: a tokenizer makes at most a token of each byte."""
        price = self._declared[target].price
        size, most = len(msgspec.json.encode(body["messages"])), int(body["max_tokens"])
        return size * price.input + most * price.output

    # ------------------------------------------------------------ scores

    async def _scored(
        self, case: Case, prompt: str, reply: Reply
    ) -> tuple[dict[str, float] | None, float]:
        """The scores by scorer, and what judging cost; None where money is at an end. What was not
        answered, or a judge did not judge, has no score."""
        scores: dict[str, float] = {}
        before = self.progress.judge_usd
        if reply.error is not None:
            return scores, 0.0
        judge_usd = 0.0
        for scorer, made in self._scorers:
            if scorer.part.kind == "judge":
                score, dollars = await self._judged(scorer, case, prompt, reply.text)
                judge_usd += dollars
                if self.progress.stopped and score is None:
                    return None, self.progress.judge_usd - before
            elif scorer.part.kind == "code":
                score = await self._ran(scorer, case, reply.text)
            else:
                assert made is not None
                score = await asyncio.to_thread(made, case, reply.text)
            if score is not None:
                scores[scorer.name] = score
        return scores, judge_usd

    async def _ran(self, scorer: Scorer, case: Case, said: str) -> float:
        part, path = scorer.part, self._suite.folder / (scorer.part.run or "")
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
        if part.against == "rubric":
            rubric = part.rubric or "Right, whole and to the point."
            questions = [judge.by_rubric(rubric, part.scale, prompt, said)]
        else:
            questions = [
                judge.pairwise(part.rubric, prompt, said, case.expected),
                judge.pairwise(part.rubric, prompt, case.expected, said),
            ]
        texts, dollars = [], 0.0
        for system, question in questions:
            body = {
                "model": part.target,
                "messages": messages_of(system, question),
                "max_tokens": judge.MAX_TOKENS,
                "temperature": 0.0,
            }
            found = await self._reply(part.target or "", body, 0, judging=True)
            if found is None:
                return None, dollars
            reply, cached = found
            dollars += 0.0 if cached else reply.cost_usd
            texts.append(reply.text)
        if part.against == "rubric":
            return judge.mark_in(texts[0], part.scale), dollars
        return judge.preferred(*texts), dollars

    def _made(self, scorer: Scorer) -> Callable[[Case, str], float] | None:
        """The function of a scorer that needs neither a model nor a process."""
        part, folder = scorer.part, self._suite.folder
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


def _may_be_asked(
    name: str, declared: Mapping[str, Target], internal: bool, *, limited: bool
) -> None:
    target = declared.get(name)
    if target is None:
        raise RunFailed(f"there is no target `{name}`; there are: {', '.join(sorted(declared))}")
    if internal and not target.internal:
        raise RunFailed(f"`{name}` is not self-hosted, and the suite's route is internal")
    if limited and not target.priced:
        raise RunFailed(f"the price of `{name}` is not known here: no limit can be kept")


def _judges(suite: Suite) -> list[str]:
    return [each.part.target for each in suite.scorers if each.part.target is not None]


def _within(score: object, name: str) -> float:
    if not isinstance(score, int | float) or not 0.0 <= score <= 1.0:
        raise ScorerError(f"the scorer `{name}` answered {score!r}; it must be from 0 to 1")
    return float(score)
