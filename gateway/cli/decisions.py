"""`switchboard explain` and `policy show`: why a request went where it did, what a policy wants."""

import asyncio
import os
import re
from pathlib import Path
from typing import Annotated, NoReturn

import msgspec
import typer
from rich.console import Console

from gateway.cli.explain import render, to_json
from gateway.config.load import load
from gateway.errors import ApiError
from gateway.types import Caller, Decision, Endpoint, Recognition, Snapshot

Config = Annotated[
    Path, typer.Option(metavar="DIR", help="Directory of gateway.yaml, routes/ and policies/.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

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
        store: Annotated[
            str | None, typer.Option(metavar="URL", help="The store's URL instead of the file's.")
        ] = None,
        as_json: AsJson = False,
    ) -> None:
        """Show every candidate with quality, cost, seconds, net value and verdict.

        A text is decided on with the prices and priors of the files; an id shows what was decided.
        """
        snapshot = load(config, os.environ).snapshot
        try:
            if AN_ID.match(what):
                decision, recognition = _kept(what, store or snapshot.server.store)
            else:
                decision, recognition = asyncio.run(_decided(snapshot, what, route))
        except ApiError as error:
            Console(stderr=True).print(f"[red]{error.message}[/red]", highlight=False)
            raise typer.Exit(1) from None
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

        snapshot = load(config, os.environ).snapshot
        policy = snapshot.policies.get(name)
        if policy is None:
            _missing("policy", name, list(snapshot.policies))
        if route is not None and route not in snapshot.routes:
            _missing("route", route, list(snapshot.routes))
        words = describe(policy, snapshot.routes[route] if route is not None else None)
        if as_json:
            said = {**msgspec.to_builtins(policy), "words": words}
            print(msgspec.json.encode(said).decode())
        else:
            print(words)


def _missing(kind: str, name: str, known: list[str]) -> NoReturn:
    import difflib

    close = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(known)}"
    Console(stderr=True).print(f"[red]there is no {kind} '{name}'{hint}[/red]", highlight=False)
    raise typer.Exit(1)


async def _decided(snapshot: Snapshot, text: str, model: str) -> tuple[Decision, Recognition]:
    """The decision on a text by the files alone: nothing is sent and nothing is measured yet."""
    from gateway.classify.lexical import fit_lexical
    from gateway.classify.recognise import Recogniser
    from gateway.http.parse import parse
    from gateway.policy.decide import decide
    from gateway.policy.live import Live
    from gateway.types import Question

    examples = [(e, r.name) for r in snapshot.routes.values() for e in r.match.examples]
    recogniser = Recogniser(snapshot, fit_lexical(examples) if examples else None)
    body = {"model": model, "messages": [{"role": "user", "content": text}]}
    raw = msgspec.json.encode(body)
    request = parse(Endpoint.CHAT, raw, id="explain", headers={}, caller=Caller())
    seen = await recogniser.recognise(request)
    question = Question(
        route=seen.recognition.route,
        policy=seen.policy,
        needs=request.needs,
        caller=request.caller,
        only=seen.only,
    )
    return decide(question, snapshot, Live(), draw=1.0 - 1e-12), seen.recognition


def _kept(id: str, store_url: str) -> tuple[Decision, Recognition | None]:
    from gateway.errors import NotFound
    from gateway.store.reader import Reader
    from gateway.store.store import Store

    store = Store.open(store_url)
    try:
        row = Reader(store).find(id)
    finally:
        store.close()
    if row is None or row["decision"] is None:
        raise NotFound(f"there is no decision '{id}' in {store_url}")
    recognition = row["recognition"]
    return (
        msgspec.convert(row["decision"], Decision),
        msgspec.convert(recognition, Recognition) if recognition is not None else None,
    )
