"""Logged requests under another configuration: gathered into blocks, decided again. Pure.

Requests of one shape, those that asked about the same replicas under the same facts, are decided
together; see `gateway.experiments.again`. What comes of it are arrays by route, as the estimators
take them.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec
import numpy as np

from gateway.classify.encoder import EncoderError
from gateway.experiments.again import (
    COLD,
    FITS,
    OVER,
    SHUT,
    Block,
    Change,
    Ranked,
    again,
    allowed,
    chances,
    explored,
    settled,
)
from gateway.experiments.estimators import Floats, Ints
from gateway.learn.features import FeatureKind, Features
from gateway.learn.scorer import Scorer
from gateway.policy.table import Candidates, Row
from gateway.revisions.traffic import LEARNED, Asked, question_again
from gateway.types.decisions import Question
from gateway.types.requests import Caller, Needs
from gateway.types.routes import Route
from gateway.types.snapshot import Snapshot

Smaller: TypeAlias = "np.ndarray[Any, np.dtype[np.float32]]"
"""Enough for what was expected, at half the memory."""

REFUSED = ""
"""Stands for the target of who would be refused; it is the first of every route's."""

UNDECIDED = "were refused before a target was chosen"
HEADERS = "are recognised by a header, which is not kept, and `match` looks at other headers now"
TEXTS = "are recognised by `match`, which has changed, and their texts are not kept"
OTHER_KIND = "go by learned quality, and have features of another kind than it is learned of"
TO_ENCODE = "go by learned quality, and their texts would have to be encoded first"
UNREAD = "are recognised by `match`, which has changed, and would not be recognised any more"


class _Stored(msgspec.Struct, gc=False):
    """As much of a stored decision as is needed."""

    ranked: list[list[Any]]
    ruled_out: list[list[Any]]
    draw: float
    fits: bool
    pinned: str = ""


_decode = msgspec.json.Decoder(_Stored).decode
_needs = msgspec.json.Decoder(Needs).decode


class Kind(msgspec.Struct, frozen=True, gc=False):
    """What requests of one route, policy, caller and snapshot have in common: how they are asked
    again, and under what. `pinned` is the target that an ended experiment leaves there; `scorer`
    says P(right) on each prompt, where the policy goes by that."""

    number: int
    route: str
    question: Question
    rows: tuple[Row, ...]
    change: Change
    internal: bool
    pinned: str
    scorer: Scorer | None


class Outcomes(msgspec.Struct):
    """One route's requests, as arrays of n, or n and targets: what each target's probability was
    and would be, what was expected of it, and what came of the one that was chosen. `place` counts
    all requests in order of time.

    `right` is NaN where nobody has said; `failed` are those that were not answered.
    """

    targets: list[str]
    place: Ints
    taken: Ints
    old: Floats
    new: Floats
    expected: Mapping[str, Smaller]
    tokens: Floats
    cost: Floats
    first: Floats
    total: Floats
    right: Floats
    failed: Floats


