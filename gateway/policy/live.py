"""What `decide` reads that changes from second to second: estimates by target, replica and route.

Time comes in as `now` (seconds of any steady clock): nothing here reads a clock.
"""

from collections.abc import Iterable
from typing import Protocol

from gateway.policy.estimates import TAIL, Estimate, Output, Replica, Share, Spent
from gateway.types.backends import Target
from gateway.types.compositions import Composition
from gateway.types.decisions import Decision, Question
from gateway.types.records import Usage

CONVERSATIONS = 20_000
"""Conversations whose replica is remembered; the ones that went on last."""
REFRESH_S = 2.0
"""How often unused estimates are brought up to date."""


class Witness(Protocol):
    """Who learns from first tokens what replicas hold. `asked` is when the attempt was started."""

    def first_token(
        self, replica: str, served: str, asked: float, seconds: float, warm_s: float, load_s: float
    ) -> float: ...

    def no_answer(self, replica: str, served: str, asked: float) -> None: ...


class Flight:
    """One attempt under way: made by `Live.started`, ended once by one of its fellows."""

    __slots__ = ("estimate", "first_s", "queue", "replica", "route", "started", "target", "url")

    def __init__(
        self,
        target: Target,
        route: str,
        estimate: Estimate,
        replica: Replica,
        url: str,
        queue: int,
        started: float,
    ) -> None:
        self.target = target
        self.route = route
        self.estimate = estimate
        self.replica = replica
        self.url = url
        self.queue = queue
        self.started = started
        self.first_s: float | None = None


