"""Logged decisions made again under another configuration, thousands at a time. Pure.

What `gateway.policy.decide` worked out of live estimates stands in the decision as it was logged:
dollars and seconds of every replica that was asked about. From these the same objective, limits and
exploring are worked out here for all requests of one shape at once, as arrays; the result is the
probability with which each target would have been chosen. A property test holds it equal to what
`Decider.decide` answers, request by request, with the estimates that there were.

What the log does not hold is said instead of guessed: 95th percentiles, which limits of time look
at; how surely an adapter was loaded, which `on_cold` looks at; what of the input came from a cache,
where a price has changed. Shares of traffic by command, and experiments, are left aside: it is the
policy's own choice that is worked out.
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from gateway.experiments.estimators import Flags, Floats, Ints
from gateway.policy.table import (
    AUDIO,
    INFINITE,
    JSON_SCHEMA,
    MEDIA,
    TOOLS,
    VISION,
    Row,
    Terms,
)
from gateway.types.backends import Target
from gateway.types.policies import Policy
from gateway.types.requests import Needs

FITS, OVER, SHUT = 0, 1, 2
"""How a replica stood when the decision was logged: within the limits, over one, or within them but
left alone since it failed."""

LIMITS = "would be judged by a limit of time that was not looked at when they were logged"
COLD = "depend on how surely an adapter was loaded, for `on_cold`"
PRICES = "go to a target whose price has changed where cached input has one of its own"


class Block(msgspec.Struct, frozen=True):
    """m logged requests of one shape: the same replicas asked about, in p columns.

    `pairs` are (target, replica), `states` how each stood. Arrays are [m] or [m, p]; `longest` are
    the input's tokens that stand in a context at once, `most` is the most output tokens asked for,
    infinite where nothing was said. `learned` is P(right) of the
    route's candidates on the very prompts [m, candidates], below 0 where that is not known; None
    where the policy does not go by it.
    """

    pairs: tuple[tuple[str, str], ...]
    states: tuple[int, ...]
    tokens: Floats
    longest: Floats
    most: Floats
    draw: Floats
    quality: Floats
    cost: Floats
    first: Floats
    total: Floats
    load: Floats
    others: Floats
    learned: Floats | None = None


class Change(msgspec.Struct, frozen=True):
    """Under what requests are decided again.

    `rows` are the route's candidates, as far as facts other than length allow the request;
    `quality` has those whose declared quality has changed. `policy` is the new one, `before` the
    one that they were logged under, None where that is not known; `value` the route's. `targets`
    are those that were declared before, None where that is not known. With `by_prompt` logged
    qualities are of prompts: in their place stand those of the rows.
    """

    rows: tuple[Row, ...]
    policy: Policy
    before: Policy | None
    value: float
    quality: Mapping[str, float]
    prices: Mapping[str, Target]
    targets: Mapping[str, Target] | None
    sleeping: frozenset[str] = frozenset()
    by_prompt: bool = False


class Ranked(msgspec.Struct, frozen=True):
    """What the objective says of m requests, over the c candidates of `Change.rows`.

    `best` [m] is the one worth most; `there` [m, c] who may be chosen at all, `stays` [m, c] who
    would be kept if it was the one before, `cold` [m, c] whose adapter may have to be loaded.
    `explore` [m] is the share explored. `why` says for which of the requests [m] it cannot be told.
    The rest is what is expected of each [m, c].
    """

    best: Ints
    there: Flags
    stays: Flags
    cold: Flags
    explore: Floats
    why: Mapping[str, Flags]
    quality: Floats
    cost: Floats
    first: Floats
    total: Floats


def allowed(row: Row, needs: Needs, internal: bool) -> bool:
    """Whether facts other than the length of the request let `row` have it."""
    asked = needs.tools * TOOLS | needs.vision * VISION | needs.audio * AUDIO
    asked |= needs.json_schema * JSON_SCHEMA | bool(needs.media_hosts) * MEDIA
    lacking = asked & row.lacks
    if lacking and not (lacking == MEDIA and row.fetches(needs.media_hosts)):
        return False
    return needs.endpoint in row.endpoints and (row.internal or not internal)


def again(block: Block, change: Change) -> Ranked:
    """The block's requests under `change`."""
    terms = Terms(change.policy)
    columns = [_columns(block, change, terms, row) for row in change.rows]
    m, c = len(block.tokens), len(change.rows)
    if not columns:
        nobody = np.zeros((m, 0))
        none = nobody.astype(bool)
        zero = np.zeros(m)
        return Ranked(zero.astype(int), none, none, none, zero, {}, nobody, nobody, nobody, nobody)
    of = np.concatenate([np.full(each.loss.shape[1], n) for n, each in enumerate(columns)])
    wide: Callable[[str], Floats] = lambda name: np.concatenate(  # noqa: E731
        [getattr(each, name) for each in columns], axis=1
    )
    loss, total, state = wide("loss"), wide("total"), wide("state")
    pool, fits = _pool(state, terms.refuse)
    loss = np.where(pool, loss, np.inf)
    order = np.broadcast_to(np.arange(loss.shape[1]), loss.shape)
    ranking = np.lexsort((order, total, loss), axis=-1)
    place = np.empty_like(ranking)
    np.put_along_axis(place, ranking, order, axis=1)
    leader = np.stack([_first(place, np.flatnonzero(of == n)) for n in range(c)], axis=1)
    led: Callable[[Floats], Floats] = lambda values: np.take_along_axis(  # noqa: E731
        values, leader, axis=1
    )
    least = led(loss)
    there = np.isfinite(least)
    with np.errstate(invalid="ignore"):
        behind = least - loss.min(axis=1, keepdims=True)
        stays = there & (behind <= terms.margin * np.abs(least)) & fits[:, None]
    if not terms.margin:
        stays = np.zeros_like(there)
    why = {PRICES: np.any([each.priceless for each in columns], axis=0)}
    why[LIMITS] = np.any((wide("unknown") > 0) & (state != SHUT), axis=1)
    return Ranked(
        best=of[ranking[:, 0]],
        there=there,
        stays=stays,
        cold=led(wide("load")) > 0.0,
        explore=np.where(fits, terms.explore, 0.0),
        why={reason: found for reason, found in why.items() if found.any()},
        quality=led(wide("quality")),
        cost=led(wide("cost")),
        first=led(wide("first")),
        total=led(total),
    )