class Replayer:
    """Takes batches of logged rows; `routes` has what came of them."""

    def __init__(
        self,
        new: Snapshot,
        running: Snapshot,
        logged_under: Callable[[str], Snapshot | None],
        right: Callable[[Any], float],
        recognise: Callable[[Sequence[tuple[str, str]]], Sequence[str | None]] | None = None,
        learned: Mapping[str, Scorer] | None = None,
        foretold: Mapping[str, Sequence[float]] | None = None,
        kind: FeatureKind | None = None,
        *,
        encodes: bool = True,
    ) -> None:
        """`logged_under` finds a snapshot by its hash, `right` says of a row whether its answer was
        right, 1 or 0 or NaN; `recognise` the route of each of some (model, messages as JSON) under
        the new configuration, None where there is none. `learned` are the versions that routes
        would go by, for features of that `kind`; `foretold`, by request, what is said of its
        candidates in their place. Unless it `encodes`, texts are not read that an encoder would
        have to be asked for."""
        self._kind_read, self._encodes = kind, encodes
        self._recognise = recognise
        self._new = new
        self._running = running
        self._logged_under = logged_under
        self._right = right
        self._learned = learned or {}
        self._foretold = foretold or {}
        self._kinds: dict[tuple[Any, ...], Kind | str] = {}
        turning = {each.name for each in new.backends.values() if each.turns is not None}
        self._sleeping = frozenset(
            name for name, target in new.targets.items() if target.backend in turning
        )
        self._place = -1
        self._incumbents: dict[tuple[str, str], str] = {}
        self._targets: dict[str, dict[str, int]] = {}
        self._parts: dict[str, list[dict[str, Any]]] = {}
        self.left_out: Counter[str] = Counter()
        self.declared: Counter[str] = Counter()
        """Targets that the log has no estimate of, with how many requests could go there."""

    # ------------------------------------------------------------ in

    def add(self, rows: Iterable[Sequence[Any]]) -> None:
        """One batch, with the columns of `gateway.store.replay`, in order of time."""
        groups: dict[tuple[Any, ...], _Group] = {}
        kinds = self._kinds
        later: list[tuple[int, Sequence[Any]]] = []
        for row in rows:
            self._place += 1
            decision = row[8]
            if decision is None:
                self.left_out[UNDECIDED] += 1
                continue
            by = row[3]
            key = (row[1], row[2], by, row[4] if by in _BY_NAME else None, row[5], row[6], row[7])
            kind = kinds.get(key)
            if kind is None:
                kind = kinds[key] = self._kind(*key)
            if isinstance(kind, Kind):
                self._gather(groups, kind, self._place, row)
            elif kind == TEXTS and self._recognise is not None and row[15] is not None:
                later.append((self._place, row))
            else:
                self.left_out[kind] += 1
        self._read_again(groups, later)
        self._decide(list(groups.values()))

    def _read_again(
        self, groups: "dict[tuple[Any, ...], _Group]", rows: list[tuple[int, Sequence[Any]]]
    ) -> None:
        """Requests whose texts are kept, recognised as they would be now."""
        if not rows:
            return
        assert self._recognise is not None
        routes = self._recognise([(row[5], row[15]) for _, row in rows])
        for (place, row), route in zip(rows, routes, strict=True):
            if route is None:
                self.left_out[UNREAD] += 1
                continue
            key = (row[1], row[2], "read again", route, row[5], row[6], row[7])
            kind = self._kinds.get(key)
            if kind is None:
                kind = self._kinds[key] = self._kind(*key)
            if isinstance(kind, Kind):
                self._gather(groups, kind, place, row)
            else:
                self.left_out[kind] += 1

    def _gather(
        self,
        groups: "dict[tuple[Any, ...], _Group]",
        kind: Kind,
        place: int,
        row: Sequence[Any],
    ) -> None:
        told, needs = _decode(row[8]), _needs(row[9])
        ranked = told.ranked
        if not ranked:
            self.left_out["found no target"] += 1
            return
        read: Features | None = None
        if kind.scorer is not None and kind.question.only is None:
            found = self._features(kind.scorer, row)
            if isinstance(found, str):
                self.left_out[found] += 1
                return
            read = found
        taken = ranked[0][0]
        states = [FITS if told.fits else OVER] * len(ranked)
        away: tuple[str, ...] = ()
        if len(ranked) > 1:
            ranked.sort()
        if told.ruled_out:
            away = _beside(ranked, states, told.ruled_out)
        facts = (
            needs.endpoint, needs.tools, needs.vision, needs.audio, needs.json_schema,
            needs.media_hosts,
        )  # fmt: skip
        pairs = tuple([(choice[0], choice[1]) for choice in ranked])
        key = (kind.number, pairs, tuple(states), away, facts)
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(kind, pairs, tuple(states), frozenset(away), needs)
        most = needs.max_output
        if needs.endpoint == "embeddings":
            most = 0
        flat: list[float | None] = [
            place, told.draw, needs.input_tokens, needs.longest or needs.input_tokens,
            math.inf if most is None else most, row[11], row[12], row[13], self._right(row),
            row[10] == "error" or row[10] == "truncated",
        ]  # fmt: skip
        for choice in ranked:
            if len(choice) < 12:
                choice += [0.0] * (12 - len(choice))
            flat += choice[3:7]
            flat.append(choice[8])
            flat += choice[10:12]
        group.taken.append(taken)
        group.flat.append(flat)
        if read is not None:
            group.read.append(read)
            group.foretold.append(self._foretold.get(row[0]))

    def _features(self, scorer: Scorer, row: Sequence[Any]) -> Features | str:
        """Those of a logged prompt, if they or its text were kept; else why not."""
        kind = self._kind_read
        if row[16] is None and row[17] is None:
            return LEARNED
        if kind is None or kind.name != scorer.kind:
            return OTHER_KIND
        return kept_features(kind, row[16], row[17], encodes=self._encodes)

    # ------------------------------------------------------------ what stays as it was

    def _kind(
        self,
        route: str,
        policy: str,
        by: str,
        detail: str | None,
        model: str,
        tenant: str | None,
        snapshot: str,
    ) -> Kind | str:
        logged = self._logged_under(snapshot)
        before = logged or self._running
        asked = Asked(route, policy, by or "", detail or "", model, Needs(), tenant, 0.0, 0.0)
        if by == "read again":
            assert detail is not None
            route_then = self._new.routes[detail]
            was_of = before.routes.get(route)
            chose = was_of is not None and policy != was_of.policy  # by a header
            name = policy if chose else route_then.policy
            if name not in self._new.policies:
                return f"ask for a policy that is not there: {name}"
            question: Question | str = Question(detail, name, Needs(), Caller(tenant=tenant))
        else:
            question = question_again(asked, before, self._new)
        if isinstance(question, str):
            return question
        if question.only is None and detail != "x-switchboard-route":
            if by == "header" and _headers(before) != _headers(self._new):
                return HEADERS
            if by in _BY_TEXT and matching(before, by) != matching(self._new, by):
                return TEXTS
        found = self._new.routes[question.route]
        candidates = Candidates(found, self._new.targets, self._new.weights, self._new.qualities)
        scorer = self._learned.get(question.route)
        if scorer is None or not self._new.policies[question.policy].learned:
            scorer = None
        else:
            scorer = scorer.of([each.target for each in found.candidates])
        went_by = before.policies.get(policy)
        rows = candidates.rows
        if rows is None:
            rows = tuple(candidates.resolve(tenant)[0])
        was = before.routes.get(question.route)
        change = Change(
            rows=(),
            policy=self._new.policies[question.policy],
            before=before.policies.get(policy) if logged is not None else None,
            value=found.value,
            quality=_changed(was, found),
            prices=self._new.targets,
            targets=before.targets,
            sleeping=self._sleeping,
            by_prompt=went_by is not None and went_by.learned,
        )
        winners = {
            each.arms.get(each.winner, "") for each in found.experiments if each.winner is not None
        }
        return Kind(
            len(self._kinds),
            route,
            question,
            tuple(rows),
            change,
            found.internal,
            next(iter(winners), ""),
            scorer,
        )

    # ------------------------------------------------------------ decided again

    def _decide(self, groups: "list[_Group]") -> None:
        decided = [self._ranked(group) for group in groups]
        for group, ranked in zip(groups, decided, strict=True):
            if ranked is not None:
                group.chosen = ranked.best
        self._settle(groups, decided)
        for group, ranked in zip(groups, decided, strict=True):
            self._keep(group, ranked)

    def _ranked(self, group: "_Group") -> Ranked | None:
        """The group decided again; None where its one target was named."""
        group.close()
        kind = group.kind
        if kind.question.only is not None:
            return None
        group.rows = tuple(
            row
            for row in kind.rows
            if row.target not in group.away and allowed(row, group.needs, kind.internal)
        )
        change = msgspec.structs.replace(kind.change, rows=group.rows)
        known = {target for target, _ in group.pairs}
        for row in group.rows:
            if row.target not in known:
                self.declared[row.target] += len(group.flat)
        return again(group.block, change)

    def _settle(self, groups: "list[_Group]", decided: Sequence[Ranked | None]) -> None:
        """Keeps who was chosen before where the policy says so: in order of time, over groups."""
        by_policy: dict[tuple[str, str], list[int]] = {}
        for n, ranked in enumerate(decided):
            question, change = groups[n].kind.question, groups[n].kind.change
            if ranked is not None and change.policy.switch_margin:
                by_policy.setdefault((question.route, question.policy), []).append(n)
        for key, members in by_policy.items():
            names = sorted({row.target for n in members for row in groups[n].rows})
            number = {name: n for n, name in enumerate(names)}
            order: list[tuple[float, int, bool, list[bool], int, int]] = []
            for n in members:
                ranked = decided[n]
                assert ranked is not None
                group = groups[n]
                columns = [number[row.target] for row in group.rows]
                stays = np.zeros((len(group.place), len(names)), dtype=bool)
                stays[:, columns] = ranked.stays
                best = np.array(columns)[ranked.best] if columns else ranked.best
                by_chance = explored(ranked, group.block.draw) | ~ranked.there.any(axis=1)
                order += zip(
                    group.place.tolist(), best.tolist(), by_chance.tolist(), stays.tolist(),
                    [n] * len(best), range(len(best)), strict=True,
                )  # fmt: skip
            order.sort(key=lambda each: each[0])
            first = number.get(self._incumbents.get(key, ""), -1)
            found, last = settled(
                [each[1] for each in order],
                [each[3] for each in order],
                [each[2] for each in order],
                first,
            )
            if last >= 0 and names:
                self._incumbents[key] = names[last]
            back = {
                n: {number[row.target]: at for at, row in enumerate(groups[n].rows)}
                for n in members
            }
            for (_, _, _, _, n, at), choice in zip(order, found, strict=True):
                groups[n].chosen[at] = back[n].get(choice, 0)

    def _keep(self, group: "_Group", ranked: Ranked | None) -> None:
        """The group's arrays, with those left out that cannot be told."""
        m = len(group.flat)
        kept = np.ones(m, dtype=bool)
        index = self._targets.setdefault(group.kind.route, {REFUSED: 0})
        old = self._old(group, index)
        if ranked is None:
            new, expected = self._named(group, index)
        else:
            why = dict(ranked.why)
            if group.kind.change.policy.on_cold in ("base", "external") and group.rows:
                why[COLD] = ranked.cold[np.arange(m), group.chosen] & ranked.there.any(axis=1)
            for reason, found in why.items():
                self.left_out[reason] += int(np.sum(kept & found))
                kept &= ~found
            new, expected = self._spread(group, ranked, index)
        if group.kind.pinned and group.kind.pinned in {target for target, _ in group.pairs}:
            # An ended experiment's target is asked, whatever the policy says.
            new = np.zeros_like(new)
            new[:, index.setdefault(group.kind.pinned, len(index))] = 1.0
        if not kept.any():
            return
        taken = np.array([index[name] for name in group.taken])
        part = {
            "place": group.place, "taken": taken, "old": old, "new": new,
            "tokens": group.block.tokens, "cost": group.outcome[:, 0],
            "first": group.outcome[:, 1], "total": group.outcome[:, 2],
            "right": group.outcome[:, 3], "failed": group.outcome[:, 4], **expected,
        }  # fmt: skip
        self._parts.setdefault(group.kind.route, []).append(
            {name: values[kept] for name, values in part.items()}
        )

    def _old(self, group: "_Group", index: dict[str, int]) -> Floats:
        for target, _ in group.pairs:
            index.setdefault(target, len(index))
        old = np.zeros((len(group.flat), len(index)))
        for n, (target, _) in enumerate(group.pairs):
            old[:, index[target]] += group.propensity[:, n]
        return old

    def _named(self, group: "_Group", index: dict[str, int]) -> tuple[Floats, dict[str, Smaller]]:
        """A named target stays what it is."""
        only = group.kind.question.only or REFUSED
        column = index.setdefault(only, len(index))
        new = np.zeros((len(group.flat), len(index)))
        new[:, column] = 1.0
        return new, self._figures(group, index)

    def _figures(self, group: "_Group", index: dict[str, int]) -> dict[str, Smaller]:
        found = {}
        for name in _EXPECTED:
            values = getattr(group.block, name)
            wide = np.full((len(group.flat), len(index)), np.nan, dtype=np.float32)
            wide[:, 0] = 0.0
            for n, (target, _) in reversed(list(enumerate(group.pairs))):
                wide[:, index[target]] = values[:, n]
            found[f"expected {name}"] = wide
        return found

    def _spread(
        self, group: "_Group", ranked: Ranked, index: dict[str, int]
    ) -> tuple[Floats, dict[str, Smaller]]:
        columns = [index.setdefault(row.target, len(index)) for row in group.rows]
        new = np.zeros((len(group.flat), len(index)))
        new[:, columns] = chances(ranked, group.chosen)
        new[:, 0] = new.sum(axis=1) <= 0.0
        expected = self._figures(group, index)
        for name in _EXPECTED:
            expected[f"expected {name}"][:, columns] = getattr(ranked, name)
        return new, expected

    # ------------------------------------------------------------ out

    def routes(self) -> dict[str, Outcomes]:
        """What came of it, by route. NaN where nothing was expected of a target."""
        found = {}
        for route, parts in self._parts.items():
            index = self._targets[route]
            whole = {
                name: np.concatenate([_wide(name, part[name], len(index)) for part in parts])
                for name in parts[0]
            }
            found[route] = Outcomes(
                targets=list(index),
                place=whole["place"].astype(np.int64),
                taken=whole["taken"],
                old=whole["old"],
                new=whole["new"],
                expected={name: whole[f"expected {name}"] for name in _EXPECTED},
                tokens=whole["tokens"],
                cost=whole["cost"],
                first=whole["first"],
                total=whole["total"],
                right=whole["right"],
                failed=whole["failed"],
            )
        return found