class Live:
    """Everything `decide` reads that changes from second to second.

    Keys: `estimates` by (target, replica), `replicas` by base URL, `outputs` by (route, target),
    `cached` by target, `spent` by (route, composition's target), `incumbents` by (route, policy),
    `prefixes` (where a conversation's beginning was read last, and its tokens) by (target,
    conversation), `witnesses` by backend. What is missing from them has not been seen yet: the
    reader takes the prior.

        live.advance(now); decision = decider.decide(question, live, draw)
        live.chose(question, decision)
        flight = live.started(target, replica, route, now)
        live.first_token(flight, now)                 # streams only
        live.finished(flight, now, usage)             # or failed(flight, now), abandoned(flight)
    """

    __slots__ = (
        "_next",
        "cached",
        "estimates",
        "incumbents",
        "now",
        "outputs",
        "prefixes",
        "replicas",
        "spent",
        "witnesses",
    )

    def __init__(self) -> None:
        self.estimates: dict[tuple[str, str], Estimate] = {}
        self.replicas: dict[str, Replica] = {}
        self.outputs: dict[tuple[str, str], Output] = {}
        self.cached: dict[str, Share] = {}
        self.spent: dict[tuple[str, str], Spent] = {}
        self.incumbents: dict[tuple[str, str], str] = {}
        self.prefixes: dict[tuple[str, int], tuple[str, int]] = {}
        self.witnesses: dict[str, Witness] = {}
        self.now = 0.0
        self._next = float("-inf")

    def advance(self, now: float) -> None:
        """Bring estimates up to `now`; nearly free when that was done a moment ago."""
        self.now = now
        if now < self._next:
            return
        self._next = now + REFRESH_S
        for estimate in self.estimates.values():
            estimate.fade(now)
        for output in self.outputs.values():
            output.fade(now)
        for replica in self.replicas.values():
            if replica.failures.lost_s:
                replica.failures.fade(now)
                replica.publish()

    def chose(self, question: Question, decision: Decision) -> None:
        """Remember the incumbent of (route, policy).

        Choices that were named, explored, or made with something left out do not count.
        """
        by_chance = decision.explored or decision.withheld
        if decision.ranked and question.only is None and not by_chance:
            key = (question.route, question.policy)
            self.incumbents[key] = decision.ranked[0].target

    def started(self, target: Target, replica: str, route: str, now: float) -> Flight:
        """An attempt is being sent to `target` at `replica`."""
        estimate = self.estimate(target, replica)
        server = self.server(replica)
        queue = server.in_line
        server.began()
        return Flight(target, route, estimate, server, replica, queue, now)

    def first_token(self, flight: Flight, now: float) -> None:
        """The first token of a stream has come."""
        if flight.first_s is None:
            estimate = flight.estimate
            ready_at = max(estimate.loaded_at, flight.replica.ready_at)
            flight.first_s = now - max(flight.started, ready_at)
            warm_s = estimate.first_s + estimate.queue_s * flight.queue
            loading_s = self._loading(flight, flight.first_s, warm_s)
            estimate.saw_first_token(flight.first_s - loading_s, flight.queue, now)

    def finished(self, flight: Flight, now: float, usage: Usage) -> None:
        """The whole answer has come. Of a plain answer only the whole time is known: it is split
        between first token and generation as expected before."""
        flight.replica.ended()
        estimate = flight.estimate
        started, loaded_at, woke_at = flight.started, estimate.loaded_at, flight.replica.ready_at
        if loaded_at > started or woke_at > started:
            # What was loaded meanwhile says nothing about the next request's first token.
            started = max(started, min(max(loaded_at, woke_at), now))
        total = now - started
        first = flight.first_s
        if first is None:
            expected = estimate.first_s + estimate.queue_s * flight.queue
            warm_s = expected + usage.output * estimate.token_s
            total -= self._loading(flight, total, warm_s)
            first = total * expected / warm_s
            estimate.saw_first_token(first, flight.queue, now)
        if usage.output > 1:
            estimate.saw_tokens(usage.output - 1, max(0.0, total - first), now)
        estimate.answered(now)
        self._server_answered(flight.replica, now)
        if not usage.estimated:
            self._saw_usage(flight, usage, now)

    def failed(self, flight: Flight, now: float, *, connected: bool = True) -> None:
        """The attempt failed: at the server as a whole if it did not even connect."""
        flight.replica.ended()
        self._no_answer(flight)
        seconds = now - flight.started
        if connected:
            flight.estimate.failed(seconds, now)
        else:
            flight.replica.failures.failed(seconds, now)
            flight.replica.publish()

    def outrun(self, flight: Flight, now: float) -> None:
        """The attempt was given up, since another was sooner: its first token would have come
        later than now. That is the least that it took, and counted as such."""
        if flight.first_s is None:
            ready_at = max(flight.estimate.loaded_at, flight.replica.ready_at)
            seconds = now - max(flight.started, min(ready_at, now))
            flight.estimate.saw_first_token(seconds, flight.queue, now)
        self.abandoned(flight)

    def abandoned(self, flight: Flight) -> None:
        """The client went away: says nothing about the target."""
        flight.replica.ended()
        self._no_answer(flight)

    def talked(self, target: str, conversation: int, replica: str, usage: Usage) -> None:
        """`replica` has in its prefix cache what it has just read and written."""
        key = (target, conversation)
        self.prefixes.pop(key, None)
        self.prefixes[key] = (replica, usage.input + usage.output)
        if len(self.prefixes) > CONVERSATIONS:
            del self.prefixes[next(iter(self.prefixes))]

    def resident(
        self,
        target: Target,
        replica: str,
        loaded: float,
        load_s: float | None = None,
        spare: float = 0.0,
    ) -> None:
        """What is known of an adapter: P(resident), the seconds that loading takes if they are
        known, and P(a load here makes a copy to spare)."""
        self.estimate(target, replica).told(loaded, load_s, spare)

    def loaded(self, target: Target, replica: str, now: float) -> None:
        """A load has just ended: requests that waited for it say nothing of the next one's wait."""
        self.estimate(target, replica).loaded_at = now

    def bar(self, target: Target, replica: str, reason: str) -> None:
        """The replica is out of this target's choice, and of no other's; "" lets it in again."""
        self.estimate(target, replica).barred = reason

    def woke(self, replica: str, now: float) -> None:
        """The model of a replica has just been woken: what it had read is forgotten."""
        self.server(replica).ready_at = now
        self.prefixes = {key: at for key, at in self.prefixes.items() if at[0] != replica}

    def server(self, replica: str) -> Replica:
        """What is known of a server, begun anew if need be."""
        found = self.replicas.get(replica)
        if found is None:
            found = self.replicas[replica] = Replica()
        return found

    def estimate(self, target: Target, replica: str) -> Estimate:
        """The estimate of `target` at `replica`, begun from the target's priors if need be."""
        key = (target.name, replica)
        found = self.estimates.get(key)
        if found is None:
            found = self.estimates[key] = Estimate(target)
        return found

    def cost_of(self, route: str, composition: Composition, tail: float = TAIL) -> Spent:
        """What a composition has cost on a route, begun from what is declared if need be, and anew
        where it is declared otherwise; `tail` is its target's `whole_tail`."""
        key = (route, composition.target)
        found = self.spent.get(key)
        if found is None or (found.of is not composition and found.of != composition):
            found = self.spent[key] = Spent(composition, tail)
        return found

    def keep(self, targets: Iterable[Target]) -> None:
        """Go on with `targets`, as they are declared now, and forget every other and its replicas.

        For a swap of the configuration: what was seen of targets that stay is kept.
        """
        kept = {target.name: target for target in targets}
        pairs = {(target.name, url) for target in kept.values() for url in target.replicas}
        servers = {url for target in kept.values() for url in target.replicas}
        self.estimates = {key: found for key, found in self.estimates.items() if key in pairs}
        self.outputs = {key: found for key, found in self.outputs.items() if key[1] in kept}
        self.cached = {name: found for name, found in self.cached.items() if name in kept}
        self.spent = {key: found for key, found in self.spent.items() if key[1] in kept}
        self.incumbents = {key: name for key, name in self.incumbents.items() if name in kept}
        self.replicas = {
            url: server
            for url, server in self.replicas.items()
            if url in servers or server.in_flight
        }
        for (name, _), estimate in self.estimates.items():
            estimate.declare(kept[name])
        for (_, name), output in self.outputs.items():
            output.declare(kept[name])

    def _loading(self, flight: Flight, seconds: float, warm_s: float) -> float:
        """Of the `seconds` until an answer those that went into loading its adapter, as expected
        where `warm_s` is what it takes without: they say nothing of the next answer."""
        witness = self.witnesses.get(flight.target.backend)
        if witness is None or flight.target.adapter is None:
            return 0.0
        load_s = flight.estimate.one_load_s
        cold = witness.first_token(
            flight.url, flight.target.served, flight.started, seconds, warm_s, load_s
        )
        return min(cold * load_s, max(0.0, seconds - warm_s))

    def _no_answer(self, flight: Flight) -> None:
        witness = self.witnesses.get(flight.target.backend)
        if witness is not None and flight.first_s is None and flight.target.adapter is not None:
            witness.no_answer(flight.url, flight.target.served, flight.started)

    def _server_answered(self, replica: Replica, now: float) -> None:
        if replica.failures.lost_s:
            replica.failures.answered(now)
            replica.publish()

    def _saw_usage(self, flight: Flight, usage: Usage, now: float) -> None:
        key = (flight.route, flight.target.name)
        output = self.outputs.get(key)
        if output is None:
            output = self.outputs[key] = Output(flight.target)
        output.saw(usage.output, now)
        if flight.target.price.input != flight.target.price.cached_input:
            share = self.cached.get(flight.target.name)
            if share is None:
                share = self.cached[flight.target.name] = Share()
            share.saw(usage.cached_input, usage.input, now)