def settled(
    best: Sequence[int], stays: Sequence[Sequence[bool]], explored: Sequence[bool], first: int
) -> tuple[list[int], int]:
    """Who is asked where nothing is explored, in order of time, and who was last: the one before is
    kept where it may stay. `first` is who was before, -1 where nobody was."""
    found, before = [], first
    for choice, may_stay, by_chance in zip(best, stays, explored, strict=True):
        if before >= 0 and may_stay[before]:
            choice = before
        found.append(choice)
        if not by_chance:
            before = choice
    return found, before


def explored(ranked: Ranked, draw: Floats) -> Flags:
    """[m]: whether the logged draw would choose another than the best."""
    count = np.maximum(ranked.there.sum(axis=1), 1)
    found: Flags = (draw < ranked.explore) & (draw >= ranked.explore / count) & (count > 1)
    return found


def chances(ranked: Ranked, chosen: Ints) -> Floats:
    """[m, c]: with which probability each candidate would be chosen; nought all over a row of who
    would be refused."""
    count = ranked.there.sum(axis=1)
    some = count > 0
    share = np.where(some, ranked.explore / np.maximum(count, 1), 0.0)
    result = np.where(ranked.there, share[:, None], 0.0)
    rows = np.flatnonzero(some)
    result[rows, chosen[rows]] += 1.0 - ranked.explore[rows]
    return result


# ---------------------------------------------------------------- one candidate


class _Columns(msgspec.Struct, frozen=True):
    """One candidate's replicas, in the order in which they are declared."""

    loss: Floats
    state: Floats
    unknown: Floats
    quality: Floats
    cost: Floats
    first: Floats
    total: Floats
    load: Floats
    priceless: Flags


def _columns(block: Block, change: Change, terms: Terms, row: Row) -> _Columns:
    m = len(block.tokens)
    urls = [url for url, *_ in row.replicas]
    known = {pair: n for n, pair in enumerate(block.pairs)}
    at = [known[row.target, url] for url in urls if (row.target, url) in known]
    logged = bool(at)
    priceless = np.zeros(m, dtype=bool)
    if logged:
        quality, cost, load = block.quality[:, at], block.cost[:, at], block.load[:, at]
        first, total, others = block.first[:, at], block.total[:, at], block.others[:, at]
        if row.target in change.quality:
            quality = np.full_like(quality, change.quality[row.target])
        elif change.by_prompt:
            quality = np.full_like(quality, row.quality)
        repriced = _repriced(block, change, row, cost)
        if repriced is None:
            priceless[:] = True
        else:
            cost = repriced
        others = _patience(change, row, load, others)
        state = np.broadcast_to(np.array([block.states[n] for n in at], dtype=float), cost.shape)
    else:
        quality, cost, first, total, load, others = _declared(block, terms, row)
        state = np.zeros_like(cost)
    if block.learned is not None:
        own = block.learned[:, [row.candidate]]
        quality = np.where(own >= 0.0, own, quality)
    worth = terms.value * change.value * quality - terms.price * cost
    loss = terms.first * first + terms.whole * total - worth
    loss = loss + (terms.first + terms.whole) * others
    within = (cost <= terms.max_cost) & (quality >= terms.min_quality)
    in_time, unknown = (
        _in_time(change, state, cost, quality) if logged else _declared_in_time(block, terms, row)
    )
    unknown = unknown & within
    state = np.where(state == SHUT, SHUT, np.where(within & in_time, FITS, OVER)).astype(float)
    room = block.longest + np.where(np.isinf(block.most), 0.0, block.most)
    away = ~np.isfinite(cost) | (room > row.context)[:, None]
    loss = np.where(away, np.inf, loss)
    state = np.where(away, -1.0, state)
    return _Columns(
        loss, state, unknown.astype(float), quality, cost, first, total, load, priceless
    )


