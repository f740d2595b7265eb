"""What a process serves when it starts: the store's last revision, or the files.

The last revision is the truth. The files are taken on a first start, and where somebody works on
them alone (`--watch`); in both cases they become a revision by that. A content that was left by a
rollback is not taken from the files again until it changes.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import msgspec

from gateway.config.load import Loaded, load, load_texts
from gateway.config.overlay import GATEWAY
from gateway.config.written import written
from gateway.errors import ConfigError, Problem
from gateway.revisions.known import Known, KnownFile
from gateway.store.revisions import Revision, Revisions
from gateway.store.store import Store, StoreAway, StoreError
from gateway.types.snapshot import Server, Snapshot

MOST_TRIED = 20
"""Contents before the last that are tried at most."""


class Home(msgspec.Struct, frozen=True):
    """Where a process finds its files: their directory, what variables stand for, which
    environment's overlay they are under, and whether changed files are served by themselves."""

    directory: Path
    env: Mapping[str, str] = {}
    environment: str | None = None
    watch: bool = False

    @property
    def cache(self) -> Path:
        """Where the gateway keeps what is its own."""
        return self.directory / ".switchboard"


class Opening(msgspec.Struct, frozen=True):
    """What is served first. `compiled` is the hash of the snapshot as it was compiled here: it
    differs from the revision's where variables or paths are others than they were then.

    `problem` says why the store's last revision, of the number `last`, is not the one. `known` is
    what was known last of a store that is away.
    """

    revision: Revision
    snapshot: Snapshot
    compiled: str
    said: tuple[str, ...] = ()
    problem: str | None = None
    last: int = 0
    known: Known | None = None


Chosen = Literal["files", "last"]


def chosen(*, known: bool, same: bool, watch: bool, left: bool) -> Chosen:
    """Whether files that are right are served, or the last revision. Pure.

    `known` is whether there is a revision, `same` whether it has the files' content, `left` whether
    a rollback left that content.
    """
    if not known:
        return "files"
    return "files" if watch and not same and not left else "last"


def open_home(
    home: Home,
    store_url: str | None,
    *,
    patience_s: float | None = None,
    now: Callable[[], float] = time.time,
    suits: Callable[[Snapshot, str], None] = lambda snapshot, store: None,
) -> tuple[Store, Opening]:
    """The store, and what is served first; `patience_s` is as for `Store.open`.

    `suits` raises ConfigError for files that cannot be served by that store as is wanted: asked
    before they become a revision, so that a start that is refused leaves nothing behind.

    While a store is away, what was known last of it is served, if anything was. A directory without
    a `gateway.yaml` serves a store that `store_url` names, or its own of before: the one that lies
    in the working directory may be anybody's. Raises ConfigError, StoreError.
    """
    files = _read(home)
    if isinstance(files, ConfigError) and not home.directory.is_dir():
        raise files
    try:
        if isinstance(files, Loaded):
            url = store_url or files.snapshot.server.store
            if Store.standing(url, patience_s=patience_s).at is None:
                suits(files.snapshot, Store.named(url))
            store = Store.open(url, patience_s=patience_s)
        else:
            store = _known_store(store_url or _written_store(home), files, patience_s)
    except StoreAway as error:
        loaded = files if isinstance(files, Loaded) else None
        written = _written_store(home) if loaded is None else loaded.snapshot.server.store
        return _without_store(home, store_url or written, error, patience_s)
    try:
        book = Revisions(store)
        _at_home(home, book, files, store.name, named=store_url is not None)
        opening = _opened(home, book, files, now(), lambda snapshot: suits(snapshot, store.name))
        _note_home(home, book, store.name)
        return store, opening
    except BaseException:
        store.close()
        raise


def _empty(home: Home) -> bool:
    return not (home.directory / GATEWAY).exists()


def _read(home: Home) -> Loaded | ConfigError:
    try:
        return load(home.directory, home.env, home.environment)
    except ConfigError as error:
        return error


def _known_store(url: str, wrong: ConfigError, patience_s: float | None) -> Store:
    """The store of files that are wrong: without one there is nothing else to serve."""
    try:
        return Store.open(url, new=False, patience_s=patience_s)
    except StoreAway:
        raise
    except StoreError:
        raise wrong from None


def _without_store(
    home: Home, url: str, away: StoreAway, patience_s: float | None
) -> tuple[Store, Opening]:
    """A store that is opened later, and what was known last of it.

    Raises ConfigError, StoreAway.
    """
    file = KnownFile(home.cache, Store.named(url))
    known = file.read()
    if known is None:
        raise StoreAway(f"{away}; nothing of it is known here yet, so nothing can be served")
    opening = _of(home, known.revision)
    seq = known.revision.seq
    said = (
        f"warning: {away}",
        f"warning: revision {seq}, which was known last, is served by {file.path} until the store "
        "is back; keys, drains and adapters are as they were known then",
    )
    store = Store.open(url, patience_s=patience_s, later=True)
    return store, msgspec.structs.replace(_saying(opening, *said), known=known)


def _written_store(home: Home) -> str:
    """The store's URL as the files have it, whatever else is wrong with them."""
    try:
        document, _ = written(home.directory, home.env, home.environment)
    except (OSError, UnicodeDecodeError):
        return Server().store
    data = document.data if document is not None else None
    url = data.get("store") if isinstance(data, dict) else None
    return url if isinstance(url, str) else Server().store


