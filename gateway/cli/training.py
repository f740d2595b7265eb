"""What `switchboard train` does: from what is known of routes to versions of their quality."""

import os
import time
from pathlib import Path

import msgspec
import typer
from rich.console import Console

from gateway.classify.encoder import EncoderError
from gateway.cli.audit import user, written_down
from gateway.cli.opening import fail
from gateway.errors import SwitchboardError
from gateway.evals import runs as eval_runs
from gateway.evals.lessons import answers_of, kept_answers
from gateway.learn import versions
from gateway.learn.features import FeatureKind
from gateway.learn.kinds import kind_for
from gateway.learn.lessons import logged
from gateway.learn.pooled import LEAST, Together, over_own, train_together
from gateway.learn.rows import Answer, Logged, Rows, rows_of
from gateway.learn.scorer import UNSURE, scorer
from gateway.learn.training import Trained, Versus, train, versus
from gateway.qualities import with_qualities
from gateway.retraining import TOO_LITTLE
from gateway.revisions.relearned import relearned
from gateway.revisions.tried import Served
from gateway.store.evaluated import EvalBook
from gateway.store.evidence import EvidenceBook
from gateway.store.feedback import FeedbackBook
from gateway.store.learned import LearnedBook
from gateway.store.replay import ReplayLog
from gateway.store.revisions import Revisions
from gateway.store.store import Store
from gateway.types.snapshot import Snapshot

NOTHING = (
    "there is nothing to learn from: no eval run of a route, and nothing said of answers whose"
    " features or text were kept. Run `switchboard eval run`, or write `keep: features`,"
    " `metrics` and `right` in a route, and send feedback"
)
REPLAYED_S = 7 * 86_400.0
"""A new version is tried on the requests of so long."""


class _Source(msgspec.Struct, frozen=True):
    """What is known of a route: by which runs, and by requests, `left_out` of them."""

    candidates: tuple[str, ...]
    answers: list[Answer]
    runs: tuple[str, ...]
    requests: list[Logged]
    left_out: dict[str, int]


def learn(
    store: Store,
    home: Path,
    snapshot: Snapshot,
    route: str | None,
    *,
    over_all: bool,
    keep: bool,
) -> list[versions.Version]:
    """The versions, kept or not; exits where too little is known of all routes."""
    now = time.time()
    routes = [route] if route is not None else list(snapshot.routes)
    wanted = list(snapshot.routes) if over_all else routes
    try:
        kind = kind_for(snapshot)
        sources = _sources(store, home, snapshot, wanted, kind, now)
        together = _together(sources, snapshot, kind) if over_all else None
    except EncoderError as error:
        fail(str(error))
    made = []
    for name in routes:
        if name not in sources:
            continue
        found = _chosen(name, sources, together, kind, snapshot.routes[name].value)
        if found is not None:
            made.append(_version(store, home, snapshot, name, sources, kind, found, now, keep=keep))
    if not any(name in sources for name in routes):
        _notes().print(NOTHING, style="red")
    if not made:
        raise typer.Exit(TOO_LITTLE)
    return made


def _notes() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def _sources(
    store: Store,
    home: Path,
    snapshot: Snapshot,
    routes: list[str],
    kind: FeatureKind,
    now: float,
) -> dict[str, _Source]:
    """Of each route of which anything is known."""
    known, book, evals = _answers(home), FeedbackBook(store), EvalBook(store)
    found = {}
    for name in routes:
        answers, runs = known.get(name, ([], ()))
        more, others, unread = kept_answers(evals, name, runs, kind)
        answers, runs = answers + more, runs + others
        requests, left_out = logged(book, snapshot.routes[name], now, kind)
        if unread:
            left_out["are of eval runs, and have features of another kind"] = unread
        if answers or any(each.right is not None for each in requests):
            candidates = tuple(each.target for each in snapshot.routes[name].candidates)
            found[name] = _Source(candidates, answers, runs, requests, left_out)
    return found


def _together(
    sources: dict[str, _Source], snapshot: Snapshot, kind: FeatureKind
) -> Together | None:
    """What is learned over all routes; None, with the reason said, where that is one."""
    rows = {
        name: rows_of(of.answers, of.candidates, kind, of.requests, of.left_out, fewest=LEAST)
        for name, of in sources.items()
    }
    rows = {name: each for name, each in rows.items() if len(each.targets) > 1}
    if len(rows) < 2:
        _notes().print(
            f"{LEAST} answers of each of two candidates are known to be right or wrong of"
            f" {len(rows) or 'no'} route{'' if len(rows) == 1 else 's'} only: there is nothing to"
            " be learned over all",
            style="yellow",
        )
        return None
    values = {name: snapshot.routes[name].value for name in rows}
    with _notes().status(f"learning over {len(rows)} routes") as status:
        return train_together(
            rows, values, lambda done, of: status.update(f"all routes: {done} of {of} fits")
        )


class _Chosen(msgspec.Struct, frozen=True):
    """What a route would go by: learned over the routes `over`, or of its own rows only."""

    rows: Rows
    trained: Trained
    over: tuple[str, ...] = ()
    over_own: Versus | None = None


