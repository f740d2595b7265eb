import math

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.store.decisions import decoded, encoded
from gateway.types.decisions import Choice, Decision, RuledOut
from tests.store.world import choice, decision

numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
choices = st.builds(
    Choice,
    target=texts,
    replica=texts,
    candidate=st.integers(-1, 1000),
    quality=numbers,
    cost=numbers,
    first_token_s=numbers,
    total_s=numbers,
    net=numbers,
    propensity=numbers,
    verdict=texts,
)
ruled_out = st.builds(
    RuledOut,
    target=texts,
    by=st.sampled_from(["fact", "limit"]),
    reason=texts,
    choice=st.none() | choices,
)
decisions = st.builds(
    Decision,
    route=texts,
    policy=texts,
    snapshot=texts,
    ranked=st.lists(choices, max_size=4).map(tuple),
    ruled_out=st.lists(ruled_out, max_size=4).map(tuple),
    draw=numbers,
    explored=st.booleans(),
    fits=st.booleans(),
)


@settings(deadline=None)
@given(decisions)
def test_a_decision_comes_back_as_it_was(made: Decision) -> None:
    assert decoded(encoded(made), made.route, made.policy, made.snapshot) == made


def test_the_format_on_disk_is_the_one_that_older_rows_have() -> None:
    assert Choice.__struct_fields__[:10] == (
        "target",
        "replica",
        "candidate",
        "quality",
        "cost",
        "first_token_s",
        "total_s",
        "net",
        "propensity",
        "verdict",
    )
    assert RuledOut.__struct_fields__[:4] == ("target", "by", "reason", "choice")


def test_a_shorter_row_has_the_defaults_of_later_fields() -> None:
    row = '["a/b","http://x",0,0.5,0.1,0.2,0.3,0.4]'
    text = f'{{"ranked":[{row}],"ruled_out":[],"draw":0.5,"explored":false,"fits":true}}'

    assert decoded(text, "r", "p", "s").ranked[0].propensity == 0.0


def test_a_figure_that_json_cannot_write_comes_back_as_unknown() -> None:
    endless = msgspec.structs.replace(decision(), ranked=(choice(net=-math.inf),))

    assert math.isnan(decoded(encoded(endless), "r", "p", "s").ranked[0].net)


def test_it_is_json_that_other_tools_read() -> None:
    stored = msgspec.json.decode(encoded(decision()))

    assert stored["ranked"][0][0] == "local/qwen+contracts"
