"""What would become of logged requests, decided again."""

from typing import Any

import msgspec
import pytest

from gateway.revisions.traffic import Asked, Move, retold
from gateway.types.backends import Price
from gateway.types.requests import Needs
from gateway.types.snapshot import Snapshot
from tests.gateway.support import route, snapshot, target


def world(**prices: float) -> Snapshot:
    """Two targets, by what they cost a token; a route that takes the better, if it is worth it."""
    targets = [
        target(f"openai/{name}", "http://127.0.0.1:9/v1", price=Price(price, price, price))
        for name, price in prices.items()
    ]
    names = [each.name for each in targets]
    return snapshot(targets, [route("general", *names, value=0.01)])


def asked(**fields: Any) -> Asked:
    plain = Asked(
        *("general", "quality", "classifier", "", "auto", Needs(input_tokens=100), None, 0.5, 0.002)
    )
    return msgspec.structs.replace(plain, **fields)


def test_a_price_that_rises_sends_requests_elsewhere() -> None:
    old, new = world(big=1e-6, small=1e-6), world(big=1e-4, small=1e-6)
    found = retold([asked(), asked(by="default")], old, new, None, requests=20)

    assert (found.sample, found.again, found.elsewhere, found.scale) == (2, 2, 2, 10.0)
    assert found.moves == (Move("general", "openai/big", "openai/small", 2),)
    assert found.old_usd == found.new_usd == pytest.approx(2 * (100 + 200) * 1e-6)
    assert found.logged_usd == pytest.approx(0.004)


def test_what_has_no_target_any_more_is_refused() -> None:
    old, new = world(big=1e-6), world(big=1e-6)
    small = msgspec.structs.replace(
        new.targets["openai/big"],
        capabilities=msgspec.structs.replace(new.targets["openai/big"].capabilities, context=50),
    )
    new = msgspec.structs.replace(new, targets={"openai/big": small})
    found = retold([asked()], old, new, None, requests=1)
    assert (found.elsewhere, found.refused) == (0, 1)


def test_what_cannot_be_told_is_counted_with_its_reason() -> None:
    old = world(big=1e-6)
    new = msgspec.structs.replace(
        old, routes={"other": route("other", "openai/big")}, default_route="other"
    )
    rows = [asked(), asked(by="named", detail="openai/gone", model="openai/gone")]
    found = retold(rows, old, new, None, requests=9, undecided=3)
    assert (found.sample, found.again) == (5, 0)
    assert dict(found.left_out) == {
        "were refused before a target was chosen": 3,
        "are of a route that is not there: general": 1,
        "name a target that is not declared any more: openai/gone": 1,
    }


def test_an_alias_and_a_target_lead_where_they_lead_then() -> None:
    old = msgspec.structs.replace(world(big=1e-6, small=1e-6), aliases={"gpt": "openai/big"})
    new = msgspec.structs.replace(old, aliases={"gpt": "openai/small"})
    row = asked(by="named", detail="openai/big", model="gpt")
    assert retold([row], old, new, None, requests=1).moves == (
        Move("general", "openai/big", "openai/small", 1),
    )
