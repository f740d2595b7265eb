"""The most that a request may use and cost."""

import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http.parse import parse
from gateway.limits.reserve import fares_of, nano_of, plainly, tokens_of
from gateway.policy.live import Live
from gateway.types.backends import Capabilities, Price
from gateway.types.decisions import Choice, Decision, RuledOut, Trial
from gateway.types.limits import NANO
from gateway.types.records import Usage
from gateway.types.requests import Caller, Endpoint, Request
from gateway.types.routes import Candidate
from gateway.types.snapshot import Snapshot
from tests.gateway.support import route, snapshot, target


def world(context: int | None = None, system: str | None = None) -> tuple[Snapshot, Decision]:
    """A cheap target and one that is ten times as dear, which has the system prompt."""
    capabilities = Capabilities(context=context)
    targets = [
        target(name, "http://x", price=price, capabilities=capabilities, output_tokens=50.0)
        for name, price in (("a/cheap", Price(1e-6, 0, 2e-6)), ("a/dear", Price(1e-5, 0, 2e-5)))
    ]
    general = route("general", "a/cheap", "a/dear")
    candidates = (general.candidates[0], Candidate("a/dear", 0.9, system=system))
    general = msgspec.structs.replace(general, candidates=candidates)
    ranked = tuple(
        Choice(each.name, "http://x", n, 0.9, 0.0, 0.0, 0.0, 0.0) for n, each in enumerate(targets)
    )
    decision = Decision("general", "quality", "h", ranked, (), 0.5)
    return snapshot(targets, [general]), decision


def asked(**body: object) -> Request:
    whole = {"model": "auto", "messages": [{"role": "user", "content": "x" * 100}], **body}
    return parse(Endpoint.CHAT, msgspec.json.encode(whole), id="req_1", headers={}, caller=Caller())


def most(request: Request, decision: Decision, snapshot: Snapshot) -> int:
    """What is reserved, in nanodollars."""
    fares = fares_of(decision.route, snapshot)
    nano = nano_of(request, decision, snapshot, Live(), fares)
    plain = plainly(request, decision, fares.plain) if fares.plain is not None else None
    assert plain is None or plain[1] == nano
    return nano


PICTURE = [
    {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": "https://example.com/x.png"}}],
    }
]


@pytest.mark.parametrize(
    ("body", "context", "system", "input", "output"),
    [
        ({"max_tokens": 10}, None, None, "bytes", 10),
        ({"max_tokens": 10, "n": 3}, None, None, "bytes", 30),
        ({}, None, None, "bytes", 140),  # 2.8 times the usual, before one was seen
        ({"max_tokens": 10}, 80, None, 80, 10),
        ({"max_tokens": 10}, None, "y" * 500, "bytes and system", 10),
        ({"max_tokens": 10, "messages": PICTURE}, 9000, None, 9000, 10),
    ],
)
def test_money_is_reserved_at_the_dearest_candidate(
    body: dict[str, object], context: int | None, system: str | None, input: object, output: int
) -> None:
    configuration, decision = world(context, system)
    request = asked(**body)
    bytes_ = {"bytes": request.size, "bytes and system": request.size + 500}
    tokens = input if isinstance(input, int) else bytes_[str(input)]
    nano = most(request, decision, configuration)
    assert nano == pytest.approx((tokens * 1e-5 + output * 2e-5) * NANO, abs=1)


def test_a_picture_is_reserved_for_at_the_one_that_may_read_most_into_it() -> None:
    """For a text the other, whose context is not declared, could never be the cheaper one."""
    price = Price(1e-6, 0, 1e-6)
    targets = [
        target("a/open", "http://x", price=price),
        target("a/wide", "http://x", price=price, capabilities=Capabilities(context=5000)),
    ]
    configuration = snapshot(targets, [route("general", "a/open", "a/wide")])
    ranked = tuple(
        Choice(each.name, "http://x", n, 0.9, 0.0, 0.0, 0.0, 0.0) for n, each in enumerate(targets)
    )
    decision = Decision("general", "quality", "h", ranked, (), 0.5)
    request = asked(max_tokens=10, messages=PICTURE)
    assert most(request, decision, configuration) == pytest.approx(5010e-6 * NANO, abs=1)


@pytest.mark.parametrize(
    ("policy", "body"), [({"hedge": 0.05}, {}), ({"carry_on": True}, {"stream": True})]
)
def test_under_a_policy_by_which_two_may_be_asked_the_two_dearest_are_reserved(
    policy: dict[str, Any], body: dict[str, Any]
) -> None:
    configuration, decision = world()
    asking = msgspec.structs.replace(configuration.policies["quality"], **policy)
    configuration = msgspec.structs.replace(configuration, policies={"quality": asking})
    request = asked(max_tokens=10, **body)
    both = request.size * 1.1e-5 + 10 * 2.2e-5
    assert most(request, decision, configuration) == pytest.approx(both * NANO, abs=1)


def test_one_that_is_asked_when_no_other_answers_is_reserved_for() -> None:
    configuration, decision = world()
    cheap, dear = decision.ranked
    request = asked(max_tokens=10)
    whole = most(request, decision, configuration)
    left_alone = RuledOut("a/dear", "away", "it fails", dear)
    decision = msgspec.structs.replace(decision, ranked=(cheap,), ruled_out=(left_alone,))
    assert most(request, decision, configuration) == whole


