"""The decision: which (target, replica) is worth most for one request, in dollars.

Pure: no I/O, no clock, no logging, no randomness; the draw is an argument. The same function
serves live traffic, `explain`, dry runs and replay.

    net = value_weight x value x quality - price_weight x cost
          - waiting_first_token x E[s to first token] - waiting_whole x E[s in all]

Hard facts rule candidates out first, whatever else is said; then the policy's limits; what is left
is ranked by net.

    cost = input tokens x (input price - cached share x (input price - cached price))
           + E[output tokens] x output price,
           of a composition times what it has cost so far over that
    E[s to first token] = first token with nothing queued + queue x what each one adds
                          + P(adapter not resident) x load time + time lost by failing
                          - what the replica's prefix cache saves of a conversation
    E[s in all] = E[s to first token] + E[output tokens] x seconds per token

A load stops the replica's engine for whoever runs there, and may displace what has to be loaded
again; those seconds are not the request's own, but count for it as if they were:

    net -= (waiting_first_token + waiting_whole) x E[load s]
           x (in flight + P(a copy to spare) x (1 + in flight))

So do the seconds that others lose where their model is put to sleep to wake another on their GPU.

The 95th percentile of the whole is taken as that of the first token plus that of the generation,
which is at or above the true one; that of a composition is a multiple of its mean, worked out of
its steps at first (`gateway.policy.lasting`), and measured from then on. Targets and replicas that
commands have drained are away; one that gets but a share of its traffic is put behind the others
for the rest of the requests, by the same draw (`gateway.policy.draws`). The ranked list orders
(target, replica) pairs. Exploring (epsilon-greedy: `explore` spread evenly over the fitting
candidates) chooses among candidates, and the best replica of a candidate stands for it.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import msgspec

from gateway.policy.draws import explored, queues_counted, shared_out
from gateway.policy.gates import sort_of
from gateway.policy.live import Live
from gateway.policy.table import (
    AUDIO,
    INFINITE,
    JSON_SCHEMA,
    MEDIA,
    TOOLS,
    VISION,
    Candidates,
    Row,
    Scored,
    Terms,
    row_or_not,
)
from gateway.policy.words import dollars, number
from gateway.policy.words import verdicts as verdicts
from gateway.types.decisions import Choice, Decision, Question, RuledOut
from gateway.types.policies import Limits
from gateway.types.requests import Needs
from gateway.types.routes import Route
from gateway.types.snapshot import Snapshot

NEUTRAL_QUALITY = 0.5
"""Quality of a target that was named but is no candidate of the route: nobody knows it."""

PREFILL = 0.8
"""Share of an unqueued first-token time that goes into reading the input; a prefix that the replica
has in its cache saves its part of that. An assumption: what it saves is not told."""

_NOWHERE = ("", 0)

COLD = 0.5
"""P(resident) below which an adapter counts as not loaded."""

Over: TypeAlias = tuple[Scored, float, float]
"""What is over a limit, with its 95th percentiles: first token and whole, in seconds."""


Closed: TypeAlias = tuple[Scored, str]
"""What is left alone for now, and why."""


class Late(NamedTuple):
    """Seconds that a composition is expected to take beyond what is known of it, as its steps are
    `slower_s` than was declared, and adapters have to be loaded (`loads_s`, and in 95 of 100 cases
    `loads_p95_s`); and those that loading for it costs others."""

    slower_s: float
    loads_s: float
    loads_p95_s: float
    others_s: float


NOT_LATE = Late(0.0, 0.0, 0.0, 0.0)


def decide(question: Question, snapshot: Snapshot, live: Live, draw: float) -> Decision:
    """`Decider(snapshot).decide(question, live, draw)`, for those who decide once."""
    return Decider(snapshot).decide(question, live, draw)


class Decider:
    """Decides for one snapshot; what the configuration fixes is worked out once."""

    __slots__ = (
        "_hash",
        "_named",
        "_policies",
        "_routes",
        "_shares",
        "_targets",
        "_terms",
        "_weights",
    )

    def __init__(self, snapshot: Snapshot, before: "Decider | None" = None) -> None:
        """What of `before` comes from equal parts of the configuration is taken over."""
        self._hash = snapshot.hash
        self._targets = snapshot.targets
        self._weights = snapshot.weights
        self._shares = any(0.0 < each.share < 1.0 for each in snapshot.weights.values())
        known = before._routes if before is not None else {}
        self._routes: dict[str, Candidates] = {
            name: _candidates(route, snapshot, known.get(name))
            for name, route in snapshot.routes.items()
        }
        self._policies = snapshot.policies
        same = before is not None and before._policies == snapshot.policies
        self._terms: dict[str, tuple[Terms, Terms]] = (
            before._terms if before is not None and same else _terms(snapshot)
        )
        self._named: dict[tuple[str, str], Row | RuledOut] = {}

    def decide(self, question: Question, live: Live, draw: float) -> Decision:
        """The ranked list for `question`, best first; `draw` is uniform in [0, 1).

        `ranked` is empty when hard facts leave nothing, or when limits leave nothing and the policy
        refuses (then `fits` is false); `ruled_out` says why. Raises KeyError for a route or policy
        that the snapshot does not have.
        """
        candidates = self._routes[question.route]
        terms, unlimited = self._terms[question.policy]
        ruled_out: list[RuledOut] = []
        rows: Sequence[Row] | None = candidates.rows
        if question.only is not None:
            terms = unlimited
            rows, ruled_out = self._only(candidates, question.only, question.caller.tenant)
        elif rows is None:
            rows, ruled_out = candidates.resolve(question.caller.tenant)
        ranked, over, shut = _score(question, candidates.route, terms, rows, live, ruled_out)
        if question.at is not None:
            ranked, shut = _at(question.at, ranked, shut)
        if shut:
            if ranked or (over and not terms.refuse):
                ruled_out += _left_alone(shut, question.qualities, live)
            else:
                # Nothing that could be answered may fail: then they are asked all the same.
                ranked = [scored for scored, _ in shut]
        fits = bool(ranked) or not over
        if over:
            ruled_out += _over_limits(terms, ranked, over, question.qualities, live)
            if not fits and not terms.refuse:
                ranked = [entry[0] for entry in over]
        if self._shares:
            queues_counted(ranked, terms, live)
        ranked.sort()
        if fits and terms.margin:
            key = (question.route, question.policy)
            _keep_incumbent(ranked, terms.margin, live.incumbents.get(key))
        if ranked and terms.on_cold and ranked[0][7]:
            _instead_of_cold(ranked, terms.on_cold, live)
        explore = terms.explore if fits else 0.0
        withheld: tuple[str, ...] = ()
        if len(ranked) < 2 or not (explore or self._shares):
            propensities, was_explored = [1.0] + [0.0] * (len(ranked) - 1), False
        elif self._shares:
            propensities, was_explored, withheld = shared_out(ranked, explore, draw)
        else:
            propensities, was_explored = explored(ranked, explore, draw)
        return Decision(
            question.route,
            question.policy,
            self._hash,
            tuple(
                [
                    _choice(scored, p, question.qualities, live)
                    for scored, p in zip(ranked, propensities, strict=False)
                ]
            ),
            tuple(ruled_out),
            draw,
            was_explored,
            fits,
            withheld,
        )

    def _only(
        self, candidates: Candidates, name: str, tenant: str | None
    ) -> tuple[list[Row], list[RuledOut]]:
        """The one target that the client named, as a candidate of the route if it is one."""
        rows = candidates.rows or candidates.resolve(tenant)[0]
        for row in rows:
            if row.target == name:
                return [row], []
        key = (candidates.route.name, name)
        found = self._named.get(key)
        if found is None:
            target = self._targets.get(name)
            if target is None:
                return [], [RuledOut(name, "fact", "no such target is declared")]
            route = candidates.route.name
            found = row_or_not(route, target, -1, NEUTRAL_QUALITY, self._weights)
            self._named[key] = found
        return ([found], []) if isinstance(found, Row) else ([], [found])


def _at(
    replica: str, ranked: list[Scored], shut: list[Closed]
) -> tuple[list[Scored], list[Closed]]:
    """What is at the replica; all where nothing is there any more."""
    here = [scored for scored in ranked if scored[4] == replica]
    shut_here = [closed for closed in shut if closed[0][4] == replica]
    return (here, shut_here) if here or shut_here else (ranked, shut)


def _terms(snapshot: Snapshot) -> dict[str, tuple[Terms, Terms]]:
    """Each policy, with its limits and without."""
    return {
        name: (Terms(policy), Terms(msgspec.structs.replace(policy, limits=Limits())))
        for name, policy in snapshot.policies.items()
    }


def _candidates(route: Route, snapshot: Snapshot, before: Candidates | None) -> Candidates:
    known = (snapshot.targets, snapshot.weights, snapshot.qualities)
    if before is not None and before.of(route, *known):
        return before
    return Candidates(route, *known)


def _score(
    question: Question,
    route: Route,
    terms: Terms,
    rows: Sequence[Row],
    live: Live,
    ruled_out: list[RuledOut],
) -> tuple[list[Scored], list[Over], list[Closed]]:
    """Every replica of every row that the facts allow: those within the limits, those over, and
    those within that are left alone for now.

    One flat loop, since it runs for every request: this is where the budget of `decide` goes.
    """
    needs = question.needs
    endpoint = needs.endpoint
    asked = needs.tools * TOOLS | needs.vision * VISION | needs.audio * AUDIO
    asked |= needs.json_schema * JSON_SCHEMA
    if needs.media_hosts:
        asked |= MEDIA
    tokens = needs.input_tokens
    max_output = INFINITE if needs.max_output is None else needs.max_output
    if endpoint == "embeddings":
        max_output = 0
    room = (needs.longest or tokens) + (needs.max_output or 0)
    internal = route.internal
    value, price = terms.value * route.value, terms.price
    per_first, per_whole = terms.first, terms.whole
    max_cost, min_quality, timed = terms.max_cost, terms.min_quality, terms.timed
    max_first, max_whole = terms.max_first, terms.max_whole
    patient = terms.on_cold == "wait"
    estimates, servers = live.estimates, live.replicas
    outputs, shares = live.outputs, live.cached
    talked, prefixes = question.conversation, live.prefixes
    learned = question.qualities
    fitting: list[Scored] = []
    over: list[Over] = []
    shut: list[Closed] = []
    order = 0
    first_p95 = whole_p95 = 0.0
    late = NOT_LATE
    for row in rows:
        if (
            (asked & row.lacks and not _only_media(asked & row.lacks, row, needs))
            or (internal and not row.internal)
            or room > row.context
            or endpoint not in row.endpoints
        ):
            ruled_out.append(RuledOut(row.target, "fact", _unfit(row, needs, internal)))
            continue
        history = outputs.get(row.output_key, row.output)
        output = history.mean
        if output > max_output:
            output = max_output
        longest = history.p95
        if longest > max_output:
            longest = max_output
        cost = tokens * row.input_price + output * row.output_price
        if row.cached_saving and row.target in shares:
            cost -= tokens * row.cached_saving * shares[row.target].mean
        if row.composed and row.output_key in live.spent:
            cost *= live.spent[row.output_key].mean
        quality = row.quality if learned is None else _quality(row, learned)
        worth = value * quality - price * cost
        affordable = cost <= max_cost and quality >= min_quality
        before = order
        at, known = ("", 0)
        if talked and len(row.replicas) > 1:
            at, known = prefixes.get((row.target, talked), _NOWHERE)
        for url, key, cold, idle in row.replicas:
            estimate = estimates.get(key, cold)
            if estimate.barred:
                continue
            gate = estimate.gate
            why = gate.shut(sort_of(needs, question.stream), live.now) if gate is not None else ""
            server = servers.get(url, idle)
            queued = estimate.first_s + estimate.queue_s * server.in_line
            if url == at:
                queued -= PREFILL * estimate.first_s * min(1.0, known / (tokens or 1))
            first = queued + estimate.wait_s + server.lost_s
            total = first + output * estimate.token_s
            load_s = estimate.load_s
            others = server.others_s
            if row.steps:
                late = _late(row, live, patient, new=not estimate.weight)
                others, more = late.others_s, late.slower_s + late.loads_s
                first, total = max(first + more, 0.0), max(total + more, 0.0)
            loss = per_first * first + per_whole * total - worth
            if load_s:
                running = server.in_line
                others += load_s * (running + estimate.spare * (1.0 + running) - patient)
            if others:
                loss += (per_first + per_whole) * others
            load_s += server.wake_s
            scored = (loss, total, order, row, url, cost, first, load_s, others)
            order += 1
            if timed:
                first_p95 = queued * estimate.tail + estimate.wait_p95_s + server.lost_s
                if row.steps:
                    slower, wait = late.slower_s, late.loads_p95_s + estimate.wait_p95_s
                    wait += server.lost_s
                    first_p95 = max(queued + slower, 0.0) * estimate.tail + wait
                    whole_s = queued + slower + output * estimate.token_s
                    whole_p95 = max(whole_s, 0.0) * _whole_tail(row, live) + wait
                else:
                    whole_p95 = first_p95 + longest * estimate.token_s
            if affordable and first_p95 <= max_first and whole_p95 <= max_whole:
                if why:
                    shut.append((scored, why))
                else:
                    fitting.append(scored)
            else:
                over.append((scored, first_p95, whole_p95))
        if order == before:
            reasons = {estimates[key].barred for _, key, _, _ in row.replicas}
            why = f"no replica can load its adapter: {'; '.join(sorted(reasons))}"
            ruled_out.append(RuledOut(row.target, "away", why))
    return fitting, over, shut


def _late(row: Row, live: Live, patient: bool, *, new: bool) -> Late:
    """How late a composition is.

    Its steps' adapters may have to be loaded; and while the composition is `new`, having not been
    measured itself, what was measured of its steps takes the place of what is declared. Of each
    step the soonest replica counts, as often as the step is waited for; one that fails is passed
    over, not waited for.
    """
    slower_s = loads_s = loads_p95_s = others = 0.0
    for waited, step, replicas in row.steps:
        soonest, slower, load_s, load_p95_s, of_others = INFINITE, 0.0, 0.0, 0.0, 0.0
        for url, key, cold, idle in replicas:
            estimate, server = live.estimates.get(key, cold), live.replicas.get(url, idle)
            if estimate.barred:
                continue
            more = 0.0
            if new:
                more += estimate.first_s + estimate.queue_s * server.in_line - step.first_token_s
                more += step.output_tokens * (estimate.token_s - 1.0 / step.tokens_per_s)
            if more + estimate.load_s < soonest:
                running = server.in_line
                slower, load_s = more, estimate.load_s
                soonest = slower + load_s
                often = waited * (1.0 - estimate.loaded) > 0.05
                load_p95_s = estimate.one_load_s if often else 0.0
                of_others = server.others_s + load_s * (
                    running + estimate.spare * (1.0 + running) - patient
                )
        if soonest < INFINITE:
            slower_s += waited * slower
            loads_s += waited * load_s
            loads_p95_s += load_p95_s
            others += waited * of_others
    return Late(slower_s, loads_s, loads_p95_s, others)


def _whole_tail(row: Row, live: Live) -> float:
    """The 95th percentile over the mean of a composition's seconds in all."""
    spent = live.spent.get(row.output_key)
    return row.whole_tail if spent is None else spent.tail


