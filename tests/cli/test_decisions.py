"""`switchboard explain` and `policy show`, as they are typed."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.store.store import Store
from gateway.store.weights import WeightBook
from tests.classify.servers import embeddings, vectors
from tests.cli.running import Ran, switchboard
from tests.config.trees import BALANCED, ENV, FILES, GATEWAY, write
from tests.store.world import keep, record, url

CLAUSE = "What does this clause mean?"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A good configuration."""
    return write(tmp_path / "home")


@pytest.fixture
def kept(home: Path) -> Path:
    """The same, with one request in its store."""
    store = Store.open(url(home))
    keep(store, record(1))
    store.close()
    return home


def candidates(ran: Ran) -> list[str]:
    """The target of each line of the table, in its order."""
    table = ran.out.split("\n\n")[1].splitlines()[1:]
    return [line.split()[1] for line in table]


# ---------------------------------------------------------------- explain a text


def test_a_text_is_decided_on(home: Path) -> None:
    ran = switchboard("explain", CLAUSE, home=home)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "route   contract-summary  by keyword: clause  (certain)"
    assert lines[1].startswith("policy  balanced  draw 1, snapshot ")
    assert lines[2].startswith("choice  local/qwen+contracts at http://127.0.0.1:8100: ")
    assert candidates(ran) == ["local/qwen+contracts", "local/qwen"]
    assert ran.err == ""


def test_what_was_drained_is_left_out_and_told(kept: Path) -> None:
    store = Store.open(url(kept))
    WeightBook(store).save("local/qwen+contracts", 0.0, "it answers in Latin", "ops")
    store.close()
    ran = switchboard("explain", CLAUSE, home=kept)
    assert ran.code == 0
    assert ran.out.splitlines()[2].startswith("choice  local/qwen at http://127.0.0.1:8100: ")
    assert "drained by ops: it answers in Latin" in " ".join(ran.out.split())


def test_without_the_store_a_text_is_decided_on_as_the_files_say(home: Path) -> None:
    away = "postgresql://nobody@127.0.0.1:9/none"
    ran = switchboard("explain", CLAUSE, "--store", away, home=home)
    assert ran.code == 0
    assert "choice  local/qwen+contracts" in ran.out
    assert "drains, shares and what was learned of qualities are left out" in ran.err


def test_nothing_is_kept_or_written(home: Path) -> None:
    before = sorted(home.rglob("*"))
    switchboard("explain", CLAUSE, home=home)
    assert sorted(home.rglob("*")) == before


def test_a_text_that_nothing_recognises_goes_the_default_way(home: Path) -> None:
    ran = switchboard("explain", "Who wrote Hamlet?", home=home)
    assert ran.out.startswith("route   general  the default route: contract-summary at 0.")


def test_a_configuration_without_examples_has_no_classifier(tmp_path: Path) -> None:
    files = {name: text for name, text in FILES.items() if "contract" not in name}
    ran = switchboard("explain", "anything", home=write(tmp_path, files))
    assert "the default route: no route has examples to classify by" in ran.out


@pytest.mark.parametrize(
    ("name", "route", "way"),
    [
        ("contract-summary", "contract-summary", "the model names it"),
        ("gpt-4o", "contract-summary", "by keyword: clause"),
        ("openai/mini", "general", "the model names it: openai/mini"),
    ],
)
def test_a_route_can_be_named(home: Path, name: str, route: str, way: str) -> None:
    ran = switchboard("explain", CLAUSE, "--route", name, home=home)
    assert ran.code == 0
    assert ran.out.splitlines()[0].startswith(f"route   {route}  {way}")


def test_programs_get_json(home: Path) -> None:
    told = json.loads(switchboard("explain", CLAUSE, "--json", home=home).out)
    assert told["recognition"] == {
        "route": "contract-summary",
        "by": "keyword",
        "confidence": 1.0,
        "detail": "clause",
    }
    ranked = told["decision"]["ranked"]
    assert [choice["target"] for choice in ranked] == ["local/qwen+contracts", "local/qwen"]
    assert ranked[0]["verdict"]
    assert sum(choice["propensity"] for choice in ranked) == pytest.approx(1.0)


def test_the_configuration_may_be_elsewhere(home: Path, tmp_path: Path) -> None:
    elsewhere = switchboard("explain", CLAUSE, "--config", str(home), home=tmp_path)
    assert elsewhere == switchboard("explain", CLAUSE, home=home)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--route", "contract-sumary"], "did you mean 'contract-summary'?"),
        (["--route", "zzz"], "there are: "),
    ],
)
def test_a_route_that_is_not_there_fails_with_what_may_be_meant(
    home: Path, words: list[str], told: str
) -> None:
    ran = switchboard("explain", CLAUSE, *words, home=home)
    assert (ran.code, ran.out) == (1, "")
    assert told in ran.said


# ---------------------------------------------------------------- the declared classifier

ENCODED = "classifier: {kind: embedding, target: encoders/small}\n"
ENCODERS = """\
  encoders:
    kind: openai
    internal: true
    url: {url}
    models:
      small:
        id: minilm
        price: {{input: 0 usd/Mtok, output: 0 usd/Mtok}}
        capabilities: {{endpoints: [embeddings]}}
"""


def embedding(home: Path, server: str) -> Path:
    """The same configuration with an embedding classifier, whose encoder is at `server`."""
    text = GATEWAY + ENCODERS.format(url=server) + ENCODED
    return write(home, {"gateway.yaml": text})