class _Group:
    """Requests of one batch, kind and shape, gathered and then made arrays."""

    __slots__ = (
        "away", "block", "chosen", "flat", "foretold", "kind", "needs", "outcome", "pairs", "place",
        "propensity", "read", "rows", "states", "taken",
    )  # fmt: skip

    def __init__(
        self,
        kind: Kind,
        pairs: tuple[tuple[str, str], ...],
        states: tuple[int, ...],
        away: frozenset[str],
        needs: Needs,
    ) -> None:
        self.kind, self.pairs, self.states = kind, pairs, states
        self.away, self.needs = away, needs
        self.taken: list[str] = []
        self.flat: list[list[float | None]] = []
        self.read: list[Features] = []
        self.foretold: list[Sequence[float] | None] = []
        self.rows: tuple[Row, ...] = ()

    def close(self) -> None:
        """Makes arrays of what was gathered; JSON's null is NaN."""
        whole = np.array(self.flat, dtype=np.float64)
        self.place = whole[:, 0]
        self.outcome = whole[:, 5:_PLAIN]
        figures = whole[:, _PLAIN:].reshape(len(whole), len(self.pairs), _EACH)
        quality, cost, first, total, propensity, load, others = np.moveaxis(figures, 2, 0)
        self.propensity = propensity
        self.chosen = np.zeros(len(whole), dtype=np.int64)
        self.block = Block(
            self.pairs, self.states, whole[:, 2], whole[:, 3], whole[:, 4], whole[:, 1],
            quality, cost, first, total, load, others, self._learned(),
        )  # fmt: skip

    def _learned(self) -> Floats | None:
        """P(right) of the candidates on each prompt, where the policy goes by that."""
        scorer = self.kind.scorer
        if scorer is None or not self.read:
            return None
        found = scorer.table(
            np.stack([vector for vector, _ in self.read]), np.stack([own for _, own in self.read])
        )
        for at, foretold in enumerate(self.foretold):
            if foretold is not None:
                found[at] = foretold
        self.read, self.foretold = [], []
        return found