def _only_media(lacking: int, row: Row, needs: Needs) -> bool:
    """Whether what speaks against the row is its list of hosts alone, and they are on it."""
    return lacking == MEDIA and row.fetches(needs.media_hosts)


def _unfit(row: Row, needs: Needs, internal: bool) -> str:
    """Why the facts rule `row` out."""
    if internal and not row.internal:
        return "not self-hosted, and the route's data is internal"
    if needs.endpoint not in row.endpoints:
        return f"does not serve {needs.endpoint}"
    lacking = [
        what
        for needed, bit, what in (
            (needs.tools, TOOLS, "tools"),
            (needs.vision, VISION, "images"),
            (needs.audio, AUDIO, "audio"),
            (needs.json_schema, JSON_SCHEMA, "a JSON schema"),
        )
        if needed and row.lacks & bit
    ]
    if lacking:
        return f"does not take {' or '.join(lacking)}"
    if needs.media_hosts and not row.fetches(needs.media_hosts):
        hosts = ", ".join(needs.media_hosts)
        return f"may not fetch from {hosts}: `capabilities: {{media_from: […]}}` declares hosts"
    output = f" and up to {needs.max_output:,} of output" if needs.max_output else ""
    which, tokens = "the request", needs.input_tokens
    if needs.longest:
        which, tokens = f"the longest of {needs.prompts:,} prompts", needs.longest
    return (
        f"takes {row.context:,.0f} tokens of context; {which} has about {tokens:,} of input{output}"
    )