def test_tokens_are_reserved_as_estimated() -> None:
    configuration, decision = world()
    live = Live()
    bounded, free = asked(max_tokens=7, n=2), asked()
    assert tokens_of(bounded, decision, configuration, live) == bounded.needs.input_tokens + 14
    assert tokens_of(free, decision, configuration, live) == free.needs.input_tokens + 140


def test_where_nothing_bounds_an_answer_99_of_100_are_no_longer_than_what_is_reserved() -> None:
    configuration, decision = world()
    free, cheap = asked(), configuration.targets["a/cheap"]
    live, generator = Live(), random.Random(17)
    within = 0
    for n in range(6000):
        tokens = int(generator.lognormvariate(4.0, 0.7)) + 1
        if n >= 1000:
            reserved = tokens_of(free, decision, configuration, live) - free.needs.input_tokens
            within += tokens <= reserved
        flight = live.started(cheap, "http://x", "general", n * 1.0)
        live.finished(flight, n + 0.5, Usage(input=25, output=tokens))
    assert within / 5000 == pytest.approx(0.99, abs=0.005)


def test_whatever_is_written_for_each_prompt_is_reserved() -> None:
    configuration, decision = world()
    body = {"model": "auto", "prompt": ["one", "two"], "max_tokens": 7, "n": 2, "best_of": 3}
    raw = msgspec.json.encode(body)
    request = parse(Endpoint.COMPLETIONS, raw, id="req_1", headers={}, caller=Caller())
    tokens = tokens_of(request, decision, configuration, Live())
    assert tokens == request.needs.input_tokens + 2 * 3 * 7
    dear = configuration.targets["a/dear"].price
    dollars = request.size * dear.input + 2 * 3 * 7 * dear.output
    assert most(request, decision, configuration) == pytest.approx(dollars * NANO)


def test_each_prompt_has_the_whole_context() -> None:
    configuration, decision = world(context=50)
    body = {"model": "auto", "prompt": ["x" * 200, "y"], "max_tokens": 7}
    raw = msgspec.json.encode(body)
    request = parse(Endpoint.COMPLETIONS, raw, id="req_1", headers={}, caller=Caller())
    dollars = 2 * 50 * 1e-5 + 2 * 7 * 2e-5
    assert most(request, decision, configuration) == pytest.approx(dollars * NANO)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([1e-6, 2e-6, 3e-6]),
            st.sampled_from([1e-6, 5e-6]),
            st.sampled_from([None, 50, 5000]),
            st.sampled_from([None, "y" * 300]),
        ),
        min_size=1,
        max_size=4,
    ),
    st.data(),
)
def test_the_dearest_is_found_whether_or_not_one_is_dearer_than_all(
    made: list[tuple[float, float, int | None, str | None]], data: st.DataObject
) -> None:
    targets = [
        target(
            f"a/m{n}",
            "http://x",
            price=Price(read, 0, written),
            capabilities=Capabilities(context=context),
        )
        for n, (read, written, context, _) in enumerate(made)
    ]
    candidates = tuple(
        Candidate(each.name, 0.9, system=system)
        for each, (_, _, _, system) in zip(targets, made, strict=True)
    )
    general = msgspec.structs.replace(route("general", targets[0].name), candidates=candidates)
    named = target("z/dearest", "http://x", price=Price(1.0, 0, 1.0))
    configuration = snapshot([*targets, named], [general])
    places = data.draw(st.sets(st.integers(0, len(made) - 1), min_size=1))
    asking = msgspec.structs.replace(configuration.policies["quality"], hedge=data.draw(hedged))
    configuration = msgspec.structs.replace(configuration, policies={"quality": asking})
    by_name = data.draw(st.sets(st.sampled_from(sorted(places))))
    ranked = tuple(
        Choice(targets[n].name, "http://x", -1 if n in by_name else n, 0.9, 0.0, 0.0, 0.0, 0.0)
        for n in places
    )
    if data.draw(st.booleans()):  # an experiment's, that is no candidate of the route
        ranked += (Choice("z/dearest", "http://x", -1, 0.9, 0.0, 0.0, 0.0, 0.0),)
    mixed = len({choice.candidate < 0 for choice in ranked}) > 1
    trial = Trial("which", "one", 0.5, "u") if mixed else None
    decision = Decision("general", "quality", "h", ranked, (), 0.5, trial=trial)
    request = asked(**data.draw(st.sampled_from(BODIES)))
    fares, live = fares_of("general", configuration), Live()
    plain = plainly(request, decision, fares.plain) if fares.plain is not None else None
    slowly = (
        tokens_of(request, decision, configuration, live),
        nano_of(request, decision, configuration, live, fares),
    )
    assert plain in (None, slowly)
    usual = not (ranked[-1].candidate < 0 or asking.hedge or request.needs.vision)
    if len(made) == 1 and usual and "max_tokens" in request.fields:
        assert plain == slowly


hedged = st.sampled_from([0.0, 0.0, 0.1])
BODIES: list[dict[str, Any]] = [
    {"max_tokens": 10},
    {"max_tokens": 10, "n": 3, "stream": True},
    {"max_tokens": 10, "messages": PICTURE},
    {},
]