def kept_features(
    kind: FeatureKind, features: bytes | None, text: str | None, *, encodes: bool
) -> Features | str:
    """Those of a logged prompt, if they or its text were kept; else why not."""
    if features is not None:
        return kind.unpacked(features) or OTHER_KIND
    if text is None:
        return LEARNED
    if kind.slow and not encodes:
        return TO_ENCODE
    try:
        return kind.of(text)
    except EncoderError:
        return TO_ENCODE


def _beside(
    ranked: list[list[Any]], states: list[int], ruled_out: list[list[Any]]
) -> tuple[str, ...]:
    """Adds to the ranked those that limits ruled out or that are left alone, and answers the
    targets that were away."""
    away = []
    there = {(choice[0], choice[1]) for choice in ranked}
    more = []
    for target, by, _, choice in ruled_out:
        if choice is None:
            if by == "away":
                away.append(target)
        elif (choice[0], choice[1]) not in there:
            more.append((choice, SHUT if by == "away" else OVER))
    more.sort(key=lambda each: (each[0][0], each[0][1]))
    ranked += [choice for choice, _ in more]
    states += [state for _, state in more]
    return tuple(sorted(away))


def _changed(was: Route | None, found: Route) -> dict[str, float]:
    """Targets whose declared quality is another now."""
    before = {each.target: each.quality for each in was.candidates} if was is not None else {}
    return {
        each.target: each.quality
        for each in found.candidates
        if before.get(each.target, each.quality) != each.quality
    }