def _quality(row: Row, learned: tuple[float, ...] | None) -> float:
    """P(right) on the prompt where that was learned, and of the route where not."""
    if learned is None or row.candidate < 0:
        return row.quality
    own = learned[row.candidate]
    return own if own >= 0.0 else row.quality


def _over_limits(
    terms: Terms,
    ranked: list[Scored],
    over: list[Over],
    learned: tuple[float, ...] | None,
    live: Live,
) -> list[RuledOut]:
    """The candidates none of whose replicas is within the limits, each by its best replica."""
    fitting = {scored[3] for scored in ranked}
    best: dict[Row, Over] = {}
    for entry in sorted(over):
        row = entry[0][3]
        if row not in fitting:
            best.setdefault(row, entry)
    return [
        RuledOut(
            row.target,
            "limit",
            _excess(terms, _quality(row, learned), entry),
            _choice(entry[0], 0.0, learned, live),
        )
        for row, entry in best.items()
    ]


def _left_alone(
    shut: list[Closed], learned: tuple[float, ...] | None, live: Live
) -> list[RuledOut]:
    """What fails, the best first; each replica by itself."""
    return [
        RuledOut(
            scored[3].target, "away", f"at {scored[4]}: {why}", _choice(scored, 0.0, learned, live)
        )
        for scored, why in sorted(shut)
    ]


