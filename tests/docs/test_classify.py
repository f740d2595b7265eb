"""What docs/classify.md says of conversations holds for this tree's own configuration."""

import re

import msgspec

from gateway.classify.base import CLASSIFIED_CHARS
from gateway.classify.lexical import fit_lexical
from gateway.classify.recognise import Recogniser
from gateway.classify.rules import READ_CHARS
from gateway.config.load import load
from gateway.http.parse import MAX_TURNS, parse
from gateway.types.requests import Caller, Endpoint, Recognition
from tests.docs.pages import ROOT, page

TEXT = page("docs/classify.md")


async def known(*said: str) -> Recognition:
    """The route of a chat in which the user said these, one after another."""
    snapshot = load(ROOT, {}).snapshot
    examples = [(e, r.name) for r in snapshot.routes.values() for e in r.match.examples]
    messages = [{"role": "user", "content": text} for text in said]
    raw = msgspec.json.encode({"model": "auto", "messages": messages})
    asked = parse(Endpoint.CHAT, raw, id="req_1", headers={}, caller=Caller())
    return (await Recogniser(snapshot, fit_lexical(examples)).recognise(asked)).recognition


async def test_the_turn_that_says_too_little_keeps_the_route() -> None:
    little = re.search(r'says too little by itself \("([^"]+)"\)', TEXT)
    assert little is not None
    assert (await known(little[1])).by == "default"
    kept = await known("My phone fell apart.", little[1])
    assert (kept.route, kept.by) == ("support", "conversation")
    turned = await known("My phone fell apart.", little[1], "What is the capital of Portugal?")
    assert (turned.route, turned.by) == ("general", "classifier")


def test_the_figures_are_those_of_the_code() -> None:
    assert f"the classifier reads the first {CLASSIFIED_CHARS:,} characters" in TEXT
    assert f"and the end, {READ_CHARS:,} characters in all" in TEXT
    assert MAX_TURNS == 6
    assert "six turns in all" in TEXT
