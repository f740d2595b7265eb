"""Compositions performed: each step is asked as any request is, and one answer comes of it.

Which step is next a machine of `gateway.compose` says. A step is a journey of its own on the same
plane: it has its own ranking of replicas, admission, breakers, retries and usage. Its attempts are
those of the request, whose deadline is for all of it. All but the last are read whole, and held.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from gateway.backends.shape import Shaped
from gateway.compose.answers import (
    events,
    read,
    text_of,
    usage_event,
    with_usage,
    without_log_probabilities,
)
from gateway.compose.asking import asked, question_of, under
from gateway.compose.best_of import best_of
from gateway.compose.cascade import cascade
from gateway.compose.chain import chain
from gateway.compose.moves import Ask, Ending, Failed, Given, Heard, Last, Machine, Notes, Said
from gateway.errors import ApiError, Kind
from gateway.journey import (
    NO_REPLY,
    NO_USAGE,
    Journey,
    Lines,
    Opened,
    Outlet,
    Run,
    estimated,
    keeps_text,
)
from gateway.limits.reserve import most_of
from gateway.metering.usage import usage_of
from gateway.policy.live import Live
from gateway.policy.words import dollars
from gateway.refusals import OF_THE_REQUEST
from gateway.resilience.base import AttemptFailed, Reason
from gateway.resilience.carry import both
from gateway.resilience.hedge import SOONER
from gateway.types.compositions import Composition, StepTaken
from gateway.types.decisions import Choice, Question
from gateway.types.records import Outcome, Usage
from gateway.types.requests import Request

ANSWERED = "answered"
MOST_TOLD = 16
"""Steps that the header tells; the decision has all."""

_MACHINES: Mapping[str, Callable[[Composition, str, Notes], Machine]] = {
    "cascade": cascade,
    "best_of": best_of,
    "chain": chain,
}
_DONE = re.compile(rb"^data: ?\[DONE\]", re.MULTILINE)


def told_steps(run: Run) -> str:
    """The steps as a header tells them: name, target, and in a word what they came to."""
    words = [(each, each.came_to.partition(":")[0]) for each in run.steps]
    told = [f"{each.step} {each.target} {word}" for each, word in words[:MOST_TOLD]]
    more = len(words) - len(told)
    return ", ".join([*told, f"and {more} more"] if more else told)


class Composer:
    """Opens and relays the answers of compositions, by what the pipeline does with any target."""

    def __init__(
        self,
        live: Live,
        clock: Callable[[], float],
        open_any: Callable[[Journey], Awaitable[Opened]],
        relay: Callable[[Journey, Opened, Outlet], Awaitable[None]],
        lines: Callable[[Journey, Opened], Lines],
        give_back: Callable[[Opened], None],
    ) -> None:
        self._live = live
        self._clock = clock
        self._open_any = open_any
        self._relay = relay
        self._lines = lines
        self._give_back = give_back

    async def open(self, journey: Journey, choice: Choice, reason: Reason) -> Opened:
        """The last step, opened, or an answer that is there. Raises AttemptFailed."""
        snapshot, ask, decision = journey.plane.snapshot, journey.ask, journey.decision
        assert ask is not None
        assert decision is not None
        began = self._clock()
        target = snapshot.targets[choice.target]
        run = Run(
            journey=journey,
            request=_with_own_system(journey, choice),
            composition=snapshot.compositions[choice.target],
            choice=choice,
            flight=self._live.started(target, choice.replica, journey.teaches, began),
            began=began,
            first=len(journey.attempts),
            last=journey,
        )
        try:
            opened = await self._performed(run, reason)
        except AttemptFailed as failure:
            journey.composed = choice.target
            self._ended(run, "error", NO_USAGE, failure.kind, late=failure.late)
            raise ask.failed(choice, failure) from failure
        except BaseException as error:
            if SOONER not in error.args:
                journey.composed = choice.target
            self._ended(run, "abandoned", NO_USAGE)
            raise
        opened.run = run
        return opened

    async def relay(self, opened: Opened, outlet: Outlet) -> None:
        """Gives the client the last step's answer, or the one that is there."""
        run, opened.run = opened.run, None
        assert run is not None
        last = run.last
        run.journey.composed = run.choice.target
        if opened.watch is not None:
            self._live.first_token(run.flight, opened.first_at)
        try:
            if run.given is not None:
                self._give(run, opened, outlet, run.given)
            else:
                last.queued_s = opened.began - run.began
                await self._relay(last, opened, _Retold(run, opened, outlet))
        finally:
            self._adopt(run, opened)
            last.asked_enough()
            last.run = None  # it holds the journey, too

    def drop(self, run: Run) -> None:
        """Another was sooner: what was opened is given up."""
        self._ended(run, "abandoned", NO_USAGE)

    # ------------------------------------------------------------ steps

    async def _performed(self, run: Run, reason: Reason) -> Opened:
        machine = _MACHINES[run.composition.kind](
            run.composition, question_of(run.request), run.notes
        )
        try:
            asks = next(machine)
            while True:
                asks = machine.send(await self._together(run, asks))
        except StopIteration as ended:
            ending: Ending = ended.value
        if isinstance(ending, Given):
            return self._given(run, reason, ending.said)
        if isinstance(ending, Last):
            return await self._last(run, reason, ending)
        raise run.failure or AttemptFailed(
            run.choice.target, 503, ending.why, "setup", asked=False, again=False
        )

    async def _together(self, run: Run, asks: Sequence[Ask]) -> tuple[Heard, ...]:
        """What each call comes to. Where we are cancelled, so is every one of them."""
        requests = self._affordable(run, asks)
        if len(asks) == 1:
            return (await self._heard(run, asks[0], requests[0]),)
        tasks = [
            asyncio.create_task(self._heard(run, ask, request))
            for ask, request in zip(asks, requests, strict=True)
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            return tuple([task.result() for task in tasks if task.done()])
        except BaseException as error:
            for task in tasks:
                task.cancel(*error.args[:1])
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    def _affordable(self, run: Run, asks: Sequence[Ask]) -> list[Request | str]:
        """The request of each call, or why it must not be made, though each costs the most."""
        planned = 0.0
        found: list[Request | str] = []
        for ask in asks:
            request = asked(run.request, ask, last=False)
            might = planned + self._most(run, request, ask)
            why = self._too_dear(run, might)
            found.append(why or request)
            planned = planned if why else might
        return found

    async def _heard(self, run: Run, ask: Ask, request: Request | str) -> Heard:
        """What a step says, whole."""
        if isinstance(request, str):
            self._note(run, ask, f"not asked: {request}")
            return Failed(ask, request, too_dear=True)
        self._note(run, ask, "given up")
        journey = self._journey(run, request, ask)
        try:
            opened = await self._opened(run, journey, ask)
        except AttemptFailed as failure:
            return Failed(ask, failure.message)
        kept = _Kept()
        try:
            await self._relay(journey, opened, kept)
        finally:
            self._give_back(opened)
            journey.asked_enough()
        if journey.outcome != "ok":
            return self._no_answer(run, ask, journey.status, journey.error, "client")
        run.usage = both(run.usage, journey.usage)
        said = read(ask, kept.body)
        if said is None:
            return self._no_answer(run, ask, 502, "its answer cannot be read", "broken")
        self._note(run, ask, ANSWERED)
        if ask.probability and "logprobs" not in run.request.fields:
            said = msgspec.structs.replace(said, body=without_log_probabilities(said.body))
        return said

    def _no_answer(self, run: Run, ask: Ask, status: int, why: str, kind: Kind) -> Failed:
        """A step whose backend said something, but no answer."""
        self._note(run, ask, f"failed: {why}")
        why = f"step {ask.name}, {ask.target}: {why}"
        run.failure = AttemptFailed(run.choice.target, status, why, kind, again=False)
        return Failed(ask, why)

    async def _last(self, run: Run, reason: Reason, ending: Last) -> Opened:
        """The step whose answer is the client's, opened."""
        ask = ending.ask
        request = asked(run.request, ask, last=True)
        if why := self._too_dear(run, self._most(run, request, ask)):
            self._note(run, ask, f"not asked: {why}")
            if ending.instead is not None:
                return self._given(run, reason, ending.instead)
            raise run.failure or AttemptFailed(
                run.choice.target, 503, f"step {ask.name}: {why}", "setup", asked=False, again=False
            )
        self._note(run, ask, "given up")
        run.last = self._journey(run, request, ask)
        run.last.run = run
        opened = await self._opened(run, run.last, ask)
        self._note(run, ask, ANSWERED)
        return opened

    def _journey(self, run: Run, request: Request, ask: Ask) -> Journey:
        """A step's own way, on the request's plane, with its attempts and within its limits."""
        whole = run.journey
        decision = whole.decision
        assert decision is not None
        journey = Journey(request, whole.plane, whole.at, whole.began)
        journey.attempts, journey.recognition = whole.attempts, whole.recognition
        journey.conversation, journey.hold = whole.conversation, whole.hold
        journey.shadow_of = whole.shadow_of
        question = Question(
            route=decision.route,
            policy=decision.policy,
            needs=request.needs,
            caller=request.caller,
            only=ask.target,
            conversation=whole.conversation,
            stream=request.stream,
        )
        journey.decision = whole.plane.decider.decide(question, self._live, decision.draw)
        return journey

    async def _opened(self, run: Run, journey: Journey, ask: Ask) -> Opened:
        """A step's reply. Raises AttemptFailed in the composition's name."""
        decision = journey.decision
        assert decision is not None
        try:
            if not decision.ranked:
                why = "; ".join(out.reason for out in decision.ruled_out)
                raise AttemptFailed(ask.target, 502, why, "setup", asked=False)
            return await self._open_any(journey)
        except AttemptFailed as failure:
            journey.asked_enough()
            self._note(run, ask, f"failed: {failure.message}")
            run.failure = AttemptFailed(
                run.choice.target,
                failure.status,
                f"step {ask.name}, {ask.target}: {failure.message}",
                failure.kind,
                retry_after=failure.retry_after,
                late=failure.late,
                again=False,
            )
            raise run.failure from failure
        finally:
            run.journey.full += journey.full

    def _most(self, run: Run, request: Request, ask: Ask) -> float:
        """The dollars that a call may cost."""
        snapshot, decision = run.journey.plane.snapshot, run.journey.decision
        if run.composition.max_cost is None:
            return 0.0
        assert decision is not None
        return most_of(request, snapshot.targets[ask.target], self._live, decision.route)

    def _too_dear(self, run: Run, more: float) -> str:
        """Why what costs so much more must not be begun."""
        most, might = run.composition.max_cost, run.cost + more
        if most is None or might <= most:
            return ""
        return f"it might cost {dollars(might)} in all, over the {dollars(most)} of max_cost"

    def _note(self, run: Run, ask: Ask, came_to: str) -> None:
        run.came_to[ask.name] = StepTaken(ask.name, ask.target, came_to)

    # ------------------------------------------------------------ an answer that is there

    def _given(self, run: Run, reason: Reason, said: Said) -> Opened:
        """What stands for the reply of an answer that is there."""
        request = run.journey.request
        run.given = said.body
        run.last = Journey(request, run.journey.plane, run.journey.at, run.journey.began)
        run.last.attempts, run.last.decision = run.journey.attempts, run.journey.decision
        run.last.hold, run.last.run = run.journey.hold, run
        return Opened(
            reply=NO_REPLY,
            choice=run.choice,
            target=run.journey.plane.snapshot.targets[run.choice.target],
            flight=run.flight,
            entrance=None,
            reason=reason,
            shaped=Shaped(b"", (), False),
            began=run.began,
            first_at=self._clock(),
            piece=said.body,
            content_type=b"text/event-stream" if request.stream else b"application/json",
        )

    def _give(self, run: Run, opened: Opened, outlet: Outlet, body: bytes) -> None:
        """Gives the client a whole answer, as events where it asked for a stream."""
        last, request = run.last, run.journey.request
        last.status, last.outcome = 200, "ok"
        last.upstream_s = opened.first_at - run.began
        seen = usage_of(body, request.endpoint)
        last.completion_id = seen.id if seen is not None else None
        lines = self._lines(last, opened)
        if request.stream:
            # What is there at once is there with its first token.
            self._live.first_token(run.flight, opened.first_at)
            last.first_token_s = opened.first_at - run.began
            outlet.open(200, lines)
            outlet.write(events(body, run.usage if request.asks_usage else None))
            outlet.close()
        else:
            lines.append(b"x-switchboard-cost-usd: %.8f" % last.cost)
            outlet.plain(200, lines, with_usage(body, run.usage))
        if keeps_text(last):
            last.answer = text_of(body) if request.stream else body.decode(errors="replace")

    # ------------------------------------------------------------ what it came to

    def _adopt(self, run: Run, opened: Opened) -> None:
        """What the last step came to is what the request came to; usage is that of all."""
        journey, last = run.journey, run.last
        journey.status, journey.outcome, journey.error = last.status, last.outcome, last.error
        journey.completion_id, journey.answer = last.completion_id, last.answer
        journey.upstream_s, journey.overhead_s = last.upstream_s, last.overhead_s
        journey.usage = both(run.usage, last.usage)
        if last.first_token_s is not None:
            journey.first_token_s = opened.first_at - run.began
        told = last.usage
        if run.given is not None:
            seen = usage_of(run.given, journey.request.endpoint)
            told = (seen.usage if seen is not None else None) or run.usage
        outcome: Outcome = "error" if last.outcome == "truncated" else last.outcome
        late = journey.ask is not None and journey.ask.is_over(self._clock())
        kind: Kind = "client" if 400 <= last.status < 500 else "broken"
        self._ended(run, outcome, told, kind, late=late)

    def _ended(
        self, run: Run, outcome: Outcome, told: Usage, kind: Kind = "broken", *, late: bool = False
    ) -> None:
        """Books the composition as a whole; `told` is the usage of the answer that was given."""
        now, journey, live = self._clock(), run.journey, self._live
        decision = journey.decision
        assert decision is not None
        journey.decision = msgspec.structs.replace(decision, steps=run.steps)
        if outcome == "ok":
            self._learn(run, journey.teaches, told, now)
            live.finished(run.flight, now, told)
        elif outcome == "abandoned" or late or kind in OF_THE_REQUEST:
            live.abandoned(run.flight)
        else:
            live.failed(run.flight, now)

    def _learn(self, run: Run, route: str, told: Usage, now: float) -> None:
        price = run.flight.target.price
        tokens = run.journey.request.needs.input_tokens
        expected = tokens * price.input + told.output * price.output
        composition = run.composition
        asked_more = composition.kind == "cascade" and composition.steps[1].name in run.came_to
        seen = self._live.cost_of(route, composition, run.flight.target.whole_tail)
        seen.saw(run.cost, expected, more=asked_more, now=now)
        seen.lasted(now - run.began, run.choice.total_s)


def _with_own_system(journey: Journey, choice: Choice) -> Request:
    """The request, under the system prompt that the route's candidate has."""
    decision = journey.decision
    assert decision is not None
    if choice.candidate < 0:
        return journey.request
    route = journey.plane.snapshot.routes[decision.route]
    return under(journey.request, route.candidates[choice.candidate].system)


class _Kept:
    """Where a step's answer goes that no client gets."""

    opened = False

    def __init__(self) -> None:
        self.body = b""

    def plain(self, status: int, lines: Lines, body: bytes) -> None:
        """Keeps it."""
        self.body = body

    def open(self, status: int, lines: Lines) -> None:
        """No step before the last is asked for a stream."""

    def write(self, body: bytes) -> bool:
        return True

    async def drain(self) -> None:
        """There is nothing to wait for."""

    def close(self) -> None:
        """There is nothing to close."""

    def fail(self, error: ApiError) -> None:
        """The journey says what went wrong."""


class _Retold:
    """The client's side of a last step: its usage is told as that of all steps."""

    opened = False

    def __init__(self, run: Run, opened: Opened, outlet: Outlet) -> None:
        self._run = run
        self._opened = opened
        self._outlet = outlet
        self._owes_usage = run.journey.request.asks_usage
        self.drain = outlet.drain
        self.fail = outlet.fail

    def plain(self, status: int, lines: Lines, body: bytes) -> None:
        if status < 400:
            body = with_usage(body, both(self._run.usage, self._run.last.usage))
        self._outlet.plain(status, lines, body)

    def open(self, status: int, lines: Lines) -> None:
        self._outlet.open(status, lines)

    def write(self, body: bytes) -> bool:
        """Passes it on, with the usage before the end."""
        done = _DONE.search(body) if self._owes_usage else None
        if done is None:
            return self._outlet.write(body)
        return self._outlet.write(body[: done.start()] + self._usage() + body[done.start() :])

    def close(self) -> None:
        if self._owes_usage:
            self._outlet.write(self._usage())
        self._outlet.close()

    def _usage(self) -> bytes:
        self._owes_usage = False
        last = self._run.last
        watch = last.watch
        assert watch is not None
        # Where another goes on with an answer that broke off, its first part is in `last.usage`.
        before = both(self._run.usage, last.usage)
        usage = both(before, watch.usage or estimated(last, watch.events))
        first = self._opened.piece.partition(b"\n")[0].removeprefix(b"data:")
        return usage_event(first, usage)