def _excess(terms: Terms, quality: float, entry: Over) -> str:
    """Which limits one replica is over, and by how much."""
    scored, first_p95, whole_p95 = entry
    cost = scored[5]
    parts = []
    if cost > terms.max_cost:
        parts.append(f"costs {dollars(cost, 3)}, over {dollars(terms.max_cost, 3)}")
    if quality < terms.min_quality:
        parts.append(f"quality {number(quality, 3)}, under {number(terms.min_quality, 3)}")
    if first_p95 > terms.max_first:
        parts.append(
            f"first token p95 {number(first_p95, 3)} s, over {number(terms.max_first, 3)} s"
        )
    if whole_p95 > terms.max_whole:
        parts.append(
            f"whole answer p95 {number(whole_p95, 3)} s, over {number(terms.max_whole, 3)} s"
        )
    return "; ".join(parts)


def _keep_incumbent(ranked: list[Scored], margin: float, incumbent: str | None) -> None:
    """Put the incumbent first unless the best beats its net by more than `margin` of it."""
    for index, (loss, _, _, row, *_) in enumerate(ranked):
        if row.target == incumbent:
            if index and loss - ranked[0][0] <= margin * abs(loss):
                ranked.insert(0, ranked.pop(index))
            return


def _instead_of_cold(ranked: list[Scored], on_cold: str, live: Live) -> None:
    """Where the best has to load its adapter, put what the policy wants instead first, if there
    is any: the base of the same model, or the best external target."""
    best = ranked[0][3]
    estimate = live.estimates.get((best.target, ranked[0][4]))
    if on_cold == "wait" or estimate is None or estimate.loaded >= COLD:
        return
    base = best.target.partition("+")[0]
    for index, scored in enumerate(ranked):
        row = scored[3]
        if row.target == base if on_cold == "base" else not row.internal:
            ranked.insert(0, ranked.pop(index))
            return


def _choice(
    scored: Scored, propensity: float, learned: tuple[float, ...] | None, live: Live
) -> Choice:
    loss, total, _, row, url, cost, first, load_s, others = scored
    spent = live.spent.get(row.output_key) if row.composed else None
    return Choice(
        row.target,
        url,
        row.candidate,
        row.quality if learned is None else _quality(row, learned),
        cost,
        first,
        total,
        -loss,
        propensity,
        "",
        load_s,
        others,
        0.0 if spent is None else spent.more,
    )
