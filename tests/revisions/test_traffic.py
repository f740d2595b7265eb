"""What would become of logged requests, decided again."""

from typing import Any

import msgspec
import pytest

from gateway.learn.kinds import WORDS
from gateway.learn.rows import Answer, rows_of
from gateway.learn.scorer import Scorer, scorer
from gateway.learn.training import train
from gateway.revisions.traffic import LEARNED, Asked, Move, question_again, retold
from gateway.types.backends import Price
from gateway.types.decisions import Question
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


def test_a_target_that_was_named_stays_of_the_route_that_was_named_with_it() -> None:
    plain = world(big=1e-6)
    dear, other = route("dear", "openai/big"), route("other", "openai/big")
    old = msgspec.structs.replace(plain, routes={**plain.routes, "dear": dear})
    new = msgspec.structs.replace(old, routes={"other": other, "dear": dear}, default_route="other")
    by_name = {"by": "named", "detail": "openai/big", "model": "openai/big"}
    for before, after in (("general", "other"), ("dear", "dear")):
        found = question_again(asked(**by_name, route=before), old, new)
        assert isinstance(found, Question)
        assert (found.route, found.only) == (after, "openai/big")


def knows() -> Scorer:
    """The small one is right on sums, and the big one on proofs."""
    names, tried = ("openai/big", "openai/small"), []
    for n in range(60):
        for small, text in ((1.0, f"add up these figures {n}"), (0.0, f"prove this theorem {n}")):
            tried.append(Answer(text, "openai/big", 1.0 - small, 0.0))
            tried.append(Answer(text, "openai/small", small, 0.0))
    return scorer("v1", WORDS.name, train(rows_of(tried, names, WORDS), 0.01).model, names, names)


def test_a_policy_that_goes_by_learned_quality_decides_by_what_was_kept_of_the_prompt() -> None:
    old = world(big=1e-6, small=1e-6)
    policy = msgspec.structs.replace(old.policies["quality"], learned=True)
    new = msgspec.structs.replace(old, policies={"quality": policy})
    rows = [
        asked(read=WORDS.of("add up these figures 7")),
        asked(read=WORDS.of("prove this theorem 7")),
        asked(),
    ]
    found = retold(rows, old, new, None, requests=3, learned={"general": knows()})
    assert (found.again, found.by_prompt, found.elsewhere) == (2, 2, 1)
    assert found.moves == (Move("general", "openai/big", "openai/small", 1),)
    assert dict(found.left_out) == {LEARNED: 1}
    back = retold(rows, new, old, None, requests=3, learned={"general": knows()})
    assert back.moves == (Move("general", "openai/small", "openai/big", 1),)
    without = retold(rows, old, new, None, requests=3)
    assert (without.again, without.by_prompt, without.elsewhere) == (3, 0, 0)
