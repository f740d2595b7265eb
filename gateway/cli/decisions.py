"""`switchboard explain` and `policy show`: why a request went where it did, what a policy wants."""

import asyncio
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli.explain import render, to_json
from gateway.cli.opening import StoreOption, fail, missing, opened, snapshot_of, store_of
from gateway.errors import SwitchboardError
from gateway.types.decisions import Decision
from gateway.types.requests import Caller, Endpoint, Recognition
from gateway.types.snapshot import Snapshot

Config = Annotated[
    Path, typer.Option(metavar="DIR", help="Directory of gateway.yaml, routes/ and policies/.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

if TYPE_CHECKING:
    from gateway.learn.scorer import Scorer

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
        as_json: AsJson = False,
    ) -> None:
        """Show every candidate with quality, cost, seconds, net value and verdict.

        A text is recognised and decided on as the files say, with their prices and priors, and with
        what the store knows of qualities and of what commands drained or weighed; an id shows what
        was decided.
        """
        snapshot = snapshot_of(config)
        if AN_ID.match(what):
            decision, recognition = _kept(what, store, config)
        else:
            routes = list(snapshot.routes)
            if route not in ("auto", *routes, *snapshot.aliases, *snapshot.targets):
                missing("route", route, routes)
            snapshot = _known(snapshot, store, config)
            try:
                learned = _learned(snapshot, store, config)
                decision, recognition = asyncio.run(_decided(snapshot, what, route, learned))
            except SwitchboardError as error:
                fail(str(error))
        if as_json:
            print(msgspec.json.encode(to_json(decision, recognition, snapshot)).decode())
        else:
            Console().print(render(decision, recognition, snapshot))

    policies = typer.Typer(help="What a policy wants, in words.", no_args_is_help=True)
    app.add_typer(policies, name="policy")

    @policies.command()
    def show(
        name: Annotated[str, typer.Argument(metavar="NAME", help="The policy's name.")],
        config: Config = Path(),
        route: Annotated[
            str | None, typer.Option(metavar="NAME", help="Say it for this route's value.")
        ] = None,
        as_json: AsJson = False,
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


def _learned(snapshot: Snapshot, store: str | None, config: Path) -> "Mapping[str, Scorer]":
    """What was learned, where a policy goes by it and there is a store."""
    if not any(each.learned for each in snapshot.policies.values()):
        return {}
    from gateway.learn.versions import scorers
    from gateway.store.learned import LearnedBook
    from gateway.store.store import Store

    url = store or store_of(config)
    try:
        if Store.standing(url).at is None:
            return {}
    except SwitchboardError:  # that much has been said
        return {}
    with opened(url, config) as found:
        return scorers(LearnedBook(found), snapshot, {})


async def _decided(
    snapshot: Snapshot, text: str, model: str, learned: "Mapping[str, Scorer]"
) -> tuple[Decision, Recognition]:
    """The decision on a text by the files alone: nothing is sent and nothing is measured yet."""
    from gateway.classify.declared import declared_classifier
    from gateway.classify.recognise import Recogniser
    from gateway.http.parse import parse
    from gateway.learn.features import features_of
    from gateway.policy.decide import decide
    from gateway.policy.live import Live
    from gateway.types.decisions import Question

    recogniser = Recogniser(snapshot, declared_classifier(snapshot))
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    raw = msgspec.json.encode(body)
    request = parse(Endpoint.CHAT, raw, id="explain", headers={}, caller=Caller())
    seen = await recogniser.recognise(request)
    scorer = learned.get(seen.recognition.route)
    by_prompt = scorer is not None and snapshot.policies[seen.policy].learned and request.turns
    question = Question(
        route=seen.recognition.route,
        policy=seen.policy,
        needs=request.needs,
        caller=request.caller,
        only=seen.only,
        qualities=scorer.qualities(features_of(request.turns[0])) if scorer and by_prompt else None,
    )
    return decide(question, snapshot, Live(), draw=1.0 - 1e-12), seen.recognition


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
