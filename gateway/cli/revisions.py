"""`switchboard apply`, `history` and `rollback`: what runs, what ran, and what shall run."""

import getpass
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gateway.cli.admin import GatewayOption, KeyOption, ask, base_of, readiness
from gateway.cli.opening import (
    MOST,
    ConfigOption,
    EnvironmentOption,
    JsonOption,
    StoreOption,
    console,
    fail,
    local,
    opened,
    print_problems,
    span,
    tell_problems,
)
from gateway.errors import ConfigError, SwitchboardError
from gateway.types.snapshot import Server

if TYPE_CHECKING:
    from gateway.config.load import Loaded
    from gateway.revisions.plan import Plan
    from gateway.store.revisions import Guard, Revision

TAKEN_UP_S = 15.0
"""How long a running gateway may take to serve what was written into its store."""

LOOK_EVERY_S = 0.05
GUARD_EVERY_S = 0.5

LATE_S = 60.0
"""How long after its time a guard's end is waited for."""

NoteOption = Annotated[
    str, typer.Option("--note", "-m", metavar="TEXT", help="Why, for whoever reads the history.")
]


def register(app: typer.Typer) -> None:
    """Adds `apply`, `history` and `rollback`."""

    @app.command()
    def apply(
        plan: Annotated[
            Path | None,
            typer.Argument(
                metavar="[PLAN]", help="What `switchboard diff --out` wrote.", show_default=False
            ),
        ] = None,
        note: NoteOption = "",
        guard: Annotated[
            str | None,
            typer.Option(
                metavar="TIME", help="Watch it for so long, such as 2m, and go back if it is worse."
            ),
        ] = None,
        max_errors: Annotated[
            float,
            typer.Option(min=0, max=100, metavar="POINTS", help="Worse: so much more fails, in %."),
        ] = 2.0,
        max_latency: Annotated[
            float, typer.Option(min=0, metavar="PERCENT", help="Worse: so much slower.")
        ] = 50.0,
        wait: Annotated[bool, typer.Option(help="Wait for the guard's end.")] = True,
        environment: EnvironmentOption = None,
        as_json: JsonOption = False,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Serve the files from now on, as a new revision. Nothing wrong is ever served.

        With a key that may, it goes through the running gateway, which checks the files as it would
        serve them; without one straight into the store, where the gateway finds it. A plan is
        applied as it was made, and refused when the files or what runs have changed since.
        """
        watched = _guard(guard, max_errors, max_latency)
        planned = _planned(plan) if plan is not None else None
        environment = planned.environment if planned is not None else environment
        loaded = _loaded(config, environment, as_json=as_json)
        if planned is not None and dict(loaded.texts) != planned.files:
            fail("the files have changed since the plan was made: make a new one with `diff --out`")
        after = planned.report.running if planned is not None else None
        if key is not None:
            body = {
                "files": dict(loaded.texts),
                "environment": environment,
                "note": note,
                "after": after,
                "guard": None if watched is None else msgspec.structs.asdict(watched),
            }
            found = ask(
                "POST", "revisions", body, gateway=gateway, key=key, config=config, as_json=as_json
            )
            if watched is not None and wait:
                path = f"revisions/{found['seq']}"
                found = _until_ended(
                    found, lambda: ask("GET", path, gateway=gateway, key=key, config=config)
                )
            _tell(found, True, as_json, watched=watched is not None)
            return
        base = base_of(gateway, config)
        if watched is not None and readiness(base) is None:
            fail(f"no gateway answers at {base}, so there is nothing to watch: leave --guard out")
        revision, unchanged = _written(loaded, environment, note, after, watched, store, config)
        served, plain = _taken_up(revision, base), {**_plain(revision), "unchanged": unchanged}
        if watched is not None and wait:
            url = store or loaded.snapshot.server.store
            plain = _until_ended(plain, lambda: _plain(_again(revision.seq, url, config)))
        _tell(plain, served, as_json, base=base, watched=watched is not None)

    @app.command()
    def history(
        limit: Annotated[
            int, typer.Option(min=1, max=MOST, metavar="N", help="The last so many.")
        ] = 20,
        as_json: JsonOption = False,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """What was set to run, by whom and when, the newest first; adapters' promotions too."""
        from gateway.revisions.history import history as entries_of
        from gateway.store.adapters import AdapterBook
        from gateway.store.revisions import Revisions

        with opened(store, config, new=False) as found:
            entries = entries_of(Revisions(found), AdapterBook(found), limit)
        if as_json:
            print(msgspec.json.encode(entries).decode())
        else:
            _print_history(console(), entries)

    @app.command()
    def rollback(
        to: Annotated[
            str | None,
            typer.Argument(
                metavar="[N|HASH]",
                help="So many revisions back, or to the one with that hash.",
                show_default=False,
            ),
        ] = None,
        seq: Annotated[
            int | None,
            typer.Option("--to", metavar="NUMBER", help="To the revision of that number."),
        ] = None,
        note: NoteOption = "",
        as_json: JsonOption = False,
        gateway: GatewayOption = None,
        key: KeyOption = None,
        store: StoreOption = None,
        config: ConfigOption = Path(),
    ) -> None:
        """Serve what ran before. No watcher and no restart serves again what was left."""
        which, steps = _meant(to, seq)
        if key is not None:
            body = {"to": which, "steps": steps, "note": note}
            found = ask(
                "POST", "rollback", body, gateway=gateway, key=key, config=config, as_json=as_json
            )
            _tell(found, True, as_json)
            return
        base = _base(gateway, config)
        revision = _gone_back(which, steps, note, store, config)
        _tell(_plain(revision), _taken_up(revision, base), as_json, base=base)


def _meant(to: str | None, seq: int | None) -> tuple[str | int | None, int]:
    """The revision that is meant, or how many to go back."""
    if seq is not None and to is not None:
        raise typer.BadParameter(f"name one of '{to}' and --to {seq}")
    if seq is not None:
        return seq, 1
    if to is None:
        return None, 1
    if to.isdigit() and len(to) < 6:
        if int(to) < 1:
            raise typer.BadParameter("go back by 1 at least")
        return None, int(to)
    if len(to) < 6 or set(to.lower()) - set("0123456789abcdef"):
        raise typer.BadParameter(f"'{to}' is neither a number nor a hash of six digits or more")
    return to.lower(), 1


def _guard(window: str | None, max_errors: float, max_latency: float) -> "Guard | None":
    from gateway.store.revisions import Guard

    if window is None:
        return None
    seconds = span(window)
    if not 0 < seconds <= 86_400:
        raise typer.BadParameter("a guard lasts from a second to a day, such as 2m")
    return Guard(seconds, max_errors / 100, max_latency / 100)


def _until_ended(revision: dict[str, Any], look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The revision once its guard has ended. For one that ran already none was begun."""
    if revision.get("unchanged") or revision["guard"] is None or revision["verdict"]:
        return revision
    until = revision["saved"] + revision["guard"]["window"]
    out = Console(stderr=True, highlight=False)
    with out.status(f"revision {revision['seq']} is watched until {local(until)[11:]}"):
        while not revision["verdict"]:
            if time.time() > until + LATE_S:
                fail(f"the guard has not ended {LATE_S:.0f} s after its time: is the gateway away?")
            time.sleep(GUARD_EVERY_S)
            revision = look()
    return revision


def _again(seq: int, store: str, config: Path) -> "Revision":
    from gateway.store.revisions import Revisions

    with opened(store, config) as found:
        revision = Revisions(found).find(seq)
    assert revision is not None
    return revision


def _planned(file: Path) -> "Plan":
    from gateway.revisions.plan import PlanError, read

    try:
        return read(file)
    except PlanError as error:
        fail(str(error))


# ---------------------------------------------------------------- straight into the store


def author() -> str:
    """Who gives the command, as the history tells it."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()}"


def _loaded(config: Path, environment: str | None, *, as_json: bool) -> "Loaded":
    from gateway.config.load import load

    try:
        loaded = load(config, os.environ, environment)
    except ConfigError as error:
        tell_problems(error.problems, as_json=as_json)
    print_problems(Console(stderr=True, soft_wrap=True, highlight=False), loaded.warnings)
    return loaded


def _written(
    loaded: "Loaded",
    environment: str | None,
    note: str,
    after: int | None,
    guard: "Guard | None",
    store: str | None,
    config: Path,
) -> "tuple[Revision, bool]":
    """The revision, and whether it ran already."""
    from gateway.store.audit import AuditBook
    from gateway.store.revisions import Revisions

    with opened(store or loaded.snapshot.server.store, config, new=True) as found:
        book = Revisions(found)
        saved = book.save(
            loaded.snapshot.hash,
            loaded.texts,
            author(),
            time.time(),
            note=note,
            environment=environment,
            after=after,
            guard=guard,
        )
        latest = saved or book.latest()
        if saved is not None:
            AuditBook(found).add("apply", "", name=author(), source="store", note=note or None)
    assert latest is not None
    return latest, saved is None


def _gone_back(
    to: str | int | None, steps: int, note: str, store: str | None, config: Path
) -> "Revision":
    """Goes back in the store. What cannot be served here may well be where the gateway runs."""
    from gateway.revisions.running import gone_back_to
    from gateway.store.audit import AuditBook
    from gateway.store.revisions import Revisions

    with opened(store, config) as found:
        book = Revisions(found)
        try:
            target = gone_back_to(book, to, steps)
            revision = book.go_back(target, author(), time.time(), note=note)
            subject = str(to) if to is not None else f"{steps} back"
            AuditBook(found).add("rollback", subject, name=author(), source="store")
            return revision
        except SwitchboardError as error:
            fail(str(error))


def _base(gateway: str | None, config: Path) -> str:
    """Where the gateway is asked whether it serves it. A store that is named needs no files here:
    without any it is asked where it usually listens."""
    if gateway is None and not (config / "gateway.yaml").is_file():
        gateway = f"http://{Server().host}:{Server().port}"
    return base_of(gateway, config)


def _plain(revision: "Revision") -> dict[str, Any]:
    from gateway.revisions.running import brief

    return brief(revision)


def _taken_up(revision: "Revision", base: str) -> bool | None:
    """Whether a gateway serves it now: it is waited for, and asked why it does not.

    None where one answers that tells nothing, because there are keys and we gave none.
    """
    until = time.monotonic() + TAKEN_UP_S
    while (ready := readiness(base)) is not None:
        if "snapshot" not in ready:
            return None
        served = ready.get("revision") or {}
        if served.get("seq", 0) >= revision.seq:
            return True
        problem = ready.get("configuration_error")
        if problem and f"revision {revision.seq} " in problem:
            fail(f"{base} serves on with what it had: {problem}")
        if time.monotonic() > until:
            fail(
                f"the gateway at {base} has not taken revision {revision.seq} up in "
                f"{TAKEN_UP_S:.0f} s: has it another store? Name its own with --store, or give an "
                "admin's key with --key"
            )
        time.sleep(LOOK_EVERY_S)
    return False


# ---------------------------------------------------------------- what is said


def _tell(
    revision: Mapping[str, Any],
    served: bool | None,
    as_json: bool,
    *,
    base: str = "",
    watched: bool = False,
) -> None:
    """What has come of it; `base` is where a gateway was looked for, `watched` whether a guard was
    asked for."""
    if as_json:
        print(msgspec.json.encode({"served": served, "revision": revision}).decode())
        if revision["verdict"].startswith("rolled back") and not revision.get("unchanged"):
            raise typer.Exit(1)
        return
    if revision["verdict"].startswith("rolled back") and not revision.get("unchanged"):
        name = f"revision {revision['seq']} ({revision['hash'][:12]})"
        fail(f"{name} was {revision['verdict']}")
    for warning in revision.get("warnings", ()):
        Console(stderr=True).print(f"[yellow]warning:[/yellow] {escape(warning)}", highlight=False)
    name = f"revision {revision['seq']} ({revision['hash'][:12]})"
    said = {
        True: f"[green]{name} is served[/green]",
        False: f"[green]{name} is written[/green]; no gateway answers at {escape(base)}: the next "
        "start serves it, and one that runs elsewhere on this store within a second, or as soon as "
        "new adapters are loaded (--gateway URL names it)",
        None: f"[green]{name} is written[/green]; the gateway takes it up within a second, or "
        "as soon as new adapters are loaded, and tells so to whoever gives a key (--key)",
    }
    if revision.get("unchanged"):
        guard = ", and no guard is begun" if watched else ""
        console().print(f"[green]{name} has this content already[/green]: nothing changes{guard}")
        return
    console().print(said[served])
    if revision["verdict"]:
        console().print(escape(revision["verdict"]))


def _print_history(out: Console, entries: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", justify="right")
    for name in ("hash", "when", "by", "what", "note"):
        table.add_column(name, overflow="fold")
    for entry in entries:
        table.add_row(*_line(entry))
    out.print(table)


def _line(entry: Mapping[str, Any]) -> tuple[str, ...]:
    when = local(entry["saved"])
    if entry["of"] != "configuration":
        said = f"[magenta]{entry['kind']}[/magenta]"
        return ("", "", when, escape(entry["author"]), said, f"{entry['of']}: {entry['note']}")
    left = entry["rolled_back"] is not None
    colour = "green" if entry["running"] else "dim" if left else ""
    what = entry["kind"]
    if entry["restores"] is not None:
        what += f" to {entry['restores']}"
    note = "; ".join(
        part
        for part in (
            "runs" if entry["running"] else "",
            "rolled back" if left else "",
            f"in {entry['environment']}" if entry["environment"] else "",
            entry["verdict"],
            entry["note"],
        )
        if part
    )
    cells = (
        str(entry["seq"]),
        entry["hash"][:12],
        when,
        escape(entry["author"]),
        what,
        escape(note),
    )
    return tuple(f"[{colour}]{each}[/{colour}]" if colour and each else each for each in cells)
