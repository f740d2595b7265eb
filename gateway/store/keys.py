"""The applications' keys: made, listed, revoked, and looked up for each request.

A key is 256 bits from the operating system's generator, and is stored as its SHA-256. A slow hash
such as bcrypt or Argon2 protects passwords because those can be guessed; 2^256 random keys cannot,
however fast the hash, and a slow one would cost each request milliseconds.
"""

import hmac
import logging
import secrets
import time
from collections.abc import Callable, Iterable
from hashlib import sha256

import msgspec
from sqlalchemy import Connection, Row, func, insert, select, update

from gateway.store.schema import keys, meta
from gateway.store.store import Store, StoreError, fields
from gateway.types.limits import Quota
from gateway.types.requests import Caller, Role

log = logging.getLogger("switchboard.store")

PREFIX = "sb-"
SHOWN = len(PREFIX) + 4
"""Characters of a key that are kept in the clear: 24 of its 256 bits, for people to tell keys
apart."""

LONGEST_NAME = 200
"""Characters of a key's name."""


class Key(msgspec.Struct, frozen=True):
    """A key as it is stored: all but the key itself. Instants are Unix seconds."""

    id: str
    name: str
    prefix: str
    routes: tuple[str, ...] | None
    tenant: str | None
    direct: bool
    created: float
    expires: float | None
    revoked: float | None
    role: Role | None
    quota: Quota | None = None

    def valid(self, now: float) -> bool:
        """Whether it opens anything at that instant."""
        return self.revoked is None and (self.expires is None or now < self.expires)


class Opens(msgspec.Struct, frozen=True):
    """What a key that is valid opens: its digest in hex, whose it is, and until when."""

    digest: str
    caller: Caller
    expires: float | None = None


class NewKey(msgspec.Struct, frozen=True):
    """A key just made, the only time that `secret` can be seen. The `first` one of a store closes
    it to whoever has none, for good."""

    secret: str
    key: Key
    first: bool = False

    def __repr__(self) -> str:
        return f"NewKey({self.key.id})"


class Keys:
    """The keys of a store."""

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now

    def create(
        self,
        name: str,
        *,
        routes: Iterable[str] | None = None,
        tenant: str | None = None,
        direct: bool | None = None,
        role: Role | None = None,
        expires: float | None = None,
        quota: Quota | None = None,
    ) -> NewKey:
        """Makes a key. `direct` (targets, and overrides by header) is off where `routes` are set.
        Without a `role` it opens none of the admin API.

        Raises StoreError for a name that another valid key has, for one that cannot be one, and
        for an end that is over.
        """
        wrong = fault_of_name(name)
        if wrong is not None:
            raise StoreError(f"a key's name {wrong}")
        if expires is not None and expires <= self._now():
            raise StoreError("a key that ends before now opens nothing; give it a later end")
        secret = PREFIX + secrets.token_urlsafe(32)
        allowed = None if routes is None else tuple(sorted(set(routes)))
        key = Key(
            id="key_" + secrets.token_hex(6),
            name=name,
            prefix=secret[:SHOWN],
            routes=allowed,
            tenant=tenant,
            direct=allowed is None if direct is None else direct,
            created=self._now(),
            expires=expires,
            revoked=None,
            role=role,
            quota=quota,
        )
        with self._store.change() as connection:
            _touch(connection)
            before = _all(connection)
            if any(other.name == name and other.valid(self._now()) for other in before):
                raise StoreError(f"there is a key '{name}' already; revoke it or take another name")
            row = msgspec.structs.asdict(key)
            row["routes"] = None if allowed is None else msgspec.json.encode(allowed).decode()
            row["quota"] = _written(quota)
            connection.execute(insert(keys).values(digest=_digest(secret.encode()).hex(), **row))
        return NewKey(secret, key, first=not before)

    def limit(self, which: str, change: Callable[[Quota], Quota]) -> Key:
        """Changes the limits of a key by its id or name. Raises StoreError where no valid key is
        called so."""
        with self._store.change() as connection:
            _touch(connection)
            for key in _all(connection):
                if which in (key.id, key.name) and key.valid(self._now()):
                    quota: Quota | None = change(key.quota or Quota())
                    quota = None if quota == Quota() else quota
                    connection.execute(
                        update(keys).where(keys.c.id == key.id).values(quota=_written(quota))
                    )
                    return msgspec.structs.replace(key, quota=quota)
        raise StoreError(f"there is no key '{which}' to limit; `switchboard keys list` shows them")

    def list(self) -> tuple[Key, ...]:
        """Every key, the oldest first, revoked ones too."""
        with self._store.read() as connection:
            return _all(connection)

    def revoke(self, which: str) -> Key:
        """Revokes a key by its id or name. Raises StoreError where no valid key is called so."""
        with self._store.change() as connection:
            _touch(connection)
            now = self._now()
            for key in _all(connection):
                if which in (key.id, key.name) and key.valid(now):
                    connection.execute(update(keys).where(keys.c.id == key.id).values(revoked=now))
                    return msgspec.structs.replace(key, revoked=now)
        raise StoreError(f"there is no key '{which}' to revoke; `switchboard keys list` shows them")