def _chosen(
    name: str,
    sources: dict[str, _Source],
    together: Together | None,
    kind: FeatureKind,
    value: float,
) -> _Chosen | None:
    """The better of what is learned of a route; None, with the reason said, where that is none."""
    of = sources[name]
    try:
        rows = rows_of(of.answers, of.candidates, kind, of.requests, of.left_out)
    except EncoderError as error:
        fail(str(error))
    own = None
    with _notes().status(f"{name}: learning from {len(rows.keys):,} prompts") as status:
        try:
            own = train(rows, value, lambda done, of: status.update(f"{name}: {done} of {of} fits"))
        except ValueError as error:
            if together is None or name not in together.trained:
                _notes().print(f"{name}: {error}", style="yellow", markup=False)
                return None
    if together is None or name not in together.trained:
        assert own is not None
        return _Chosen(rows, own)
    part, by_all, over = together.rows[name], together.trained[name], tuple(together.rows)
    if own is None:
        return _Chosen(part, by_all, over)
    lead = over_own(rows, own, part, by_all)
    if lead.gain_low > 0.0:
        return _Chosen(part, by_all, over, lead)
    return _Chosen(rows, own, (), lead)


def _answers(home: Path) -> dict[str, tuple[list[Answer], tuple[str, ...]]]:
    """Of each route: what its runs say of answers, and which they are."""
    found: dict[str, tuple[list[Answer], tuple[str, ...]]] = {}
    for file in sorted((home / eval_runs.HOME).glob("*/*/run.json")):
        try:
            run, results = eval_runs.read(file.parent)
        except SwitchboardError as error:
            fail(str(error))
        if run.route is None:
            continue
        answers, names = found.get(run.route, ([], ()))
        answers += answers_of(run, results)
        found[run.route] = answers, (*names, eval_runs.named(run))
    return found


def _version(
    store: Store,
    home: Path,
    snapshot: Snapshot,
    name: str,
    sources: dict[str, _Source],
    kind: FeatureKind,
    found: _Chosen,
    now: float,
    *,
    keep: bool,
) -> versions.Version:
    """The version, kept or not, and used unless it is surely worse than something."""
    book, rows, trained = LearnedBook(store), found.rows, found.trained
    lead = _versus(book, name, kind, rows, trained, sources[name].answers)
    replayed = _replayed(store, home, snapshot, name, kind, rows, trained, now)
    worse = [
        than
        for than, high in (
            ("each target's share", trained.report.gain_high),
            ("the version before", lead.gain_high if lead is not None else 0.0),
        )
        if high < 0.0
    ]
    if replayed is not None and replayed.surely_worse:
        worse.append("what was decided")
    why = f"surely worse than {' and '.join(worse)}" if worse else ""
    if why:
        _notes().print(f"{name}: {why}; not used", style="red")
    of = found.over or (name,)
    runs = tuple(dict.fromkeys(run for each in of for run in sources[each].runs))
    made = versions.Version(
        "", now, name, kind.name, runs, trained.report, lead, not why, why, replayed, found.over,
        found.over_own,
    )  # fmt: skip
    if not keep:
        return made
    with written_down(store, "train", name) as said:
        made = versions.keep(book, trained.model, made, user())
        said.update(version=made.version, used=made.used, why=why or None)
        if made.over:
            said.update(over=list(made.over))
    return made


def _versus(
    book: LearnedBook,
    name: str,
    kind: FeatureKind,
    rows: Rows,
    trained: Trained,
    answers: list[Answer],
) -> Versus | None:
    """Against what the route goes by, on prompts new to it, where that can be compared: it has to
    have been learned of the same features."""
    kept = book.current().get(name)
    if kept is None or kept.kind != kind.name:
        return None
    before = versions.told(kept)
    model = versions.read(book, name, before.version)
    known = {each.key for each in answers if each.run in before.runs}
    return versus(rows, trained, model, before.report.targets, known, before.at)


def _replayed(
    store: Store,
    home: Path,
    snapshot: Snapshot,
    name: str,
    kind: FeatureKind,
    rows: Rows,
    trained: Trained,
    now: float,
) -> versions.Replayed | None:
    """What the version would have changed of what was logged, where anything was."""
    revisions = Revisions(store)
    latest = revisions.latest()
    if latest is None:
        return None
    known = {snapshot.hash: snapshot, latest.hash: snapshot}
    candidates = [each.target for each in snapshot.routes[name].candidates]
    version = scorer("", kind.name, trained.model, rows.targets, candidates)
    foretold = {
        key: [UNSURE if column is None else float(said[column]) for column in version.columns]
        for key, at, said in zip(rows.keys, rows.at, trained.predicted, strict=True)
        if at > 0.0
    }
    return relearned(
        ReplayLog(store),
        with_qualities(snapshot, FeedbackBook(store), EvidenceBook(store), now),
        Served(revisions, home, os.environ, known).under,
        name,
        version,
        kind,
        foretold,
        now - REPLAYED_S,
        now,
    )
