"""One request's whole way: recognise, decide, dispatch, relay, meter.

What the request keeps to its end is its `Plane`: one snapshot and what was built from it. A swap
replaces the pipeline's reference; requests under way finish on the plane that they began with.
`journey.py` has the values on the way, `refusals.py` sorts and words what fails on it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import msgspec

from gateway.adapters.canary import version_for
from gateway.admission.entrance import Entrance
from gateway.admission.entrances import Entrances
from gateway.admission.pace import alike
from gateway.backends.base import Call
from gateway.backends.shape import shape
from gateway.backends.verdict import message_of, openai_shaped, without_secrets
from gateway.composing import Composer, told_steps
from gateway.errors import (
    ApiError,
    AttemptsFailed,
    BadRequest,
    Kind,
    QueueFull,
    UpstreamClosed,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.experiments.ranking import with_arm_first
from gateway.journey import (
    NO_REPLY,
    NO_USAGE,
    Journey,
    Limiter,
    Lines,
    Opened,
    Outlet,
    Plane,
    decision_id,
    estimated,
    keeps_features,
    keeps_text,
    record,
    taken,
    unseen,
)
from gateway.learn.prompt import Prompt
from gateway.metering.prices import cost
from gateway.metering.usage import StreamWatch, estimated_output
from gateway.outlets import Disguised, Nobody, pumped
from gateway.policy.gates import sort_of
from gateway.policy.live import Live
from gateway.refusals import (
    OF_THE_REQUEST,
    TOO_MUCH,
    answer_in,
    broke_off,
    error_event,
    failure_of,
    gave_up,
    no_time_left,
    nothing_left,
    overloaded,
    refusal_inside,
    refusal_of,
    told_as_text,
)
from gateway.resilience.base import (
    NEVER,
    RULES,
    Ask,
    AttemptFailed,
    Once,
    Reason,
    Shut,
    gathered,
)
from gateway.resilience.breaker import Breakers, Broken
from gateway.resilience.carry import (
    Disguise,
    both,
    carried_on,
    has_room,
    is_all_text,
    may_be_carried_on,
)
from gateway.resilience.hedge import SOONER
from gateway.transport.bodies import decoded, read_all
from gateway.types.compositions import BACKEND
from gateway.types.decisions import Choice, Decision, Question
from gateway.types.records import Attempt, Made, Outcome, Record, Usage
from gateway.types.requests import Caller, Endpoint, Recognition, Request
from gateway.types.routes import Candidate
from gateway.types.snapshot import Snapshot

SHADOW = Caller(name="shadow")
"""Who asks for what nobody waits for."""

READ_WITHIN_S = 1.0
"""How long the record of an answer waits for its prompt's features, if they are to be kept."""

LEFT = "the client went away"
"""Says of a request, or of an attempt, why it was given up."""

CLIENT_GONE = 499
"""nginx's status for a request whose client went away before there was an answer."""


