from hashlib import sha256
from pathlib import Path

import pytest

from gateway.store.keys import Keyring, Keys
from gateway.store.store import Store, StoreError
from gateway.types.requests import Caller
from tests.store.world import AT, emptied


class Now:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.at = AT

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def keys(store: Store, now: Now) -> Keys:
    return Keys(store, now=now)


@pytest.fixture
def ring(store: Store, now: Now) -> Keyring:
    return Keyring(store, now=now)


def test_a_key_opens_what_it_was_made_for(keys: Keys, ring: Keyring) -> None:
    made = keys.create("app", routes=["b", "a"], tenant="acme")
    ring.refresh()

    assert ring.lookup(made.secret.encode()) == Caller(
        key=made.key.id,
        name="app",
        tenant="acme",
        routes=frozenset({"a", "b"}),
        direct=False,
    )


def test_a_key_without_routes_opens_everything(keys: Keys, ring: Keyring) -> None:
    made = keys.create("app")
    ring.refresh()
    caller = ring.lookup(made.secret.encode())

    assert caller is not None
    assert (caller.routes, caller.direct) == (None, True)


def test_keys_are_long_and_never_alike(keys: Keys) -> None:
    secrets = {keys.create(f"app-{n}").secret for n in range(20)}

    assert len(secrets) == 20
    assert all(secret.startswith("sb-") and len(secret) == 46 for secret in secrets)


@pytest.mark.parametrize("token", [b"", b"sb-", b"sb-wrong", b"\xff", b"key_1"])
def test_another_token_opens_nothing(keys: Keys, ring: Keyring, token: bytes) -> None:
    made = keys.create("app")
    ring.refresh()

    assert ring.lookup(token) is None
    assert ring.lookup(made.secret.encode()[:-1]) is None
    assert ring.lookup(made.key.id.encode()) is None


def test_the_store_has_the_digest_and_not_the_key(sqlite: Store, tmp_path: Path) -> None:
    secret = Keys(sqlite).create("app").secret.encode()
    sqlite.close()
    kept = b"".join(file.read_bytes() for file in tmp_path.iterdir())

    assert sha256(secret).hexdigest().encode() in kept
    assert secret not in kept
    assert secret[8:] not in kept


def test_nothing_prints_a_key(keys: Keys, ring: Keyring) -> None:
    made = keys.create("app")
    ring.refresh()

    assert made.secret not in f"{made!r} {made.key!r} {ring!r} {keys!r}"


def test_a_revoked_key_opens_nothing_and_leaves_no_open_door(keys: Keys, ring: Keyring) -> None:
    made = keys.create("app")
    ring.refresh()
    assert not ring.empty

    keys.revoke("app")
    assert ring.refresh()
    assert ring.lookup(made.secret.encode()) is None
    assert not ring.empty


def test_a_store_that_has_lost_its_keys_opens_no_door(
    store: Store, keys: Keys, ring: Keyring
) -> None:
    before = keys.create("app").secret.encode()
    ring.refresh()
    emptied(store)
    assert not ring.refresh()
    assert not ring.empty
    assert ring.lookup(before) is not None

    after = keys.create("app").secret.encode()
    assert ring.refresh()
    assert ring.lookup(before) is None
    assert ring.lookup(after) is not None


def test_a_new_store_has_no_keys(ring: Keyring) -> None:
    ring.refresh()

    assert ring.empty


def test_refresh_reads_only_what_changed(keys: Keys, ring: Keyring) -> None:
    ring.refresh()
    assert not ring.refresh()
    before = ring.version()

    keys.create("app")
    assert ring.version() > before
    assert ring.refresh()
    assert not ring.refresh()


def test_a_key_ends_with_its_time(keys: Keys, ring: Keyring, now: Now) -> None:
    token = keys.create("app", expires=AT + 10).secret.encode()
    ring.refresh()

    now.at = AT + 9.9
    assert ring.lookup(token) is not None
    now.at = AT + 10
    assert ring.lookup(token) is None


def test_a_name_is_taken_while_its_key_is_valid(keys: Keys, now: Now) -> None:
    keys.create("app")
    with pytest.raises(StoreError, match="'app' already; revoke it"):
        keys.create("app")

    keys.revoke("app")
    now.at += 1
    keys.create("app")
    assert [(key.name, key.revoked is None) for key in keys.list()] == [
        ("app", False),
        ("app", True),
    ]


def test_a_key_is_revoked_by_its_id_too(keys: Keys) -> None:
    made = keys.create("app")

    assert keys.revoke(made.key.id).revoked == AT
    with pytest.raises(StoreError, match=f"no key '{made.key.id}' to revoke"):
        keys.revoke(made.key.id)


def test_of_two_keys_with_one_name_the_valid_one_is_revoked(store: Store) -> None:
    clock = [AT]
    keys = Keys(store, now=lambda: clock[0])
    keys.create("app", expires=AT + 5)
    clock[0] = AT + 10
    valid = keys.create("app")

    assert keys.revoke("app").id == valid.key.id
    with pytest.raises(StoreError, match="no key 'app' to revoke"):
        keys.revoke("app")


def test_the_list_tells_keys_apart_by_their_beginning(keys: Keys) -> None:
    made = keys.create("app", routes=["a"], tenant="acme", expires=AT + 5)
    (listed,) = keys.list()

    assert listed == made.key
    assert listed.prefix == made.secret[:7]


@pytest.mark.parametrize(
    ("name", "expires", "why"),
    [
        ("a\tb", None, r"name may not have '\\t' in it"),
        ("", None, "name is empty"),
        ("app", AT, "a key that ends before now opens nothing"),
    ],
)
def test_what_is_no_key_is_refused(
    sqlite: Store, name: str, expires: float | None, why: str
) -> None:
    keys = Keys(sqlite, now=lambda: AT)
    with pytest.raises(StoreError, match=why):
        keys.create(name, expires=expires)
    assert keys.list() == ()
