"""What chance decides once candidates are ranked: exploring, and shares of traffic. Pure.

There is one draw for a request. Exploring takes it as it is; each subject that gets a share of its
traffic takes a number of its own from it, by mixing its salt in: equal to independent draws, and
the same again wherever the decision is computed again.

A subject that is out, which happens with a chance of 1 - share, has its choices put behind all
others, as a last resort, and nothing is explored among them. So of the requests that it would win
it gets its share. A replica that wins by having a shorter queue would make up for that: therefore
its queue counts 1/share times, which under load leaves it share times the queue of its equals.

A choice's propensity is the chance that it stands first, over all draws: the sum over which
subjects are in, each by its share.
"""

from collections.abc import Iterator, Sequence
from itertools import product

from gateway.policy.live import Live
from gateway.policy.table import Row, Scored, Terms
from gateway.policy.weights import Held

MOST = 8
"""Subjects of one ranking that shares are drawn for, those of the best choices first; each doubles
what the propensities cost. Further ones are in."""

_MASK = (1 << 64) - 1


def mixed(draw: float, salt: int) -> float:
    """A number in [0, 1) from a draw and a salt, by the finalizer of SplitMix64 (Steele, Lea and
    Flood 2014)."""
    bits = (int(draw * (1 << 53)) * 0x9E3779B97F4A7C15 + salt) & _MASK
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((bits ^ (bits >> 31)) >> 11) / (1 << 53)


def explored(ranked: list[Scored], explore: float, draw: float) -> tuple[list[float], bool]:
    """Epsilon-greedy over candidates: moves what the draw chose to the front of `ranked`.

    Answers the propensity of each place, before and whatever the draw; and whether the draw chose
    something else than the best.
    """
    leaders = _leaders(ranked, range(len(ranked)))
    share = explore / len(leaders)
    propensities = [0.0] * len(ranked)
    for index in leaders:
        propensities[index] = share
    propensities[0] += 1.0 - explore
    if draw >= explore:
        return propensities, False
    chosen = leaders[min(int(draw / share), len(leaders) - 1)]
    ranked.insert(0, ranked.pop(chosen))
    propensities.insert(0, propensities.pop(chosen))
    return propensities, chosen != 0


def shared_out(
    ranked: list[Scored], explore: float, draw: float
) -> tuple[list[float], bool, tuple[str, ...]]:
    """As `explored`, where subjects get a share: orders `ranked`, and names those that are out."""
    held = [_held(scored) for scored in ranked]
    subjects = dict.fromkeys(each for choice in held for each in choice)
    drawn = list(subjects)[:MOST]
    chances = [0.0] * len(ranked)
    for out, chance in _outcomes(drawn):
        order = _order(held, out)
        leaders = _leaders(ranked, _inside(order, held, out))
        for index in leaders:
            chances[index] += chance * explore / len(leaders)
        chances[order[0]] += chance * (1.0 - explore)
    out = frozenset(each for each in drawn if mixed(draw, each.salt) >= each.share)
    order = _order(held, out)
    first = order[0]
    if draw < explore:
        leaders = _leaders(ranked, _inside(order, held, out))
        first = leaders[min(int(draw * len(leaders) / explore), len(leaders) - 1)]
    order = [first, *(index for index in order if index != first)]
    was_explored = first != _order(held, out)[0]
    ranked[:] = [ranked[index] for index in order]
    return [chances[index] for index in order], was_explored, tuple(each.subject for each in out)


def queues_counted(ranked: list[Scored], terms: Terms, live: Live) -> None:
    """Lets the queue of a replica that gets a share count 1/share times."""
    for index, scored in enumerate(ranked):
        loss, total, order, row, url, cost, first, load_s, others = scored
        part, server = row.held_replicas.get(url), live.replicas.get(url)
        estimate = live.estimates.get((row.target, url))
        if part is not None and server is not None and estimate is not None and server.in_line:
            more = estimate.queue_s * server.in_line * (1.0 / part.share - 1.0)
            loss += (terms.first + terms.whole) * more
            ranked[index] = (
                *(loss, total + more, order, row, url, cost, first + more, load_s, others),
            )


def _held(scored: Scored) -> tuple[Held, ...]:
    """The subjects of one choice that get a share."""
    row = scored[3]
    replica = row.held_replicas.get(scored[4])
    return row.held if replica is None else (*row.held, replica)


def _outcomes(subjects: Sequence[Held]) -> Iterator[tuple[frozenset[Held], float]]:
    """Every set of subjects that may be out, with its chance."""
    for inside in product((True, False), repeat=len(subjects)):
        chance = 1.0
        for subject, is_in in zip(subjects, inside, strict=True):
            chance *= subject.share if is_in else 1.0 - subject.share
        out = (subject for subject, is_in in zip(subjects, inside, strict=True) if not is_in)
        yield frozenset(out), chance


def _order(held: Sequence[tuple[Held, ...]], out: frozenset[Held]) -> list[int]:
    """The places of the ranking, those of subjects that are out behind the others."""
    if not out:
        return list(range(len(held)))
    return sorted(range(len(held)), key=lambda index: not out.isdisjoint(held[index]))


def _inside(
    order: Sequence[int], held: Sequence[tuple[Held, ...]], out: frozenset[Held]
) -> Sequence[int]:
    """Of the places those that are not out; all of them where nothing else is left."""
    return [index for index in order if out.isdisjoint(held[index])] or order


def _leaders(ranked: Sequence[Scored], places: Sequence[int]) -> list[int]:
    """The best place of each candidate."""
    best: dict[Row, int] = {}
    for index in places:
        best.setdefault(ranked[index][3], index)
    return list(best.values())
