"""In which order a request's route is looked for, and what a conversation keeps."""

import threading
from collections.abc import Mapping

import msgspec
import pytest

from gateway.classify.base import CLASSIFIED_CHARS, Prediction
from gateway.classify.encoder import EncoderError, TextRefused
from gateway.classify.recognise import Recognised, Recogniser
from gateway.errors import ApiError, BadRequest, Forbidden, NotFound
from gateway.types.policies import Policy
from gateway.types.requests import Caller, Endpoint, Needs, Recognition, Request
from gateway.types.routes import Candidate, Match, Route
from gateway.types.snapshot import Server, Snapshot
from tests.policy.world import target

THRESHOLD = 0.5


class Told:
    """A classifier that was told what to say of which text; of others it has no idea."""

    labels = ("code", "contracts", "general", "translation")
    threshold = THRESHOLD

    def __init__(self, known: Mapping[str, tuple[str, float]], *, blocking: bool = False) -> None:
        self.blocking = blocking
        self.asked: list[str] = []
        self.threads: set[int] = set()
        self._known = known

    def predict(self, text: str) -> Prediction:
        self.asked.append(text)
        self.threads.add(threading.get_ident())
        label, confidence = self._known.get(text, ("code", 0.1))
        return Prediction(label, confidence, ((label, 1.0),))


KNOWN = {
    "into French": ("translation", 0.9),
    "mend this loop": ("code", 0.8),
    "just so": ("translation", THRESHOLD),
    "nearly": ("translation", 0.49),
}
MATCHES = {
    "general": Match(),
    "contracts": Match(headers={"x-workflow": "legal"}, keywords=("clause",), patterns=(r"§",)),
    "translation": Match(headers={"x-workflow": "words"}, keywords=("translate",)),
    "code": Match(),
}


def snapshot(default: str = "general") -> Snapshot:
    routes = {
        name: Route(
            name=name,
            description="",
            value=0.01,
            internal=False,
            match=match,
            candidates=(Candidate("openai/mini", 0.9),),
            policy="best" if name == "code" else "balanced",
        )
        for name, match in MATCHES.items()
    }
    return Snapshot(
        hash="h",
        server=Server(),
        default_route=default,
        aliases={"gpt-4o": "auto", "lawyer": "contracts", "cheap": "openai/mini"},
        routes=routes,
        policies={name: Policy(name) for name in ("balanced", "best")},
        targets={"openai/mini": target("openai/mini")},
        backends={},
    )


def request(*turns: str, model: str = "auto", **changes: object) -> Request:
    """A chat whose user said `turns`, the latest first."""
    plain = Request(
        id="req_1",
        endpoint=Endpoint.CHAT,
        model=model,
        stream=False,
        fields={},
        headers={},
        caller=Caller(),
        needs=Needs("chat/completions"),
        turns=turns,
    )
    return msgspec.structs.replace(plain, **changes)


async def recognised(
    asked: Request, classifier: Told | None = None, default: str = "general"
) -> Recognised:
    return await Recogniser(snapshot(default), classifier or Told(KNOWN)).recognise(asked)


async def known(*turns: str, model: str = "auto") -> Recognition:
    return (await recognised(request(*turns, model=model))).recognition


# ---------------------------------------------------------------- the order

ALL = {"x-workflow": "legal"}


@pytest.mark.parametrize(
    ("asked", "route", "by"),
    [
        (request("translate", route="code", model="contracts", headers=ALL), "code", "header"),
        (request("translate", model="code", headers=ALL), "code", "named"),
        (
            request("translate", model="lawyer", headers={"x-workflow": "words"}),
            "contracts",
            "alias",
        ),
        (request("translate", headers=ALL), "contracts", "header"),
        (request("translate §", headers={"x-workflow": "sales"}), "translation", "keyword"),
        (request("§ into French"), "contracts", "pattern"),
        (request("into French"), "translation", "classifier"),
        (request("no idea", "into French"), "translation", "conversation"),
        (request("no idea"), "general", "default"),
    ],
)
async def test_what_comes_first_decides(asked: Request, route: str, by: str) -> None:
    found = (await recognised(asked)).recognition
    assert (found.route, found.by) == (route, by)


@pytest.mark.parametrize("model", ["auto", "gpt-4o"])
async def test_auto_and_its_aliases_say_nothing_themselves(model: str) -> None:
    assert (await known("mend this loop", model=model)).route == "code"