class Keyring:
    """The valid keys in memory, for the event loop.

    `refresh` may run in another thread: what `lookup` reads is replaced as a whole.
    """

    def __init__(self, store: Store, *, now: Callable[[], float] = time.time) -> None:
        self._store = store
        self._now = now
        self._version = -1
        self._callers: dict[bytes, tuple[bytes, Caller, float | None]] = {}
        self._told: tuple[object, tuple[Opens, ...]] | None = None
        self.empty = True

    def __repr__(self) -> str:
        return f"Keyring({len(self._callers)} keys)"

    def callers(self) -> Iterable[Caller]:
        """Whoever has a valid key."""
        return [caller for _, caller, _ in self._callers.values()]

    def told(self) -> tuple[Opens, ...] | None:
        """The valid keys, to be known again; None where there never was one."""
        if self.empty:
            return None
        callers = self._callers
        if self._told is None or self._told[0] is not callers:
            told = tuple(Opens(d.hex(), caller, until) for d, caller, until in callers.values())
            self._told = callers, told
        return self._told[1]

    def know(self, opens: Iterable[Opens] | None) -> None:
        """What was told before, until the store can be read."""
        if opens is None:
            return
        digests = [(bytes.fromhex(each.digest), each) for each in opens]
        self._callers = {d: (d, each.caller, each.expires) for d, each in digests}
        self.empty = False

    def version(self) -> int:
        """The store's counter of changes of keys."""
        with self._store.read() as connection:
            return _version(connection)

    def refresh(self) -> bool:
        """Reads the keys again if any was changed; whether so.

        `empty` is true only while there never was a key: to revoke the last one opens nothing. No
        key is ever taken out of a store, so one that had some and has none now has been lost and
        made anew: until it has any, those that were known last open what they did.
        """
        with self._store.read() as connection:
            version = _version(connection)
            if version == self._version:
                return False
            rows = connection.execute(select(keys).order_by(keys.c.created)).all()
        if not rows and not self.empty:
            self._version = version
            log.error("the store has lost its keys: those known last are valid until it has any")
            return False
        self._callers = dict(_entry(row) for row in rows if row.revoked is None)
        self.empty = not rows
        self._version = version
        return True

    def lookup(self, token: bytes) -> Caller | None:
        """Whose key that is; None for one that is unknown, revoked or expired."""
        digest = _digest(token)
        entry = self._callers.get(digest)
        if entry is None:
            return None
        known, caller, expires = entry
        if not hmac.compare_digest(known, digest):
            return None
        if expires is not None and self._now() >= expires:
            return None
        return caller


def fault_of_name(name: str) -> str | None:
    """What is wrong with a key's name, with the mend; None where nothing is. It stands in paths,
    logs and tables, as one word among others."""
    if not name.strip():
        return "is empty; say who will use the key"
    if len(name) > LONGEST_NAME:
        return f"has {len(name)} characters; write {LONGEST_NAME} at most"
    bad = next((each for each in name if each == "/" or not each.isprintable()), None)
    if bad is None:
        return None
    return f"may not have {bad!a} in it; write letters, digits, blanks, '-', '.' or '_'"


def _digest(token: bytes) -> bytes:
    return sha256(token, usedforsecurity=True).digest()


def _written(quota: Quota | None) -> str | None:
    return None if quota is None else msgspec.json.encode(quota).decode()


def _all(connection: Connection) -> tuple[Key, ...]:
    rows = connection.execute(select(keys).order_by(keys.c.created, keys.c.id)).all()
    return tuple(_key(row) for row in rows)


def _key(row: "Row[tuple[object, ...]]") -> Key:
    known = fields(row)
    del known["digest"]
    if known["routes"] is not None:
        known["routes"] = msgspec.json.decode(known["routes"])
    if known["quota"] is not None:
        known["quota"] = msgspec.json.decode(known["quota"], type=Quota)
    return msgspec.convert(known, Key)


def _entry(row: "Row[tuple[object, ...]]") -> tuple[bytes, tuple[bytes, Caller, float | None]]:
    key, digest = _key(row), bytes.fromhex(row.digest)
    routes = None if key.routes is None else frozenset(key.routes)
    caller = Caller(key.id, key.name, key.tenant, routes, key.direct, key.role, key.quota)
    return digest, (digest, caller, key.expires)


def _version(connection: Connection) -> int:
    value = connection.scalar(select(func.max(meta.c.value)).where(meta.c.name == "keys"))
    return 0 if value is None else int(value)


def _touch(connection: Connection) -> None:
    """Says that keys change, and takes the lock of writing before anything is read."""
    connection.execute(update(meta).where(meta.c.name == "keys").values(value=meta.c.value + 1))