def _at_home(
    home: Home, book: Revisions, files: Loaded | ConfigError, store: str, *, named: bool
) -> None:
    """Refuses files whose store, by default one in the working directory, is another directory's.

    Only of a store that is a file: another one has many hosts, each with its own paths. Raises
    ConfigError.
    """
    if not store.startswith("sqlite"):
        return
    homes = book.homes()
    if str(home.directory.resolve()) in homes:
        return
    problems = files.problems if isinstance(files, ConfigError) else ()
    last = book.latest()
    if last is not None:
        others = [each for each in sorted(homes) if (Path(each) / GATEWAY).exists()]
        if others and not _same(last, files):
            raise ConfigError([*problems, _of_another(home, store, others[0], last)])
    if problems and _empty(home) and not named:
        raise ConfigError(problems)


def _note_home(home: Home, book: Revisions, store: str) -> None:
    here = str(home.directory.resolve())
    if store.startswith("sqlite") and here not in book.homes():
        with contextlib.suppress(StoreError):  # it can be read, at least
            book.add_home(here)


def _same(last: Revision, files: Loaded | ConfigError) -> bool:
    return isinstance(files, Loaded) and last.same_as(files.snapshot.hash, dict(files.texts))


def _of_another(home: Home, store: str, other: str, last: Revision) -> Problem:
    return Problem(
        str(home.directory / GATEWAY),
        0,
        "store",
        f"the store {store} is that of another configuration, in {other}: its revision {last.seq}, "
        f"by {last.author}, would be served in the place of these files",
        "give this one a store of its own, as by `store: sqlite:///OTHER.db` or `--store`; if its "
        "files are to take the other's place: `switchboard apply --config "
        f"{home.directory} --store {store}`",
    )


def _opened(
    home: Home,
    book: Revisions,
    files: Loaded | ConfigError,
    now: float,
    suits: Callable[[Snapshot], None],
) -> Opening:
    last = book.latest()
    if isinstance(files, ConfigError):
        if last is None:
            raise files
        opening = _last(home, book, last)
        seq = opening.revision.seq
        why = f"the files are wrong, revision {seq} is served:\n{files}"
        if _empty(home):
            why = (
                f"warning: there is no {GATEWAY} in {home.directory.resolve()}: revision {seq} by "
                f"{opening.revision.author}, the last of the store, is served"
            )
        return _saying(opening, why)
    hash, texts = files.snapshot.hash, dict(files.texts)
    same = last is not None and _same(last, files)
    left = book.was_left(hash, texts)
    if chosen(known=last is not None, same=same, watch=home.watch, left=left) == "last":
        assert last is not None
        opening = _last(home, book, last)
        drift = _drift(opening.revision, same=same, left=left, watch=home.watch)
        return _saying(opening, *drift, *_environments(opening.revision, home, same=same))
    suits(files.snapshot)
    said = tuple(f"warning: {warning}" for warning in files.warnings)
    if last is not None:
        said += (f"the files have changed since revision {last.seq}: they are served",)
    saved = book.save(
        hash,
        texts,
        "serve --watch" if home.watch else "serve",
        now,
        kind="start" if last is None else "watch",
        environment=home.environment,
    )
    revision = saved or book.latest()
    assert revision is not None
    snapshot = msgspec.structs.replace(files.snapshot, hash=revision.hash)
    return Opening(revision, snapshot, hash, said)


def _saying(opening: Opening, *said: str) -> Opening:
    return msgspec.structs.replace(opening, said=(*opening.said, *said))


def _last(home: Home, book: Revisions, last: Revision) -> Opening:
    """The last revision, or the one before it that can be served here. Raises ConfigError."""
    try:
        return _of(home, last)
    except ConfigError as error:
        wrong = error
    for each in _earlier(book, last):
        try:
            opening = _of(home, each)
        except ConfigError:
            continue
        problem = (
            f"revision {last.seq} by {last.author}, the store's last, cannot be served here: "
            f"revision {each.seq} is served instead, until another comes by `switchboard apply` or "
            f"`switchboard rollback`:\n{wrong}"
        )
        return msgspec.structs.replace(opening, problem=problem, last=last.seq)
    raise ConfigError([*wrong.problems, _not_served(last)])


def _earlier(book: Revisions, last: Revision) -> list[Revision]:
    """The contents that ran before, the newest first. What was left by a rollback is none."""
    contents = {last.hash}
    found: list[Revision] = []
    for each in book.list(1000):
        if each.rolled_back is None and each.hash not in contents and len(found) < MOST_TRIED:
            contents.add(each.hash)
            found.append(each)
    return found


def _of(home: Home, revision: Revision) -> Opening:
    loaded = load_texts(revision.files, home.directory, home.env, revision.environment)
    snapshot = msgspec.structs.replace(loaded.snapshot, hash=revision.hash)
    warnings = tuple(f"warning: {warning}" for warning in loaded.warnings)
    return Opening(revision, snapshot, loaded.snapshot.hash, warnings)


def _not_served(last: Revision) -> Problem:
    return Problem(
        f"revision {last.seq}",
        0,
        "",
        f"the store's last revision, by {last.author}, cannot be served here, and none before it",
        "mend what it needs, or go on with `switchboard apply` or `switchboard rollback`",
    )


def _environments(last: Revision, home: Home, *, same: bool) -> tuple[str, ...]:
    if same or last.environment == home.environment:
        return ()
    its, ours = (f"'{each}'" if each else "none" for each in (last.environment, home.environment))
    return (
        f"warning: revision {last.seq} is of another environment ({its}, here: {ours}): give each "
        "environment a `store:` of its own in its overlay",
    )


def _drift(last: Revision, *, same: bool, left: bool, watch: bool) -> tuple[str, ...]:
    if same:
        return ()
    if left:
        return (
            f"warning: the files hold what was rolled back: revision {last.seq} is served until "
            "they change; `switchboard apply` would serve them all the same",
        )
    assert not watch
    return (
        f"warning: the files differ from revision {last.seq}, which is served; "
        "`switchboard diff` shows how, `switchboard apply` serves them",
    )