async def test_what_is_certain_never_asks_the_classifier() -> None:
    classifier = Told(KNOWN)
    for asked in (
        request("into French", model="contracts"),
        request("into French", route="contracts"),
        request("into French", headers=ALL),
        request("this clause into French"),
        request("into French", model="openai/mini"),
    ):
        found = (await recognised(asked, classifier)).recognition
        assert found.confidence == 1.0
    assert classifier.asked == []


@pytest.mark.parametrize("model", ["openai/mini", "cheap"])
async def test_a_target_is_taken_alone_under_the_default_route(model: str) -> None:
    found = await recognised(request("this clause", model=model, headers=ALL))
    assert found.only == "openai/mini"
    assert found.recognition == Recognition("general", "named", detail="openai/mini")


async def test_a_target_is_of_the_route_that_a_header_names() -> None:
    found = await recognised(request("this clause", model="cheap", route="code"))
    assert (found.only, found.policy) == ("openai/mini", "best")
    assert found.recognition == Recognition("code", "named", detail="openai/mini")
    with pytest.raises(BadRequest, match="there is no route 'cod'; did you mean 'code'"):
        await recognised(request("", model="cheap", route="cod"))


async def test_a_route_says_its_policy_and_a_header_another() -> None:
    assert (await recognised(request("", model="code"))).policy == "best"
    assert (await recognised(request("", model="contracts"))).policy == "balanced"
    found = await recognised(request("", model="contracts", policy="best"))
    assert (found.policy, found.recognition.route) == ("best", "contracts")


async def test_of_a_long_turn_rules_read_the_end_and_the_classifier_the_beginning() -> None:
    classifier = Told(KNOWN)
    words = "word " * 4000
    assert (await recognised(request(words), classifier)).recognition.by == "default"
    assert classifier.asked == [words[:CLASSIFIED_CHARS]]
    assert (await recognised(request(words + "the clause"))).recognition.by == "keyword"


# ---------------------------------------------------------------- how sure


async def test_a_confidence_that_reaches_the_threshold_is_enough() -> None:
    assert await known("just so") == Recognition("translation", "classifier", THRESHOLD)


async def test_below_the_threshold_the_default_route_tells_the_best_guess() -> None:
    found = await known("nearly")
    assert found == Recognition("general", "default", 0.49, "translation at 0.49 is below 0.50")


async def test_the_best_guess_is_the_last_turns() -> None:
    assert (await known("nearly", "no idea")).detail == "translation at 0.49 is below 0.50"


async def test_the_default_route_is_the_declared_one() -> None:
    found = await recognised(request("no idea"), default="translation")
    assert (found.recognition.route, found.recognition.by) == ("translation", "default")


async def test_without_a_text_there_is_nothing_to_classify() -> None:
    classifier = Told(KNOWN)
    found = (await recognised(request(), classifier)).recognition
    assert found == Recognition("general", "default", 0.0, "there is no text to classify")
    assert classifier.asked == []


async def test_without_a_classifier_rules_and_the_default_remain() -> None:
    alone = Recogniser(snapshot(), None)
    assert (await alone.recognise(request("this clause"))).recognition.by == "keyword"
    assert (await alone.recognise(request("into French"))).recognition.by == "default"


@pytest.mark.parametrize("blocking", [False, True])
async def test_a_classifier_that_waits_is_called_off_the_event_loop(blocking: bool) -> None:
    classifier = Told(KNOWN, blocking=blocking)
    found = (await recognised(request("into French"), classifier)).recognition
    assert found.route == "translation"
    assert (threading.get_ident() in classifier.threads) != blocking


# ---------------------------------------------------------------- conversations


@pytest.mark.parametrize(
    ("said", "route", "by"),
    [
        (["into French"], "translation", "classifier"),
        (["into French", "shorter, please"], "translation", "conversation"),
        (["into French", "shorter, please", "and once more"], "translation", "conversation"),
        (["into French", "shorter, please", "mend this loop"], "code", "classifier"),
        (["into French", "mend this loop", "shorter, please"], "code", "conversation"),
        (["into French", "shorter, please", "what of the clause?"], "contracts", "keyword"),
        (["the clause, please", "shorter, please"], "contracts", "conversation"),
        (["this clause into French", "shorter"], "contracts", "conversation"),
        (["§ into French", "shorter", "into French", "shorter"], "translation", "conversation"),
        (["hello", "shorter, please"], "general", "default"),
    ],
)
async def test_a_conversation_keeps_its_route_until_the_user_turns(
    said: list[str], route: str, by: str
) -> None:
    found = await known(*reversed(said))
    assert (found.route, found.by) == (route, by)


