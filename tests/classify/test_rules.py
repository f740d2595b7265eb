"""What makes a route certain, and what does not."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.classify.rules import READ_CHARS, Rules
from gateway.types.requests import Recognition
from gateway.types.routes import Candidate, Match, Route
from gateway.types.snapshot import Server, Snapshot

laws = settings(
    max_examples=100,
    deadline=None,  # how busy the machine is says nothing about the law
    suppress_health_check=[HealthCheck.too_slow],
)


def rules(routes: dict[str, Match], aliases: dict[str, str] | None = None) -> Rules:
    compiled = {
        name: Route(
            name=name,
            description="",
            value=0.01,
            internal=False,
            match=match,
            candidates=(Candidate("a/b", 0.9),),
            policy="balanced",
        )
        for name, match in routes.items()
    }
    return Rules(
        Snapshot(
            hash="h",
            server=Server(),
            default_route=next(iter(compiled)),
            aliases=aliases or {},
            routes=compiled,
            policies={},
            targets={},
            backends={},
        )
    )


def keywords(**routes: tuple[str, ...]) -> Rules:
    return rules({name: Match(keywords=words) for name, words in routes.items()})


def route_of(found: Recognition | None) -> str | None:
    return None if found is None else found.route


LEGAL = {
    "general": Match(),
    "contracts": Match(
        headers={"x-workflow": "legal"},
        keywords=("clause", "force majeure"),
        patterns=(r"§\s*\d+",),
    ),
}


def test_a_route_is_named() -> None:
    found = rules(LEGAL).recognise("contracts", {}, "")
    assert found == Recognition("contracts", "named")


def test_an_alias_of_a_route_names_it() -> None:
    found = rules(LEGAL, {"lawyer": "contracts"}).recognise("lawyer", {}, "")
    assert found == Recognition("contracts", "alias", detail="lawyer")


def test_an_alias_of_auto_is_recognised_by_its_text() -> None:
    compiled = rules(LEGAL, {"gpt-4o": "auto"})
    assert compiled.recognise("gpt-4o", {}, "hello") is None
    assert route_of(compiled.recognise("gpt-4o", {}, "this clause")) == "contracts"


def test_nothing_certain_is_none() -> None:
    assert rules(LEGAL).recognise("auto", {}, "What is the capital of France?") is None
    assert rules(LEGAL).recognise("auto", {}, "") is None


def test_a_name_goes_before_a_header_a_header_before_keywords_and_those_before_patterns() -> None:
    compiled = rules(
        {
            "named": Match(),
            "header": Match(headers={"x-workflow": "a"}),
            "keyword": Match(keywords=("word",)),
            "pattern": Match(patterns=("word",)),
        }
    )
    headers = {"x-workflow": "a"}
    assert route_of(compiled.recognise("named", headers, "word")) == "named"
    assert compiled.recognise("auto", headers, "word") == Recognition(
        "header", "header", detail="x-workflow: a"
    )
    assert compiled.recognise("auto", {}, "word") == Recognition(
        "keyword", "keyword", detail="word"
    )
    assert compiled.recognise("auto", {}, "swords") == Recognition(
        "pattern", "pattern", detail="word"
    )


@pytest.mark.parametrize(
    ("headers", "route"),
    [
        ({}, None),
        ({"x-workflow": "legal"}, "contracts"),
        ({"x-workflow": "Legal"}, None),
        ({"x-workflow": "sales"}, "sales"),
        ({"x-workflow": "sales", "x-team": "emea"}, "emea-sales"),
        ({"x-team": "emea"}, None),
    ],
)
def test_every_header_of_a_rule_must_have_its_value_and_the_most_demanding_wins(
    headers: dict[str, str], route: str | None
) -> None:
    compiled = rules(
        {
            "contracts": Match(headers={"X-Workflow": "legal"}),
            "sales": Match(headers={"x-workflow": "sales"}),
            "emea-sales": Match(headers={"x-team": "emea", "x-workflow": "sales"}),
        }
    )
    assert route_of(compiled.recognise("auto", headers, "")) == route


def test_routes_that_ask_for_equal_headers_are_taken_as_declared() -> None:
    compiled = rules({"b": Match(headers={"x-a": "1"}), "a": Match(headers={"x-b": "1"})})
    assert route_of(compiled.recognise("auto", {"x-b": "1", "x-a": "1"}, "")) == "b"


@pytest.mark.parametrize(
    ("keyword", "text", "found"),
    [
        ("clause", "Explain this clause.", True),
        ("clause", "CLAUSE 7", True),
        ("Clause", "the clause", True),
        ("clause", "(clause)", True),
        ("clause", "claused", False),
        ("clause", "subclause", False),
        ("clause", "clause_7", False),
        ("clause", "", False),
        ("force majeure", "Is this Force\n  Majeure?", True),
        ("force majeure", "force-majeure", True),
        ("force majeure", "enforce majeure", False),
        ("force majeure", "force majeures", False),
        ("force majeure", "force of majeure", False),
        ("e-mail", "send an E-mail now", True),
        ("e-mail", "send an e mail now", True),
        ("e-mail", "ee-mail", False),
        ("c++", "I write C++.", True),
        ("c++", "vitamin c", False),
        ("c++", "abc++", False),
        (".net", "in .NET please", True),
        ("§", "what does § 7 say", True),
        ("strasse", "Welche Straße?", True),
        ("straße", "STRASSE", True),
        ("ÉTÉ", "un été chaud", True),
        ("été", "un e\u0301te\u0301 chaud", True),
        ("合同", "请总结这份合同的条款", True),
        ("合同", "请总结这份文件", False),
        ("   ", "   ", False),
    ],
)
def test_a_keyword_is_a_whole_word_in_any_case(keyword: str, text: str, found: bool) -> None:
    assert (keywords(it=(keyword,)).recognise("auto", {}, text) is not None) == found


@pytest.mark.parametrize(
    ("text", "route"),
    [
        ("refund", "a"),
        ("refund my order", "b"),
        ("refund of the invoice number", "c"),
        ("invoice", "c"),
        ("order", "b"),
        ("order order order and refund", "b"),
    ],
)
def test_most_keywords_win_then_the_longest_then_the_first_declared(text: str, route: str) -> None:
    compiled = keywords(a=("refund",), b=("refund", "order"), c=("invoice number", "invoice"))
    assert route_of(compiled.recognise("auto", {}, text)) == route


def test_the_longest_keyword_breaks_a_tie() -> None:
    compiled = keywords(a=("tax",), b=("tax return",))
    assert route_of(compiled.recognise("auto", {}, "my tax return")) == "b"
    assert route_of(compiled.recognise("auto", {}, "my tax")) == "a"


def test_one_keyword_written_twice_counts_once() -> None:
    compiled = keywords(a=("order",), b=("Refund", "refund"))
    assert route_of(compiled.recognise("auto", {}, "refund the order please")) == "b"
    compiled = keywords(a=("orders",), b=("Bill", "bill"))
    assert route_of(compiled.recognise("auto", {}, "bill the orders please")) == "a"


def test_what_was_found_is_told() -> None:
    found = keywords(a=("Lessee", "clause", "rent")).recognise("auto", {}, "clause on the lessee")
    assert found == Recognition("a", "keyword", detail="Lessee, clause")


@pytest.mark.parametrize(
    ("text", "route"),
    [("see § 12", "law"), ("INC-1234 is open", "ops"), ("inc-1234", None), ("see §", None)],
)
def test_a_pattern_is_found_as_it_is_written(text: str, route: str | None) -> None:
    compiled = rules({"law": Match(patterns=(r"§\s*\d+",)), "ops": Match(patterns=(r"\bINC-\d+",))})
    assert route_of(compiled.recognise("auto", {}, text)) == route


def test_the_beginning_and_the_end_of_a_long_text_are_read() -> None:
    compiled = keywords(a=("clause",))
    filler = "word " * READ_CHARS
    assert compiled.recognise("auto", {}, f"clause {filler}") is not None
    assert compiled.recognise("auto", {}, f"{filler} clause") is not None
    assert compiled.recognise("auto", {}, f"{filler} clause {filler}") is None


def test_a_long_text_is_not_cut_within_a_word() -> None:
    compiled = keywords(a=("clause",))
    head = READ_CHARS // 2 - 1
    text = "x" * (head - 7) + " clausewitz " + "y " * READ_CHARS
    assert text[:head].endswith(" clause")
    assert compiled.recognise("auto", {}, text) is None


WORDS = st.text(alphabet="abcdefg", min_size=1, max_size=4)


@laws
@given(
    st.dictionaries(st.sampled_from("pqrst"), st.lists(WORDS, max_size=4), min_size=1),
    st.lists(WORDS, max_size=12),
)
def test_the_index_finds_what_looking_at_every_word_finds(
    routes: dict[str, list[str]], words: list[str]
) -> None:
    compiled = keywords(**{name: tuple(found) for name, found in routes.items()})
    counts = {name: set(found) & set(words) for name, found in routes.items()}
    found = compiled.recognise("auto", {}, " ".join(words).upper())
    best = max(counts, key=lambda name: (len(counts[name]), max(map(len, counts[name]), default=0)))
    assert route_of(found) == (best if counts[best] else None)


@laws
@given(st.text().filter(str.strip))
def test_any_keyword_is_found_where_it_stands_alone(keyword: str) -> None:
    found = keywords(a=(keyword,)).recognise("auto", {}, f"one\n{keyword}\ntwo")
    assert found == Recognition("a", "keyword", detail=keyword)


@laws
@given(st.text(), st.lists(st.text(), max_size=3))
def test_a_keyword_is_never_found_in_a_text_without_its_letters(
    text: str, others: list[str]
) -> None:
    compiled = keywords(a=("qwortle",), b=("qwortle two", *(f"qwortle{other}" for other in others)))
    without = "".join(letter for letter in text if letter not in "qQwWoOrRtTlLeE")
    assert compiled.recognise("auto", {}, without) is None
