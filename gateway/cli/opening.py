"""What commands have in common: the files, the store, reading times, saying what went wrong."""

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn
from urllib.parse import urlsplit

import msgspec
import typer
from rich.console import Console
from rich.markup import escape

from gateway.errors import ConfigError, Problem, SwitchboardError, said
from gateway.types.snapshot import Server, Snapshot

if TYPE_CHECKING:
    from gateway.store.store import Store

StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        envvar="SWITCHBOARD_STORE",
        metavar="URL",
        help="The store's URL instead of the file's.",
    ),
]
EnvironmentOption = Annotated[
    str | None,
    typer.Option(
        "--env",
        envvar="SWITCHBOARD_ENV",
        metavar="NAME",
        help="Lay gateway.NAME.yaml over gateway.yaml.",
        show_envvar=True,
    ),
]
ConfigOption = Annotated[
    Path, typer.Option("--config", metavar="DIR", help="Directory of gateway.yaml.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
SinceOption = Annotated[
    str, typer.Option(metavar="TIME", help="From then on: 15m, 1h, 7d ago, or a local time.")
]
TenantOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="This tenant's; else those of none.")
]
AllTenantsOption = Annotated[bool, typer.Option("--all-tenants", help="Of all tenants together.")]

MOST = 10**9
"""Rows that may be asked for at most: no database has more, and larger numbers are none to it."""

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhdw])")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


@contextmanager
def opened(store: str | None, config: Path, *, new: bool = False) -> Iterator["Store"]:
    """The store that the options name. Every error on purpose is told in red, with exit code 1."""
    from gateway.store.store import Store

    try:
        found = Store.open(store or store_of(config), new=new)
        try:
            yield found
        finally:
            found.close()
    except SwitchboardError as error:
        fail(str(error))


def snapshot_of(config: Path) -> Snapshot:
    """The configuration in a directory, or what is wrong with it in red, with exit code 1."""
    from gateway.config.load import load

    try:
        return load(config, os.environ, os.environ.get("SWITCHBOARD_ENV")).snapshot
    except ConfigError as error:
        tell_problems(error.problems)


def known_routes(store: "Store", config: Path) -> set[str]:
    """The routes of what runs and of the files, as far as either can be read."""
    from gateway.config.load import load, load_texts
    from gateway.store.revisions import Revisions

    found: set[str] = set()
    latest = Revisions(store).latest()
    if latest is not None:
        with suppress(ConfigError):
            loaded = load_texts(latest.files, config, os.environ, latest.environment)
            found.update(loaded.snapshot.routes)
    with suppress(ConfigError):
        loaded = load(config, os.environ, os.environ.get("SWITCHBOARD_ENV"))
        found.update(loaded.snapshot.routes)
    return found


def tell_problems(problems: Iterable[Problem], *, as_json: bool = False) -> NoReturn:
    """Says on the error output what is wrong, and ends the command with exit code 1. Programs that
    asked for JSON have the problems on the standard output, too."""
    problems = list(problems)
    if as_json:
        print(msgspec.json.encode({"problems": problems}).decode())
    print_problems(Console(stderr=True, soft_wrap=True, highlight=False), problems)
    raise typer.Exit(1)


def print_problems(console: Console, problems: Iterable[Problem]) -> None:
    """Each with its place and key, what is wrong, and the mend."""
    for problem in problems:
        colour = "red" if problem.severity == "error" else "yellow"
        place = f"{problem.file}:{problem.line}" if problem.line else problem.file
        key = f" [cyan]{escape(problem.key)}[/cyan]" if problem.key else ""
        console.print(f"[bold]{escape(place)}[/bold]{key}")
        console.print(f"  [{colour}]{problem.severity}:[/{colour}] {escape(problem.message)}")
        if problem.mend:
            console.print(f"  [green]mend:[/green] {escape(problem.mend)}")


def fail(message: str) -> NoReturn:
    """Says why on the error output, and ends the command with exit code 1."""
    Console(stderr=True, soft_wrap=True).print(f"[red]{escape(message)}[/red]", highlight=False)
    raise typer.Exit(1)


def missing(kind: str, name: str, known: Iterable[str], none: str = "none") -> NoReturn:
    """Says that there is no such thing, and what may be meant or what there is, if not `none`."""
    fail(lacking(kind, name, known, none))


def lacking(kind: str, name: str, known: Iterable[str], none: str = "none") -> str:
    """The same as words."""
    from gateway.config.words import closest

    known = list(known)
    near = closest(name, known)
    hint = f"did you mean '{near}'?" if near else f"there are: {', '.join(known) or none}"
    return f"there is no {kind} '{name}'; {hint}"


