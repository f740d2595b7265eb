"""`switchboard explain` and `policy show`: why a request went where it did, what a policy wants."""

import asyncio
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli.explain import render, to_json
from gateway.cli.opening import (
    JsonOption,
    StoreOption,
    fail,
    missing,
    opened,
    snapshot_of,
    store_of,
)
from gateway.errors import SwitchboardError
from gateway.types.decisions import Decision
from gateway.types.requests import Caller, Endpoint, Recognition
from gateway.types.snapshot import Snapshot

Config = Annotated[
    Path, typer.Option(metavar="DIR", help="Directory of gateway.yaml, routes/ and policies/.")
]

if TYPE_CHECKING:
    from gateway.learn.features import FeatureKind
    from gateway.learn.versions import Current

AN_ID = re.compile(r"^(req|dec|chatcmpl|cmpl|resp)[_-]\S+$")


def register(app: typer.Typer) -> None:
    """Adds `explain` and `policy show`."""

    @app.command()
    def explain(
        what: Annotated[
            str,
            typer.Argument(metavar="TEXT|ID", help="A text, or the id of a request or decision."),
        ],
        config: Config = Path(),
        route: Annotated[
            str, typer.Option(metavar="NAME", help="As if the request named this route.")
        ] = "auto",
        store: StoreOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Show every candidate with quality, cost, seconds, net value and verdict.

        A text is recognised and decided on as the files say, with their prices and priors, and with
        what the store knows of qualities and of what commands drained or weighed; an id shows what
        was decided.
        """
        snapshot = snapshot_of(config)
        gone_by: dict[str, str] | None = None
        if AN_ID.match(what):
            decision, recognition = _kept(what, store, config)
        else:
            routes = list(snapshot.routes)
            if route not in ("auto", *routes, *snapshot.aliases, *snapshot.targets):
                missing("route", route, routes)
            snapshot = _known(snapshot, store, config)
            try:
                decision, recognition, gone_by = _decided(snapshot, what, route, store, config)
            except SwitchboardError as error:
                fail(str(error))
        if as_json:
            told = to_json(decision, recognition, snapshot)
            print(msgspec.json.encode(told | {"learned": gone_by}).decode())
        else:
            Console().print(render(decision, recognition, snapshot, gone_by))

    policies = typer.Typer(help="What a policy wants, in words.", no_args_is_help=True)
    app.add_typer(policies, name="policy")

    @policies.command()
    def show(
        name: Annotated[str, typer.Argument(metavar="NAME", help="The policy's name.")],
        config: Config = Path(),
        route: Annotated[
            str | None, typer.Option(metavar="NAME", help="Say it for this route's value.")
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Say a policy's trade-off in words and figures."""
        from gateway.policy.words import describe

        snapshot = snapshot_of(config)
        policy = snapshot.policies.get(name)
        if policy is None:
            missing("policy", name, snapshot.policies)
        if route is not None and route not in snapshot.routes:
            missing("route", route, snapshot.routes)
        words = describe(policy, snapshot.routes[route] if route is not None else None)
        if as_json:
            said = {**msgspec.to_builtins(policy), "words": words}
            print(msgspec.json.encode(said).decode())
        else:
            print(words)


def _known(snapshot: Snapshot, store: str | None, config: Path) -> Snapshot:
    """With what is known of drains, shares and qualities, where there is a store."""
    from gateway.policy.weights import weighed
    from gateway.qualities import with_qualities
    from gateway.store.evidence import EvidenceBook
    from gateway.store.feedback import FeedbackBook
    from gateway.store.store import Store
    from gateway.store.weights import WeightBook

    url = store or store_of(config)
    try:
        if Store.standing(url).at is None:
            return snapshot
    except SwitchboardError as error:
        said = f"warning: drains, shares and what was learned of qualities are left out: {error}"
        Console(stderr=True, soft_wrap=True, highlight=False).print(escape(said), style="yellow")
        return snapshot
    with opened(url, config) as found:
        snapshot = weighed(snapshot, WeightBook(found).current())
        if not any(route.right for route in snapshot.routes.values()):
            return snapshot
        return with_qualities(snapshot, FeedbackBook(found), EvidenceBook(found), time.time())


def _learned(
    snapshot: Snapshot, store: str | None, config: Path, kind: "FeatureKind | None"
) -> "Current":
    """What was learned, where a policy goes by it and there is a store."""
    from gateway.learn.versions import Current, current
    from gateway.store.learned import LearnedBook
    from gateway.store.store import Store

    if not any(each.learned for each in snapshot.policies.values()):
        return Current()
    url = store or store_of(config)
    try:
        if Store.standing(url).at is None:
            return Current()
    except SwitchboardError:  # that much has been said
        return Current()
    with opened(url, config) as found:
        return current(LearnedBook(found), snapshot, {}, kind)


def _decided(
    snapshot: Snapshot, text: str, model: str, store: str | None, config: Path
) -> tuple[Decision, Recognition, dict[str, str] | None]:
    """The decision on a text by the files alone: nothing is sent and nothing is measured yet. Last
    the version of learned quality that it goes by, or why not, where its policy asks for one."""
    from gateway.classify.declared import declared
    from gateway.classify.recognise import Recogniser
    from gateway.http.parse import parse
    from gateway.learn.kinds import kind_of
    from gateway.learn.prompt import Prompt
    from gateway.learn.versions import gone_by
    from gateway.policy.decide import decide
    from gateway.policy.live import Live
    from gateway.types.decisions import Question

    reads = declared(snapshot)
    kind = kind_of(reads)()
    learned = _learned(snapshot, store, config, kind)
    recogniser = Recogniser(snapshot, reads.classifier)
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    raw = msgspec.json.encode(body)
    request = parse(Endpoint.CHAT, raw, id="explain", headers={}, caller=Caller())
    seen = asyncio.run(recogniser.recognise(request))
    scorer = learned.scorers.get(seen.recognition.route)
    by_prompt = snapshot.policies[seen.policy].learned
    qualities = None
    if scorer is not None and by_prompt and request.turns and kind is not None:
        read = asyncio.run(Prompt(request.turns[0], kind, seen.computed).read())
        qualities = scorer.qualities(read) if read is not None else None
    question = Question(
        route=seen.recognition.route,
        policy=seen.policy,
        needs=request.needs,
        caller=request.caller,
        only=seen.only,
        qualities=qualities,
    )
    decision = decide(question, snapshot, Live(), draw=1.0 - 1e-12)
    told = gone_by(decision.route, learned, kind) if by_prompt else None
    return decision, seen.recognition, told


def _kept(id: str, store: str | None, config: Path) -> tuple[Decision, Recognition | None]:
    from gateway.store.reader import Reader

    with opened(store, config) as found:
        row = Reader(found).find(id)
        name = found.name
    if row is None or row["decision"] is None:
        fail(f"there is no decision '{id}' in {name}")
    recognition = row["recognition"]
    return (
        msgspec.convert(row["decision"], Decision),
        msgspec.convert(recognition, Recognition) if recognition is not None else None,
    )