class Pipeline:
    """Everything between a parsed request and the client's answer."""

    def __init__(
        self,
        plane: Plane,
        live: Live,
        entrances: Entrances,
        *,
        keep: Callable[[Record], None],
        clock: Callable[[], float],
        now: Callable[[], float],
        draw: Callable[[], float],
        maker: Callable[[str], Awaitable[Made | None]],
        limiter: Limiter,
        breakers: Breakers,
        ended: Callable[[Journey], None],
    ) -> None:
        """`keep` takes each finished record; `maker` tells which target made a completion;
        `limiter` lets requests in; `breakers` are told what fails; `ended` sees each journey
        at its end, where a route has a shadow."""
        self.plane = plane
        self.live = live
        self._limiter = limiter
        self._entrances = entrances
        self._breakers = breakers
        self._goes_on = Broken(Once(), lambda: live.estimates, clock)
        self._keep = keep
        self._clock = clock
        self._now = now
        self._draw = draw
        self.maker = maker
        self._at_end = ended
        self._composer = Composer(
            live, clock, self._open_any, self._relay, self._lines, self._give_back
        )

    # ------------------------------------------------------------ the way

    async def serve(self, request: Request, outlet: Outlet) -> None:
        """Answers the request through `outlet`; raises ApiError when nothing was sent yet."""
        journey = Journey(request, self.plane, self._now(), self._clock())
        try:
            await self.decide(journey)
            limiter = self._limiter
            if limiter.on:
                snapshot, decision = journey.plane.snapshot, journey.decision
                assert decision is not None
                if limiter.is_shared:
                    journey.hold = await limiter.admit_shared(request, decision, snapshot)
                else:
                    journey.hold = limiter.admit(request, decision, snapshot)
            _read_beside(journey)
            opened = await self._dispatch(journey)
            try:
                await self._relay(journey, opened, outlet)
            finally:
                self._give_back(opened)
        except ApiError as error:
            journey.status, journey.error = error.status, error.message
            journey.outcome = "error" if isinstance(error, AttemptsFailed) else "refused"
            raise
        except asyncio.CancelledError:
            journey.outcome, journey.error = "abandoned", LEFT
            journey.status = journey.status or CLIENT_GONE
            raise
        except Exception as error:
            journey.status, journey.error = 500, repr(error)
            raise
        finally:
            ended = self._clock()
            if journey.hold is not None:
                journey.hold.settle(taken(journey), journey.cost, ended)
            total_s = ended - journey.began
            try:
                # Who has the answer may go: that comes too late to be called abandoned.
                if journey.reading is not None and journey.outcome == "ok":
                    await asyncio.wait((journey.reading,), timeout=READ_WITHIN_S)
            finally:
                self._keep(record(journey, total_s))
                if journey.reading is not None:
                    journey.reading.cancel()
            journey.asked_enough()
            if journey.plane.shadows:
                self._at_end(journey)

    async def copy(self, of: Journey, target: str) -> float:
        """Has `target` answer an answered request once more, for nobody; its cost in dollars.

        Nothing of it counts as the caller's. Where facts rule the target out nothing is asked.
        """
        request, plane = of.request, self.plane
        assert of.decision is not None
        request = msgspec.structs.replace(
            request, id=f"{request.id}-shadow", caller=SHADOW, within_s=None, ref=None, episode=None
        )
        journey = Journey(request, plane, self._now(), self._clock())
        journey.shadow_of, journey.recognition = of.request.id, of.recognition
        route, policy = of.decision.route, of.decision.policy
        if route not in plane.snapshot.routes or policy not in plane.snapshot.policies:
            return 0.0
        question = Question(route, policy, request.needs, SHADOW, target, stream=request.stream)
        self.live.advance(journey.began)
        journey.decision = plane.decider.decide(question, self.live, of.decision.draw)
        if not journey.decision.ranked:
            return 0.0
        try:
            opened = await self._dispatch(journey)
            try:
                await self._relay(journey, opened, Nobody())
            finally:
                self._give_back(opened)
        except ApiError as error:
            journey.status, journey.error, journey.outcome = error.status, error.message, "error"
        finally:
            self._keep(record(journey, self._clock() - journey.began))
            journey.asked_enough()
        return journey.cost

    async def consider(self, request: Request) -> tuple[Recognition, Decision]:
        """What would be decided for this request; nothing is sent, kept or remembered."""
        plane = self.plane
        recognition, question, _ = await self._asked(plane, request)
        decision = plane.decider.decide(question, self.live, self._draw())
        return recognition, self._on_trial(plane, request, question, decision, self._now())

    async def decide(self, journey: Journey) -> None:
        """Recognises the route and ranks its candidates; raises ApiError if none is left."""
        plane = journey.plane
        journey.recognition, question, journey.prompt = await self._asked(plane, journey.request)
        journey.conversation = question.conversation
        self.live.advance(journey.began)
        decision = plane.decider.decide(question, self.live, self._draw())
        self.live.chose(question, decision)
        if plane.lanes:
            decision = self._on_trial(plane, journey.request, question, decision, journey.at)
        journey.decision = decision
        if not decision.ranked:
            raise nothing_left(decision)

    def _on_trial(
        self, plane: Plane, request: Request, question: Question, decision: Decision, at: float
    ) -> Decision:
        """The decision as the experiments of its route change it."""
        lanes = plane.lanes.get(question.route)
        assigned = lanes.assigned(request, at) if lanes is not None else None
        if assigned is None:
            return decision

        def named(target: str) -> Sequence[Choice]:
            only = msgspec.structs.replace(question, only=target)
            return plane.decider.decide(only, self.live, decision.draw).ranked

        return with_arm_first(question, decision, assigned, named)

    async def _asked(
        self, plane: Plane, request: Request
    ) -> tuple[Recognition, Question, Prompt | None]:
        """The request as `decide` is asked it, and its prompt, read where that was needed."""
        recognised = await plane.recogniser.recognise(request)
        only, at = recognised.only, None
        if request.previous is not None:
            made = await self._made_by(request.previous, request.caller)
            if made is not None:
                only, at = made.target, made.replica
        qualities = prompt = None
        kind = plane.kind()
        if kind is not None and request.turns:
            prompt = Prompt(request.turns[0], kind, recognised.computed)
            learned = plane.learned.get(recognised.recognition.route)
            by_prompt = plane.snapshot.policies[recognised.policy].learned
            if by_prompt and learned is not None and learned.kind == kind.name:
                read = await prompt.read()
                qualities = learned.qualities(read) if read is not None else None
        question = Question(
            route=recognised.recognition.route,
            policy=recognised.policy,
            needs=request.needs,
            caller=request.caller,
            only=only,
            conversation=hash((request.caller.key, request.turns[-1])) if request.turns else 0,
            stream=request.stream,
            qualities=qualities,
            at=at,
        )
        return recognised.recognition, question, prompt

    async def _made_by(self, response: str, caller: Caller) -> Made | None:
        """A response is kept where it was made, so what continues it must go there; by whom it was
        made for, or for whose tenant: to others it is as if not there."""
        made = await self.maker(response)
        if made is None:
            return None
        why = None
        if not caller.owns(made.key, made.tenant):
            why = f"There is no response '{response}'."
        elif made.target is not None and made.target not in self.plane.snapshot.targets:
            why = f"'{response}' was made by {made.target}, which is no longer declared."
        if why is not None:
            raise BadRequest(why, param="previous_response_id", code="previous_response_not_found")
        return made

    # ------------------------------------------------------------ dispatch

    async def _dispatch(self, journey: Journey) -> Opened:
        try:
            return await self._open_any(journey)
        except AttemptFailed as last:
            assert journey.ask is not None
            failures = [failure for _, failure in journey.ask.failures]
            raise overloaded(journey, failures) or gathered(failures) from last

    async def _open_any(self, journey: Journey) -> Opened:
        """The first of the ranked choices that opens. Raises AttemptFailed."""
        decision, plane = journey.decision, journey.plane
        assert decision is not None
        ask = journey.ask = Ask(
            partial(self._attempt, journey),
            plane.snapshot.targets,
            journey.began,
            journey.request.within_s,
            journey.request.needs,
            journey.request.stream,
            partial(self._drop, journey),
        )
        choices = decision.ranked
        if decision.ruled_out:
            choices += decision.last_resorts
        return await plane.ways[decision.policy].open(ask, choices, "first")

    async def _attempt(self, journey: Journey, choice: Choice, reason: Reason) -> Opened:
        """One upstream call, up to its first piece. Raises AttemptFailed."""
        request, plane, ask = journey.request, journey.plane, journey.ask
        assert ask is not None
        assert journey.decision is not None
        target = plane.snapshot.targets[choice.target]
        if target.backend == BACKEND:
            return await self._composer.open(journey, choice, reason)
        journey.composed = ""
        if target.canary is not None and reason == "first":
            target = version_for(plane.snapshot, target, target.canary, request)
        if reason == "continue":
            request = carried_on(request, target, *journey.so_far)
        shaped = shape(request, target, _candidate(plane.snapshot, journey, choice))
        adapter = target.served if target.adapter is not None else None
        entrance = self._entrances.at(target.backend, choice.replica)
        if not entrance.enter():
            await self._in_line(journey, entrance, choice)
        began = self._clock()
        left = None if ask.until == NEVER else ask.until - began
        if left is not None and left <= 0.0:
            entrance.back_out(began)
            raise ask.failed(choice, no_time_left(target.name))
        call = Call(
            choice.replica, _PATHS[request.endpoint], shaped.body, adapter=adapter, within_s=left
        )
        flight = self.live.started(target, choice.replica, journey.teaches, began)
        opened = Opened(
            reply=NO_REPLY,
            choice=choice,
            target=target,
            flight=flight,
            entrance=entrance,
            reason=reason,
            shaped=shaped,
            began=began,
            first_at=began,
            piece=b"",
            content_type=b"",
        )
        try:
            if left is None and ask.patience_s is None:
                await self._open(journey, opened, call)
            else:
                await self._open_within(left, ask, journey, opened, call)
        except UpstreamError as error:
            raise self._failed(journey, opened, error) from error
        except asyncio.CancelledError as cancelled:
            opened.reply.abort()
            why = SOONER if SOONER in cancelled.args else LEFT
            self._ended(journey, opened, "abandoned", why, 0, unseen(journey))
            raise
        except BaseException:
            self._give_back(opened)
            raise
        return opened

    def _failed(self, journey: Journey, opened: Opened, error: UpstreamError) -> AttemptFailed:
        """Books an attempt that failed before its first piece."""
        failure = failure_of(opened.target.name, error)
        ask = journey.ask
        assert ask is not None
        now = self._clock()
        failure.late = failure.kind == "timeout" and ask.is_over(now)
        if failure.kind == "busy" and failure.retry_after and failure.again:
            snapshot, replica = journey.plane.snapshot, opened.choice.replica
            why, seconds = failure.message, failure.retry_after
            self._breakers.rest(snapshot, opened.target, replica, seconds, why, now)
        outcome: Outcome = "abandoned" if failure.late else "error"
        usage = unseen(journey) if gave_up(error) else NO_USAGE
        self._ended(journey, opened, outcome, failure.message, failure.status, usage, failure.kind)
        return ask.failed(opened.choice, failure)

    def _drop(self, journey: Journey, opened: Opened, why: str | None) -> None:
        """Gives up what has opened and nobody takes: another was sooner, or the client has gone."""
        if opened.run is not None:
            self._composer.drop(opened.run)
        opened.reply.abort()
        if opened.entrance is None:
            return
        status = opened.reply.status
        self._ended(journey, opened, "abandoned", why or LEFT, status, unseen(journey))

    def _give_back(self, opened: Opened) -> None:
        """Whatever went wrong, and be it an error of our own: a place is not kept for ever."""
        if opened.entrance is not None:
            opened.entrance.back_out(self._clock())
            opened.entrance = None
            self.live.abandoned(opened.flight)

    async def _in_line(self, journey: Journey, entrance: Entrance, choice: Choice) -> None:
        """Waits for a place at a replica. Raises AttemptFailed where there is no sense in that."""
        decision, ask, now = journey.decision, journey.ask, self._clock()
        if journey.shadow_of is not None:
            assert ask is not None
            full = QueueFull("a copy does not wait in line", 0.0)
            raise ask.failed(choice, failure_of(choice.target, full))
        assert decision is not None
        assert ask is not None
        snapshot = journey.plane.snapshot
        flow = (journey.request.caller.key or "", snapshot.routes[decision.route].priority)
        # What it takes of the backend is no more for those who wait before it, or it would be
        # charged for having come late, and stand behind a key that fills the line.
        estimate = self.live.estimate(snapshot.targets[choice.target], choice.replica)
        takes_s = estimate.first_s + choice.total_s - choice.first_token_s
        try:
            await self._entrances.wait(entrance, flow, takes_s, ask.until - now)
        except QueueFull as error:
            journey.full += (error,)
            raise ask.failed(choice, failure_of(choice.target, error)) from error
        finally:
            journey.queued_s += self._clock() - now

    async def _open(self, journey: Journey, opened: Opened, call: Call) -> None:
        opened.reply = await journey.plane.backends[opened.target.backend].send(call)
        await self._first_piece(journey, opened)

    async def _open_within(
        self, left: float | None, ask: Ask[Opened], journey: Journey, opened: Opened, call: Call
    ) -> None:
        """As `_open`, whatever is waited for: a load, a model's turn, or the backend."""
        patience = ask.patience_s if journey.request.stream else None
        hurried = patience is not None and (left is None or patience < left)
        try:
            async with asyncio.timeout(patience if hurried else left):
                await self._open(journey, opened, call)
        except TimeoutError:
            opened.reply.abort()
            if hurried:
                assert patience is not None
                raise UpstreamTimeout("first_token", patience) from None
            raise UpstreamTimeout("total", ask.within_s or 0.0) from None

    async def _first_piece(self, journey: Journey, opened: Opened) -> None:
        """Reads what must be known before anything is sent on; raises for a failed attempt."""
        reply, request = opened.reply, journey.request
        streams = False
        encoding = b""
        for name, value in reply.headers:
            if name == b"content-type":
                opened.content_type = value
                streams = value[:17].lower() == b"text/event-stream"
            elif name == b"content-encoding":
                encoding = value
        if reply.status >= 400:
            body = decoded(await read_all(reply), encoding)
            opened.first_at = self._clock()
            declared = journey.plane.snapshot.backends[opened.target.backend]
            body = without_secrets(body, declared)
            failure = refusal_of(opened.target.name, reply, body, self._now())
            if failure.kind != "client":
                raise failure
            opened.piece = body
        elif not streams:
            body = decoded(await read_all(reply), encoding)
            opened.first_at = self._clock()
            opened.seen = answer_in(opened, body, journey)
            if not opened.content_type.startswith(b"application/json"):
                opened.content_type = b""  # it is JSON, and clients may go by what it is called
            opened.piece = body
        elif not request.stream:
            reply.abort()
            raise AttemptFailed(opened.target.name, 502, "streams, though not asked to")
        else:
            await self._first_events(journey, opened, encoding)

    async def _first_events(self, journey: Journey, opened: Opened, encoding: bytes) -> None:
        """A stream's opening."""
        reply, request = opened.reply, journey.request
        if encoding not in (b"", b"identity"):
            reply.abort()
            raise AttemptFailed(
                opened.target.name, 502, f"streams in {encoding.decode()}, though not asked to"
            )
        watch = StreamWatch(
            opened.shaped.hide_usage,
            request.endpoint,
            choices=request.choices,
            keep_text=keeps_text(journey) or _carries_on(journey),
        )
        piece = await self._opening(opened, watch)
        opened.first_at = self._clock()
        if watch.errored:
            reply.abort()
            event = watch.error_text.encode() or error_event(piece)
            raise refusal_inside(journey, opened, event)
        opened.piece = piece
        opened.watch = watch

    async def _opening(self, opened: Opened, watch: StreamWatch) -> bytes:
        """The first bytes to relay: an error before the first event can still be a real status."""
        out = b""
        while not out:
            piece = await opened.reply.read()
            if not piece:
                out = watch.close()
                if watch.truncated:
                    raise UpstreamClosed("the stream ended at once")
                return out
            out = watch.feed(piece)
        return out

    # ------------------------------------------------------------ relay

    async def _relay(self, journey: Journey, opened: Opened, outlet: Outlet) -> None:
        if opened.run is not None:
            await self._composer.relay(opened, outlet)
            return
        journey.composed = ""
        journey.upstream_s = opened.first_at - opened.began
        journey.status = opened.reply.status
        if opened.watch is None:
            self._relay_plain(journey, opened, outlet)
        else:
            await self._relay_stream(journey, opened, opened.watch, outlet)

    def _relay_plain(self, journey: Journey, opened: Opened, outlet: Outlet) -> None:
        body, status = opened.piece, opened.reply.status
        if status >= 400:
            journey.error = message_of(status, body)
            body = openai_shaped(status, body)
            opened.content_type = b"application/json"
            self._ended(journey, opened, "error", journey.error, status, NO_USAGE, "client")
        else:
            seen = opened.seen
            assert seen is not None
            endpoint = journey.request.endpoint
            journey.completion_id = seen.id
            journey.usage = seen.usage or estimated(journey, estimated_output(body, endpoint))
            journey.outcome = "ok"
            self._ended(journey, opened, "ok", "", status, journey.usage)
            if keeps_text(journey):
                journey.answer = body.decode(errors="replace")
        lines = self._lines(journey, opened)
        lines.append(b"x-switchboard-cost-usd: %.8f" % journey.cost)
        outlet.plain(status, lines, body)

    async def _relay_stream(
        self, journey: Journey, opened: Opened, watch: StreamWatch, outlet: Outlet
    ) -> None:
        """Opens the client's stream and passes on what comes."""
        outlet.open(opened.reply.status, self._lines(journey, opened))
        await self._pass_on(journey, opened, watch, outlet)

    async def _pass_on(
        self, journey: Journey, opened: Opened, watch: StreamWatch, outlet: Outlet
    ) -> None:
        """Passes each piece on as it arrives; a broken upstream ends in an error event, unless
        another goes on with its answer."""
        reply = opened.reply
        journey.watch = watch
        self.live.first_token(opened.flight, opened.first_at)
        if opened.entrance is not None and self._entrances.punctual():
            sort = alike(opened.target.name, journey.request.needs.input_tokens, None)
            opened.entrance.began(sort, opened.first_at - opened.began, opened.first_at)
        try:
            room = partial(self._room, journey, outlet)
            if not outlet.write(opened.piece):
                await room()
            await pumped(reply, watch, outlet, room)
            tail = watch.close()
            if watch.truncated:
                raise UpstreamClosed("the backend ended its stream before the answer was whole")
            if tail:
                outlet.write(tail)
            if watch.error_text:
                outlet.fail(told_as_text(watch))
            else:
                outlet.close()
        except UpstreamError as error:
            self._seen(journey, opened, watch, "truncated", str(error))
            if not await self._carried_on(journey, opened, watch, outlet):
                outlet.fail(broke_off(error))
        except asyncio.CancelledError:
            self._seen(journey, opened, watch, "abandoned", LEFT)
            raise
        else:
            outcome: Outcome = "error" if watch.errored else "ok"
            self._seen(journey, opened, watch, outcome, "")
        finally:
            reply.abort()

    async def _room(self, journey: Journey, outlet: Outlet) -> None:
        """Waits for a client that has fallen behind, but no longer than its request has time."""
        ask = journey.ask
        if ask is None or ask.until == NEVER:
            await outlet.drain()
            return
        try:
            async with asyncio.timeout(max(0.0, ask.until - self._clock())):
                await outlet.drain()
        except TimeoutError:
            raise UpstreamTimeout("total", ask.within_s or 0.0) from None

    async def _carried_on(
        self, journey: Journey, broken: Opened, watch: StreamWatch, outlet: Outlet
    ) -> bool:
        """Whether another candidate has gone on with an answer that broke off, or begun to."""
        if watch.finished or watch.errored or not _carries_on(journey):
            return False
        text, tokens = journey.so_far
        text, tokens = text + watch.text, tokens + watch.events
        if not is_all_text(watch.text, watch.events) or not has_room(journey.request, tokens):
            return False
        journey.so_far = (text, tokens)
        opened = await self._next_for(journey, broken)
        if opened is None or opened.watch is None:
            return False
        usage, first_token_s = journey.usage, journey.first_token_s
        disguised = Disguised(Disguise(broken.piece, watch.events), outlet)
        try:
            await self._pass_on(journey, opened, opened.watch, disguised)
        finally:
            self._give_back(opened)
        journey.usage = both(usage, journey.usage)
        journey.first_token_s = first_token_s
        journey.completion_id = watch.completion_id
        if journey.answer is not None:
            journey.answer = watch.text + journey.answer
        return True

    async def _next_for(self, journey: Journey, broken: Opened) -> Opened | None:
        """The first of the others that goes on with it."""
        ask, decision = journey.ask, journey.decision
        assert ask is not None
        assert decision is not None
        ask.failed(broken.choice, AttemptFailed(broken.target.name, 502, "broke off"))
        tries = journey.plane.snapshot.policies[decision.policy].tries
        compositions = journey.plane.snapshot.compositions  # they go on with nothing
        for choice in decision.ranked + decision.last_resorts:
            if ask.tried >= tries or ask.is_over(self._clock()):
                break
            if not ask.may_take(choice) or choice.target in compositions:
                continue
            try:
                opened = await self._goes_on.open(ask, (choice,), "continue")
            except (AttemptFailed, Shut):
                continue
            if opened.watch is not None:
                return opened
            # It judges how it is asked to go on, which no client has written: the next may take it.
            status = opened.reply.status
            why = message_of(status, opened.piece)
            self._ended(journey, opened, "error", why, status, NO_USAGE, "client")
            ask.failed(choice, AttemptFailed(opened.target.name, status, why))
        return None

    def _lines(self, journey: Journey, opened: Opened) -> Lines:
        """The answer's head, and the moment at which our own share of the time is known."""
        decision, request_id = journey.decision, journey.request.id
        assert decision is not None
        journey.overhead_s = self._clock() - journey.began - journey.upstream_s - journey.queued_s
        lines = [
            b"content-type: " + (opened.content_type or b"application/json"),
            b"x-request-id: " + request_id.encode(),
            b"x-switchboard-route: " + decision.route.encode(),
            b"x-switchboard-target: " + _answering(journey, opened).encode(),
            b"x-switchboard-attempts: %d" % (len(journey.attempts) + (opened.watch is not None)),
            b"x-switchboard-decision: " + decision_id(request_id).encode(),
            b"x-switchboard-overhead-ms: %.3f" % (journey.overhead_s * 1e3),
        ]
        if journey.run is not None:
            lines.append(b"x-switchboard-steps: " + told_steps(journey.run).encode())
        if journey.hold is not None:
            lines += journey.hold.lines
        return lines

    # ------------------------------------------------------------ meter

    def _seen(
        self, journey: Journey, opened: Opened, watch: StreamWatch, outcome: Outcome, error: str
    ) -> None:
        """Closes a stream's account from what its watch saw."""
        journey.outcome, journey.error = outcome, error
        journey.completion_id = watch.completion_id
        journey.usage = watch.usage or estimated(journey, watch.events)
        journey.first_token_s = opened.first_at - opened.began
        if keeps_text(journey):
            journey.answer = watch.text
        # When it is the request's own time that is over, no backend is to blame.
        late = journey.ask is not None and journey.ask.is_over(self._clock())
        kind: Kind = "client" if late else "broken"
        self._ended(journey, opened, outcome, error, opened.reply.status, journey.usage, kind)

    def _ended(
        self,
        journey: Journey,
        opened: Opened,
        outcome: Outcome,
        error: str,
        status: int,
        usage: Usage,
        kind: Kind = "broken",
    ) -> None:
        """Books one attempt: its row, its money, and what it teaches about the target.

        `kind` is of a failure.
        """
        now = self._clock()
        entrance, opened.entrance = opened.entrance, None
        assert entrance is not None
        total = now - opened.began
        if outcome != "ok" or not self._entrances.punctual():
            entrance.leave(total, now, answered=outcome == "ok")
        elif opened.watch is not None:
            entrance.leave(total, now, answered=True, first_s=opened.first_at - opened.began)
        else:
            sort = alike(opened.target.name, journey.request.needs.input_tokens, usage.output)
            entrance.leave(total, now, answered=True, sort=sort)
        if outcome == "error" and status in TOO_MUCH:
            entrance.busy(now)
        target, replica = opened.target, opened.choice.replica
        dollars = cost(usage, target.price)
        journey.attempts.append(
            Attempt(
                target=target.name,
                replica=replica,
                reason=opened.reason,
                started=journey.at + (opened.began - journey.began),
                status=status,
                outcome=outcome,
                error=error,
                usage=usage,
                cost=dollars,
                first_token_s=opened.first_at - opened.began if opened.piece else None,
                total_s=total,
                changed=opened.shaped.changed,
            )
        )
        if outcome == "ok":
            self.live.finished(opened.flight, now, usage)
            if journey.conversation and len(target.replicas) > 1:
                self.live.talked(target.name, journey.conversation, replica, usage)
            if opened.flight.estimate.gate is not None:
                self._breakers.answered(target, replica, _sort(journey), now)
        elif outcome == "abandoned" or kind in OF_THE_REQUEST:
            if error is SOONER and journey.request.stream:
                self.live.outrun(opened.flight, now)
            else:
                self.live.abandoned(opened.flight)
            if opened.flight.estimate.gate is not None:
                self._breakers.left(target, replica, _sort(journey))
        else:
            self.live.failed(opened.flight, now, connected=kind != "away")
            self._blame(journey, opened, kind, error, now)

    def _blame(self, journey: Journey, opened: Opened, kind: Kind, why: str, now: float) -> None:
        """Tells the breaker of a failure that speaks against its target."""
        target, replica, sort = opened.target, opened.choice.replica, _sort(journey)
        assert journey.decision is not None
        rule = journey.plane.snapshot.policies[journey.decision.policy].breaking
        if rule is None or not RULES[kind].counts:
            self._breakers.left(target, replica, sort)
            return
        connected = kind != "away"
        self._breakers.failed(target, replica, sort, rule, now, why, connected=connected)


_PATHS = {endpoint: b"/" + endpoint.value.encode() for endpoint in Endpoint}


def _read_beside(journey: Journey) -> None:
    """Has the prompt encoded while its answer comes, where its features are to be kept and nobody
    has needed them yet."""
    prompt = journey.prompt
    if prompt is not None and not prompt.is_quick and keeps_features(journey):
        journey.reading = asyncio.create_task(prompt.read())


def _candidate(snapshot: Snapshot, journey: Journey, choice: Choice) -> Candidate | None:
    decision = journey.decision
    if decision is None or choice.candidate < 0:
        return None
    return snapshot.routes[decision.route].candidates[choice.candidate]


def _answering(journey: Journey, opened: Opened) -> str:
    return opened.target.name if journey.run is None else journey.run.composition.target


def _carries_on(journey: Journey) -> bool:
    decision = journey.decision
    assert decision is not None
    policy = journey.plane.snapshot.policies[decision.policy]
    return policy.carry_on and may_be_carried_on(journey.request)


def _sort(journey: Journey) -> str:
    return sort_of(journey.request.needs, journey.request.stream)
