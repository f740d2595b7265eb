"""Versions of a route's learned quality, in the store.

A version is named by the hash of what is in it, and is never changed. What a route goes by is the
last that is used; one that is surely worse than what is there is kept beside, and not used.
"""

import hashlib
import io
import zipfile
from collections.abc import Mapping

import msgspec
import numpy as np

from gateway.errors import SwitchboardError
from gateway.learn.features import FeatureKind
from gateway.learn.model import Model
from gateway.learn.scorer import Scorer, scorer
from gateway.learn.training import Report, Versus
from gateway.store.learned import Kept, LearnedBook
from gateway.types.snapshot import Snapshot


class VersionError(SwitchboardError):
    """A version cannot be read; the text says which."""


class Replayed(msgspec.Struct, frozen=True):
    """Changes are means a request, of the version less what was logged: `right` a share, `cost` and
    `net` in dollars, with a 95 % interval where nothing of it is as decisions expected it only.

    Of `logged` requests `requests` were replayed; `left_out` says why the others were not.
    `elsewhere` is the share that would have gone to another target.
    """

    since: float
    logged: int
    requests: int
    left_out: Mapping[str, int]
    elsewhere: float
    right: float
    cost: float
    net: float
    net_low: float | None
    net_high: float | None

    @property
    def surely_worse(self) -> bool:
        """Whether it would have brought less."""
        return self.net_high is not None and self.net_high < 0.0


class Version(msgspec.Struct, frozen=True):
    """What is known of one: `at` in Unix seconds; `runs` are those it was learned from, `versus`
    compares it with the version before, and `replayed` with what was logged. `used` is false, and
    `why` says the reason, where decisions do not go by it. Not kept, it has no name.

    `over` are the routes that it was learned over, none where of its own rows only; `over_own` is
    what learning over all is worth more than that, where both could be done."""

    version: str
    at: float
    route: str
    kind: str
    runs: tuple[str, ...]
    report: Report
    versus: Versus | None = None
    used: bool = True
    why: str = ""
    replayed: Replayed | None = None
    over: tuple[str, ...] = ()
    over_own: Versus | None = None


class History(msgspec.Struct, frozen=True):
    """One line of a route's history: made, or gone back to, `at` by `author`."""

    at: float
    author: str
    used: bool
    version: Version


def keep(book: LearnedBook, model: Model, version: Version, author: str) -> Version:
    """Keeps a version, and names it. Raises StoreError."""
    arrays = b"".join(each.tobytes() for each in msgspec.structs.asdict(model).values())
    head = "\0".join([version.kind, *version.report.targets]).encode()
    version = msgspec.structs.replace(
        version, version=hashlib.sha256(head + arrays).hexdigest()[:12]
    )
    book.save(_kept(version, version.at, author, used=version.used), written(model))
    return version


def history(book: LearnedBook, route: str) -> list[History]:
    """All of a route, the newest last. Raises StoreError or VersionError."""
    return [History(each.at, each.author, each.used, told(each)) for each in book.history(route)]


def use(
    book: LearnedBook, route: str, version: str, author: str, now: float, kind: FeatureKind
) -> None:
    """Has a route go by one that was there, and learned of features of that `kind`. Raises
    StoreError or VersionError."""
    found = {each.version: each for each in book.history(route)}
    if version not in found:
        known = ", ".join(found) or "none"
        raise VersionError(f"the route '{route}' has no version '{version}'; there are: {known}")
    chosen = told(found[version])
    if chosen.kind != kind.name:
        raise VersionError(f"the version {unfit(kept=found[version], kind=kind)}")
    read(book, route, version)
    book.save(_kept(chosen, now, author, used=True), None)


def read(book: LearnedBook, route: str, version: str) -> Model:
    """Its model. Raises StoreError or VersionError."""
    content = book.model(route, version)
    if content is None:
        raise VersionError(f"the model of {version} of the route '{route}' is kept no more")
    return as_written(content, route, version)


def written(model: Model) -> bytes:
    """A model as it is kept."""
    held = io.BytesIO()
    np.savez(held, **msgspec.structs.asdict(model))
    return held.getvalue()


def as_written(content: bytes, route: str, version: str) -> Model:
    """What `written` was given. Raises VersionError."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            return Model(**{name: held[name] for name in Model.__struct_fields__})
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise VersionError(f"{version} of the route '{route}' cannot be read: {error}") from error


class Current(msgspec.Struct, frozen=True, eq=False):
    """What routes go by; `unfit` says of others why they do not go by the version that they have:
    a sentence that begins with its name."""

    scorers: Mapping[str, Scorer] = {}
    unfit: Mapping[str, str] = {}


def unfit(kept: Kept, kind: FeatureKind | None) -> str:
    """Why a version that was learned of features of another kind is not gone by."""
    read = kind.name if kind is not None else "none, for the encoder is away"
    return (
        f"{kept.version} was learned of other features ({kept.kind}) than are read now ({read}):"
        " train a new one"
    )


def current(
    book: LearnedBook,
    snapshot: Snapshot,
    known: Mapping[str, Scorer],
    kind: FeatureKind | None,
) -> Current:
    """What each route goes by that has a version, where features of that `kind` are read; those in
    `known` are not read again. Raises StoreError or VersionError."""
    found, others = {}, {}
    for name, kept in book.current().items():
        route, before = snapshot.routes.get(name), known.get(name)
        if route is None:
            continue
        if kind is None or kept.kind != kind.name:
            others[name] = unfit(kept, kind)
            continue
        same = before is not None and before.version == kept.version
        model = before.model if before and same else read(book, name, kept.version)
        candidates = [each.target for each in route.candidates]
        targets = told(kept).report.targets
        found[name] = scorer(kept.version, kept.kind, model, targets, candidates)
    return Current(found, others)


def gone_by(route: str, current: Current, kind: FeatureKind | None) -> dict[str, str]:
    """For people and programs: the `version` that a route goes by, or `why_not`."""
    known = current.scorers.get(route)
    if known is not None and kind is not None and known.kind == kind.name:
        return {"version": known.version}
    if kind is None:
        return {"why_not": "the encoder is away"}
    return {"why_not": current.unfit.get(route, "nothing has been learned of the route")}


def told(kept: Kept) -> Version:
    """What is known of it. Raises VersionError."""
    try:
        return msgspec.json.decode(kept.told, type=Version)
    except msgspec.DecodeError as error:
        raise VersionError(
            f"{kept.version} of the route '{kept.route}' cannot be read: {error}"
        ) from error


def _kept(version: Version, at: float, author: str, *, used: bool) -> Kept:
    text = msgspec.json.encode(version).decode()
    return Kept(version.route, version.version, version.kind, at, author, used, text)