def _headers(snapshot: Snapshot) -> dict[str, Mapping[str, str]]:
    """The headers that recognise requests, by route."""
    return {
        name: route.match.headers for name, route in snapshot.routes.items() if route.match.headers
    }


def matching(snapshot: Snapshot, by: str = "") -> tuple[Any, ...]:
    """What recognises texts: all of it, or, of what was recognised by a certain rule, the rules."""
    routes = snapshot.routes.items()
    certain = {
        name: (route.match.keywords, route.match.patterns)
        for name, route in routes
        if route.match.keywords or route.match.patterns
    }
    if by in ("keyword", "pattern"):
        return (_headers(snapshot), certain)
    examples = {name: route.match.examples for name, route in routes if route.match.examples}
    return (
        _headers(snapshot),
        certain,
        snapshot.default_route,
        examples,
        snapshot.server.classifier,
    )


def _wide(name: str, values: np.ndarray[Any, Any], width: int) -> np.ndarray[Any, Any]:
    """With as many columns as there are targets now; one-dimensional arrays stay."""
    if values.ndim == 1 or values.shape[1] == width:
        return values
    empty = np.nan if name.startswith("expected") else 0.0
    more = np.full((len(values), width - values.shape[1]), empty, dtype=values.dtype)
    return np.concatenate([values, more], axis=1)


_PLAIN = 10
_EACH = 7
_BY_NAME = frozenset({"named", "header"})
_BY_TEXT = frozenset({"keyword", "pattern", "classifier", "conversation", "default"})
_EXPECTED = ("quality", "cost", "first", "total")