def tell(error: SwitchboardError | OSError) -> None:
    """Says on the error output what went wrong: each problem with its place, a file by its name."""
    stderr = Console(stderr=True, soft_wrap=True, highlight=False)
    if isinstance(error, ConfigError):
        print_problems(stderr, error.problems)
        return
    text = said(error)
    if isinstance(error, OSError) and error.filename is not None:
        text = f"{error.filename}: {error.strerror}"
    stderr.print(f"[red]{escape(text)}[/red]")


def address_of(listen: str, example: str = "127.0.0.1:8080") -> tuple[str, int]:
    """HOST:PORT, an IPv6 host in brackets. Raises typer.BadParameter for another text."""
    host, colon, port = listen.rpartition(":")
    if not (colon and host and port.isdecimal() and int(port) < 65536):
        raise typer.BadParameter(f"'{listen}' is not HOST:PORT; write {example}")
    return host.strip("[]"), int(port)


def url_of(gateway: str) -> str:
    """A gateway's base URL. Raises typer.BadParameter for what is none."""
    parts = urlsplit(gateway)
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
        raise typer.BadParameter(f"'{gateway}' is no gateway's URL; write http://HOST:PORT")
    return gateway.rstrip("/")


def store_of(config: Path) -> str:
    """The store's URL in a directory's gateway.yaml.

    Nothing else of the configuration is looked at: one that cannot run, or whose providers' keys
    are not set here, still has a log to be read.
    """
    url = _written(config, "name the store with --store", "store").get("store")
    return url if isinstance(url, str) else Server().store


def listen_of(config: Path) -> str:
    """HOST:PORT where a directory's gateway.yaml says that the gateway listens."""
    server = _written(config, "name the gateway with --gateway", "server", "server.listen")
    part = server.get("server")
    listen = part.get("listen") if isinstance(part, dict) else None
    return listen if isinstance(listen, str) else f"{Server().host}:{Server().port}"


def _written(config: Path, instead: str, *keys: str) -> dict[str, object]:
    """A directory's gateway.yaml as it is written, under the overlay that SWITCHBOARD_ENV names;
    `instead` is what helps where it cannot be read, or has a problem at one of `keys`."""
    from gateway.config.written import written

    file = config / "gateway.yaml"
    try:
        document, problems = written(config, os.environ, os.environ.get("SWITCHBOARD_ENV"))
    except OSError as error:
        fail(f"{file}: {error.strerror}; {instead}, or another --config")
    for problem in problems:
        if document is None or problem.key in keys:
            fail(f"{problem}; or {instead}")
    data = document.data if document is not None else None
    return data if isinstance(data, dict) else {}


def instant(text: str, now: float, *, ahead: bool = False) -> float:
    """Unix seconds of `90s`, `1h` or `7d` ago (with `ahead`, from now), or of a local time.

    Raises typer.BadParameter for another text.
    """
    if _SPAN.fullmatch(text.strip()):
        seconds = span(text)
        return now + seconds if ahead else now - seconds
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise typer.BadParameter(
            f"'{text}' is no time; write a span such as 90s, 15m, 1h or 7d, or a time such as "
            f"{datetime.fromtimestamp(now):%Y-%m-%dT%H:%M}"
        ) from None


def span(text: str) -> float:
    """Seconds of `90s`, `15m`, `1h` or `7d`. Raises typer.BadParameter for another text."""
    found = _SPAN.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"'{text}' is no span of time; write one such as 90s, 2m or 1h")
    return float(found[1]) * _SECONDS[found[2]]


def share_of(text: str, *, none: bool = False) -> float:
    """A share as `5%`, `5 %` or `0.05`, above nothing or, with `none`, of nothing too.

    Raises typer.BadParameter for another text.
    """
    from gateway.config import units

    try:
        share = units.parse(text, units.SHARE)
    except units.UnitError as error:
        raise typer.BadParameter(f"{error.message}; {error.mend}") from None
    if not 0.0 <= share <= 1.0 or (share == 0.0 and not none):
        least = "at least" if none else "above"
        said = f"'{text}' is not {least} 0 % and at most 100 %"
        if 1.0 < share <= 100.0 and "%" not in text:
            said += f": it is {100 * share:g} %; write '{share:g} %' or {share / 100:g}"
        raise typer.BadParameter(said)
    return share


def local(at: float) -> str:
    """An instant in this machine's time zone, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def console() -> Console:
    """Standard output; lines are never cut or wrapped where a program reads them."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())