def test_the_declared_classifier_is_the_one_asked(home: Path) -> None:
    asked: list[str] = []

    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        asked.extend(body["input"])
        return vectors(body)

    with embeddings(answer) as server:
        ran = switchboard("explain", "Who wrote Hamlet?", home=embedding(home, server))
    assert ran.code == 0
    assert asked[-1] == "Who wrote Hamlet?"


def test_an_encoder_that_is_away_is_told(home: Path) -> None:
    with embeddings(vectors) as server:
        pass
    ran = switchboard("explain", "Who wrote Hamlet?", home=embedding(home, server))
    assert ran.code == 0
    assert ran.out.startswith("route   general  the default route: the encoder is away")


# ---------------------------------------------------------------- a wrong configuration


@pytest.mark.parametrize(
    "words", [["explain", CLAUSE], ["explain", "req_1"], ["policy", "show", "balanced"]]
)
def test_a_wrong_configuration_is_told_as_validate_tells_it(home: Path, words: list[str]) -> None:
    write(home, {"gateway.yaml": GATEWAY.replace("default_route", "default_rout")})
    ran = switchboard(*words, home=home)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err
    assert switchboard("validate", home=home).out.startswith(ran.err)


# ---------------------------------------------------------------- explain a request


@pytest.mark.parametrize("id", ["req_000001", "dec_000001", "chatcmpl-1"])
def test_a_request_shows_what_was_decided_then(kept: Path, id: str) -> None:
    ran = switchboard("explain", id, "--store", url(kept), home=kept)
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "route   contracts  by keyword: clause  (certain)"
    assert lines[1] == "policy  balanced  draw 0.25, snapshot abc123"
    assert candidates(ran) == ["local/qwen+contracts", "local/qwen", "local/big", "openai/mini"]
    assert "✗ openai/mini: the route's data stays inside" in lines


def test_the_store_is_the_configurations_own(kept: Path) -> None:
    named = switchboard("explain", "req_000001", "--store", url(kept), home=kept)
    assert switchboard("explain", "req_000001", home=kept) == named


def test_a_request_as_json_is_what_was_kept(kept: Path) -> None:
    told = json.loads(switchboard("explain", "req_000001", "--json", home=kept).out)
    assert told["decision"]["draw"] == 0.25
    assert told["decision"]["snapshot"] == "abc123"
    assert told["recognition"]["detail"] == "clause"


def test_an_unknown_id_fails_and_says_where_it_looked(kept: Path) -> None:
    ran = switchboard("explain", "req_nothing", home=kept)
    assert (ran.code, ran.out) == (1, "")
    assert "there is no decision 'req_nothing' in sqlite:///switchboard.db" in ran.said


def test_the_environment_may_name_the_store(kept: Path, tmp_path: Path) -> None:
    home = write(tmp_path / "other")
    named = switchboard("explain", "req_000001", "--store", url(kept), home=home)
    env = {**ENV, "SWITCHBOARD_STORE": url(kept)}
    assert named.code == 0
    assert switchboard("explain", "req_000001", home=home, env=env) == named


def test_a_store_that_is_not_there_is_not_made(home: Path) -> None:
    before = sorted(home.rglob("*"))
    ran = switchboard("explain", "req_000001", home=home)
    assert (ran.code, ran.out) == (1, "")
    assert "there is no store sqlite:///switchboard.db" in ran.said
    assert sorted(home.rglob("*")) == before


# ---------------------------------------------------------------- policy show


def test_a_policy_is_said_in_words(home: Path) -> None:
    ran = switchboard("policy", "show", "balanced", home=home)
    assert ran.code == 0
    assert ran.out.startswith("balanced: the greatest net value in dollars wins.\n")
    assert "With an answer worth $0.01: one point of quality is worth $0.0001" in ran.out
    assert "a price of at most $0.01" in ran.out


def test_a_policy_is_said_for_a_routes_value(home: Path) -> None:
    ran = switchboard("policy", "show", "balanced", "--route", "contract-summary", home=home)
    assert "With an answer worth $0.02 (contract-summary): one point of quality is worth" in ran.out


def test_a_policy_as_json_has_its_figures_and_the_words(home: Path) -> None:
    told = json.loads(switchboard("policy", "show", "balanced", "--json", home=home).out)
    assert told["name"] == "balanced"
    assert told["waiting_first_token"] == 0.002
    assert told["limits"]["cost"] == 0.01
    assert told["words"] + "\n" == switchboard("policy", "show", "balanced", home=home).out


def test_each_policy_can_be_shown(home: Path) -> None:
    other = "name: plain\n"
    write(home, {"policies/plain.yaml": other, "policies/balanced.yaml": BALANCED})
    assert switchboard("policy", "show", "plain", home=home).out.startswith("plain: ")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["balancd"], "there is no policy 'balancd'; did you mean 'balanced'?"),
        (["zzz"], "there is no policy 'zzz'; there are: balanced"),
        (["balanced", "--route", "generl"], "there is no route 'generl'; did you mean 'general'?"),
    ],
)
def test_what_is_not_there_fails_with_what_may_be_meant(
    home: Path, words: list[str], told: str
) -> None:
    ran = switchboard("policy", "show", *words, home=home)
    assert (ran.code, ran.out) == (1, "")
    assert told in ran.said
