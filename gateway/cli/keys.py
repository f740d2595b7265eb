"""`switchboard keys`: the applications' keys made, listed, limited and revoked."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from gateway.cli.audit import written_down
from gateway.cli.opening import (
    ConfigOption,
    JsonOption,
    StoreOption,
    console,
    instant,
    known_routes,
    lacking,
    local,
    opened,
)
from gateway.cli.records import ASIDE, Cell, Lines
from gateway.config import units
from gateway.types.limits import Quota, Rate
from gateway.types.requests import ROLES, Role

if TYPE_CHECKING:
    from gateway.store.keys import Key

HEAD = ("id", "name", "begins", "routes", "tenant", "limits", "made", "expires", "state")

RequestsOption = Annotated[
    str | None, typer.Option(metavar="RATE", help="Requests that it may make: 600/min, 10/s.")
]
TokensOption = Annotated[
    str | None, typer.Option(metavar="RATE", help="Tokens that it may take: 100k/min.")
]
ConcurrentOption = Annotated[
    str | None, typer.Option(metavar="N", help="Requests of it that may be under way at once.")
]
PerDayOption = Annotated[
    str | None, typer.Option(metavar="MONEY", help="What it may spend in a day of UTC: '10 usd'.")
]
PerMonthOption = Annotated[
    str | None, typer.Option(metavar="MONEY", help="What it may spend in a month: '200 usd'.")
]

STATES = {"valid": "green", "expired": "yellow", "revoked": "red"}


def register(app: typer.Typer) -> None:
    """Adds `keys`."""
    keys = typer.Typer(help="Keys of the applications that call.", no_args_is_help=True)
    app.add_typer(keys, name="keys")

    @keys.command()
    def create(
        name: Annotated[
            str, typer.Option(metavar="NAME", help="Who will use it; each name only once.")
        ],
        routes: Annotated[
            str | None,
            typer.Option(
                metavar="NAMES",
                help="Only these, with commas between; else every route and target.",
            ),
        ] = None,
        tenant: Annotated[
            str | None,
            typer.Option(metavar="NAME", help="What {key.tenant} stands for in a candidate."),
        ] = None,
        role: Annotated[
            str | None,
            typer.Option(
                metavar="WORD",
                help="May command besides: read, operate, apply or admin, each what those before "
                "it may; else nothing.",
            ),
        ] = None,
        admin: Annotated[bool, typer.Option("--admin", help="The same as --role admin.")] = False,
        expires: Annotated[
            str | None,
            typer.Option(metavar="TIME", help="When it ends: in 30d, or at a local time."),
        ] = None,
        requests: RequestsOption = None,
        tokens: TokensOption = None,
        concurrent: ConcurrentOption = None,
        per_day: PerDayOption = None,
        per_month: PerMonthOption = None,
        as_json: JsonOption = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Make a key and print it: the only time that it can be seen.

        The key alone goes to the output, what is said about it to the error output. The first key
        of a store closes it: from then on every request needs one, even when all are revoked.
        """
        from gateway.store.keys import Keys, fault_of_name

        wrong = fault_of_name(name)
        if wrong is not None:
            raise typer.BadParameter(f"--name {wrong}")
        allowed = None if routes is None else [each for each in routes.split(",") if each.strip()]
        if allowed is not None and not allowed:
            raise typer.BadParameter("--routes names none; leave it out for every route")
        if admin and role not in (None, "admin"):
            raise typer.BadParameter(
                f"--admin is the same as --role admin, and --role says {role}; write one of both"
            )
        may = _role("admin" if admin else role)
        change = _changed(requests, tokens, concurrent, per_day, per_month)
        now = time.time()
        end = None if expires is None else instant(expires, now, ahead=True)
        if end is not None and end <= now:
            raise typer.BadParameter(f"--expires {expires} is over; write a time to come")
        with opened(store, config, new=True) as found:
            routes_of = None if allowed is None else [each.strip() for each in allowed]
            quota = change(Quota())
            said = {"routes": routes_of, "tenant": tenant, "role": may, "expires": end}
            said["limits"] = quota_text(quota)
            with written_down(found, "keys create", name, **said) as written:
                made = Keys(found).create(
                    name,
                    routes=routes_of,
                    tenant=tenant,
                    role=may,
                    expires=end,
                    quota=None if quota == Quota() else quota,
                )
                written["id"] = made.key.id
            known = known_routes(found, config) if routes_of else set()
        for each in routes_of or ():
            if known and each not in known:
                Console(stderr=True, soft_wrap=True).print(
                    f"[yellow]warning: {escape(lacking('route', each, sorted(known)))}[/yellow]",
                    highlight=False,
                )
        if made.first:
            _note(
                "This is the store's first key: from now on every request needs one, and whoever "
                "was let in without gets 401. That stays so when it is revoked."
            )
        if as_json:
            shown = {"secret": made.secret, **msgspec.structs.asdict(made.key)}
            print(msgspec.json.encode(shown).decode())
            return
        print(made.secret)
        what = "every route" if allowed is None else ", ".join(made.key.routes or ())
        Console(stderr=True, soft_wrap=True).print(
            f"[green]{made.key.id}[/green] for {escape(name)}: {escape(what)}. "
            "Keep the key now, it is not shown again; a running gateway knows it within 1 s.",
            highlight=False,
        )

    @keys.command()
    def limit(
        which: Annotated[str, typer.Argument(metavar="ID|NAME", help="The key's id or name.")],
        requests: RequestsOption = None,
        tokens: TokensOption = None,
        concurrent: ConcurrentOption = None,
        per_day: PerDayOption = None,
        per_month: PerMonthOption = None,
        as_json: JsonOption = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Change a key's limits: those that are named. A running gateway has them in a second.

        "none" lifts a limit, also one that is declared for every key; "default" leaves it to what
        is declared for every key.
        """
        from gateway.store.keys import Keys

        change = _changed(requests, tokens, concurrent, per_day, per_month)
        with opened(store, config) as found:
            with written_down(found, "keys limit", which) as written:
                key = Keys(found).limit(which, change)
                written["limits"] = quota_text(key.quota)
        if as_json:
            print(msgspec.json.encode(key).decode())
        else:
            console().print(f"[green]{key.id}[/green] {escape(key.name)}: {quota_text(key.quota)}")

    @keys.command("list")
    def list_keys(
        as_json: JsonOption = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Show every key, the revoked ones too; never the key itself."""
        from gateway.store.keys import Keys

        with opened(store, config) as found:
            known = Keys(found).list()
        now = time.time()

        def state(key: "Key") -> str:
            return "revoked" if key.revoked else "valid" if key.valid(now) else "expired"

        if as_json:
            shown = [{**msgspec.structs.asdict(key), "state": state(key)} for key in known]
            print(msgspec.json.encode(shown).decode())
        elif not known:
            console().print("no keys: every caller on this machine is let in")
        else:
            rows = [_row(key, state(key)) for key in known]
            Lines(console(), HEAD).print(rows)

    @keys.command()
    def revoke(
        which: Annotated[str, typer.Argument(metavar="ID|NAME", help="The key's id or name.")],
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Revoke a key: a running gateway refuses it within a second."""
        from gateway.store.keys import Keys

        with opened(store, config) as found:
            with written_down(found, "keys revoke", which):
                key = Keys(found).revoke(which)
            now = time.time()
            last = not any(each.valid(now) for each in Keys(found).list())
        console().print(f"[red]revoked[/red] {key.id} {escape(key.name)}")
        if last:
            _note(
                "No key is valid now, and nobody is let in without: "
                "`switchboard keys create --name NAME` makes one."
            )


def _note(text: str) -> None:
    """What changes for others, on the error output."""
    Console(stderr=True, soft_wrap=True).print(f"[yellow]{text}[/yellow]", highlight=False)


def quota_text(quota: Quota | None) -> str:
    """Limits as people write them."""
    if quota is None or quota == Quota():
        return "no limits of its own"
    parts = []
    for what, rate in (("requests", quota.requests), ("tokens", quota.tokens)):
        if rate is not None:
            parts.append(f"{what} {units.format_rate(rate.amount, rate.per_s)}")
    if quota.concurrent is not None:
        parts.append(f"{quota.concurrent} at once")
    for what, dollars in (("day", quota.day), ("month", quota.month)):
        if dollars is not None:
            parts.append(f"{units.format(dollars, units.MONEY)} a {what}")
    return ", ".join([*parts, *(f"{what} lifted" for what in sorted(quota.lifted))])


def _changed(
    requests: str | None,
    tokens: str | None,
    concurrent: str | None,
    per_day: str | None,
    per_month: str | None,
) -> Callable[[Quota], Quota]:
    """The change that the options say; raises typer.BadParameter."""
    written = {
        "requests": (requests, _rate),
        "tokens": (tokens, _rate),
        "concurrent": (concurrent, _count),
        "day": (per_day, _money),
        "month": (per_month, _money),
    }
    changes: dict[str, object] = {}
    lifted: set[str] = set()
    for what, (text, read) in written.items():
        if text is None:
            continue
        if text == "none":
            lifted.add(what)
        changes[what] = None if text in ("none", "default") else read(text)

    def change(quota: Quota) -> Quota:
        kept = quota.lifted - changes.keys()
        return msgspec.structs.replace(quota, **changes, lifted=frozenset(kept | lifted))

    return change


def _rate(text: str) -> Rate:
    try:
        return Rate(*units.parse_rate(text))
    except units.UnitError as error:
        raise typer.BadParameter(f"{error.message}; {error.mend}") from None


def _money(text: str) -> float:
    try:
        return units.parse(text, units.MONEY)
    except units.UnitError as error:
        raise typer.BadParameter(f"{error.message}; {error.mend}") from None


def _count(text: str) -> int:
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise typer.BadParameter(f"'{text}' is not a whole number above 0")


def _role(word: str | None) -> Role | None:
    if word is None:
        return None
    for role in ROLES:
        if role == word:
            return role
    raise typer.BadParameter(f"'{word}' is no role; write one of {', '.join(ROLES)}")


def _row(key: "Key", state: str) -> list[Cell]:
    return [
        Cell(key.id),
        Cell(key.name),
        Cell(f"{key.prefix}…", ASIDE),
        Cell(
            ("every" if key.routes is None else ",".join(key.routes))
            + (f" +{key.role}" if key.role else "")
        ),
        Cell(key.tenant or "–"),
        Cell("–" if key.quota is None else quota_text(key.quota)),
        Cell(local(key.created), ASIDE),
        Cell("–" if key.expires is None else local(key.expires), ASIDE),
        Cell(state, STATES[state]),
    ]