async def test_an_earlier_turn_that_is_sure_is_the_last_to_be_read() -> None:
    classifier = Told(KNOWN)
    await recognised(request("shorter", "into French", "mend this loop"), classifier)
    assert classifier.asked == ["shorter", "into French"]


async def test_an_earlier_turn_that_a_rule_decides_never_asks_the_classifier() -> None:
    sure = {**KNOWN, "this clause into French": ("translation", 0.9)}
    classifier = Told(sure)
    found = await recognised(request("shorter", "this clause into French"), classifier)
    assert found.recognition == Recognition("contracts", "conversation", 1.0, "clause")
    assert classifier.asked == ["shorter"]


async def test_without_a_classifier_a_conversation_keeps_what_rules_said() -> None:
    alone = Recogniser(snapshot(), None)
    found = await alone.recognise(request("shorter", "and this", "the clause", "translate it"))
    assert found.recognition == Recognition("contracts", "conversation", 1.0, "clause")


async def test_an_earlier_turns_confidence_and_detail_are_told() -> None:
    assert await known("shorter", "into French") == Recognition("translation", "conversation", 0.9)
    assert await known("shorter", "the clause") == Recognition(
        "contracts", "conversation", 1.0, "clause"
    )


async def test_nothing_is_remembered_between_requests() -> None:
    one = Recogniser(snapshot(), Told(KNOWN))
    first = await one.recognise(request("shorter", "into French"))
    await one.recognise(request("mend this loop"))
    assert await one.recognise(request("shorter", "into French")) == first
    assert (await one.recognise(request("shorter"))).recognition.by == "default"


# ---------------------------------------------------------------- an encoder that is away


class Failing(Told):
    """A classifier whose encoder raises `error` for every text."""

    def __init__(self, error: EncoderError) -> None:
        super().__init__({})
        self._error = error

    def predict(self, text: str) -> Prediction:
        raise self._error


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (EncoderError("http://here: refused"), "the encoder is away"),
        (TextRefused("http://here: too long"), "the encoder does not take the text"),
    ],
)
async def test_without_an_encoder_rules_and_the_default_remain(
    error: EncoderError, detail: str
) -> None:
    async def found(*turns: str) -> Recognition:
        return (await recognised(request(*turns), Failing(error))).recognition

    assert await found("into French") == Recognition("general", "default", 0.0, detail)
    assert (await found("this clause")).by == "keyword"
    assert (await found("shorter", "this clause")).route == "contracts"


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("asked", "error", "code", "told"),
    [
        (
            request("x", model="contract"),
            NotFound,
            "model_not_found",
            "did you mean 'contracts'?",
        ),
        (request("x", model="zzz"), NotFound, "model_not_found", "GET /v1/models"),
        (request("x", route="codes"), BadRequest, "route_not_found", "did you mean 'code'?"),
        (request("x", policy="bst"), BadRequest, "policy_not_found", "did you mean 'best'?"),
        (request("x", policy="zzz"), BadRequest, "policy_not_found", "no policy 'zzz'."),
    ],
)
async def test_an_unknown_name_is_told_with_the_one_that_may_be_meant(
    asked: Request, error: type[ApiError], code: str, told: str
) -> None:
    with pytest.raises(error) as caught:
        await recognised(asked)
    assert caught.value.code == code
    assert told in caught.value.message
    assert "?." not in caught.value.message


NARROW = Caller(routes=frozenset({"code"}), direct=False)


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        (request("x", model="openai/mini", caller=NARROW), "target_not_allowed"),
        (request("x", model="cheap", caller=NARROW), "target_not_allowed"),
        (request("x", route="code", caller=NARROW), "override_not_allowed"),
        (request("x", model="code", policy="best", caller=NARROW), "override_not_allowed"),
        (request("x", model="contracts", caller=NARROW), "route_not_allowed"),
        (request("x", headers=ALL, caller=NARROW), "route_not_allowed"),
        (request("into French", caller=NARROW), "route_not_allowed"),
        (request("shorter", "into French", caller=NARROW), "route_not_allowed"),
        (request("no idea", caller=NARROW), "route_not_allowed"),
    ],
)
async def test_a_keys_rights_hold_however_the_route_was_known(asked: Request, code: str) -> None:
    with pytest.raises(Forbidden) as caught:
        await recognised(asked)
    assert caught.value.code == code


async def test_a_key_may_use_its_route_however_it_was_known() -> None:
    for asked in (
        request("x", model="code", caller=NARROW),
        request("mend this loop", caller=NARROW),
        request("shorter", "mend this loop", caller=NARROW),
    ):
        assert (await recognised(asked)).recognition.route == "code"