def _repriced(block: Block, change: Change, row: Row, cost: Floats) -> Floats | None:
    """The cost at today's price, where it has changed: None where that cannot be told."""
    new = change.prices[row.target].price
    old = None if change.targets is None else change.targets.get(row.target)
    if old is None or old.price == new:
        return cost
    if old.price.input != old.price.cached_input or not old.price.output:
        whole = (new.input, new.cached_input, new.output)
        before = (old.price.input, old.price.cached_input, old.price.output)
        ratios = {n / o for n, o in zip(whole, before, strict=True) if o}
        if len(ratios) == 1 and all(n == 0.0 for n, o in zip(whole, before, strict=True) if not o):
            return cost * ratios.pop()
        return None
    output = (cost - block.tokens[:, None] * old.price.input) / old.price.output
    return block.tokens[:, None] * new.input + output * new.output


def _patience(change: Change, row: Row, load: Floats, others: Floats) -> Floats:
    """What others lose by a load, less the load itself only under `on_cold: wait`."""
    if change.before is None or row.target in change.sleeping:
        return others
    was, now = change.before.on_cold == "wait", change.policy.on_cold == "wait"
    return others + (was - now) * load if was != now else others


def _in_time(change: Change, state: Floats, cost: Floats, quality: Floats) -> tuple[Flags, Flags]:
    """Whether each is within the limits of time, and where that is not known.

    What was within the logged limits is within wider ones; what was over one of them alone is over
    it again. Nothing more can be told without the percentiles themselves.
    """
    new, old = change.policy.limits, change.before.limits if change.before is not None else None
    yes = np.ones(state.shape, dtype=bool)
    limits = (new.first_token_p95, new.whole_p95)
    if limits == (None, None):
        return yes, ~yes
    before = (None, None) if old is None else (old.first_token_p95, old.whole_p95)
    wider = all(
        n is None or (o is not None and n >= o) for n, o in zip(limits, before, strict=True)
    )
    narrower = all(
        o is None or (n is not None and n <= o) for n, o in zip(limits, before, strict=True)
    )
    affordable = yes
    if old is not None:
        affordable = (cost <= (INFINITE if old.cost is None else old.cost)) & (
            quality >= (-INFINITE if old.quality is None else old.quality)
        )
    was_over = (state == OVER) & affordable if before != (None, None) else ~yes
    in_time = state != OVER
    known = (in_time & wider) | (was_over & narrower)
    return in_time, ~known


def _declared(
    block: Block, terms: Terms, row: Row
) -> tuple[Floats, Floats, Floats, Floats, Floats, Floats]:
    """A target that the log has no estimate of, as `decide` takes one that nobody has asked."""
    _, _, cold, idle = row.replicas[0]
    output = np.minimum(row.output.mean, block.most)
    cost = block.tokens * row.input_price + output * row.output_price
    first = np.full(len(cost), cold.first_s + cold.wait_s + idle.lost_s)
    total = first + output * cold.token_s
    load = np.full(len(cost), cold.load_s)
    others = load * (cold.spare - (terms.on_cold == "wait"))
    quality = np.full(len(cost), row.quality)
    found = (quality, cost, first, total, load, others)
    return tuple(each[:, None] for each in found)  # type: ignore[return-value]


def _declared_in_time(block: Block, terms: Terms, row: Row) -> tuple[Flags, Flags]:
    _, _, cold, idle = row.replicas[0]
    first = cold.first_s * cold.tail + cold.wait_p95_s + idle.lost_s
    if row.steps:
        mean = cold.first_s + np.minimum(row.output.mean, block.most) * cold.token_s
        whole = mean * row.whole_tail + cold.wait_p95_s + idle.lost_s
    else:
        whole = first + np.minimum(row.output.p95, block.most) * cold.token_s
    in_time: Flags = ((whole <= terms.max_whole) & (first <= terms.max_first))[:, None]
    return in_time, np.zeros_like(in_time)


# ---------------------------------------------------------------- all candidates


def _pool(state: Floats, refuse: bool) -> tuple[Flags, Flags]:
    """Who is ranked [m, p], and whether anybody is within the limits [m]: those that fit; else
    those that fail, where nothing over a limit may be asked; else those over one."""
    fit, over, shut = state == FITS, state == OVER, state == SHUT
    some, beyond = fit.any(axis=1), over.any(axis=1)
    failing = ~some & shut.any(axis=1) & ~(beyond & (not refuse))
    instead = ~some & ~failing & beyond & (not refuse)
    pool = np.where(some[:, None], fit, np.where(failing[:, None], shut, over & instead[:, None]))
    return pool, some | failing | ~beyond


def _first(place: Ints, columns: Ints) -> Ints:
    """Of these columns the one that is ranked first [m]."""
    found: Ints = columns[np.argmin(place[:, columns], axis=1)]
    return found
