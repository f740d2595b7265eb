"""What the demo asks, and that its stand-ins are what the configuration declares."""

from pathlib import Path

import msgspec
import pytest
import yaml

from demo import questions, tasks
from gateway.config.load import load
from gateway.standin.__main__ import Config
from gateway.standin.behaviour import Asked as AskedOfModel
from gateway.standin.behaviour import Reply

ROOT = Path(__file__).parents[2]


def said(config: dict[str, object], model: str, text: str) -> str:
    behaviour = msgspec.convert(config, Config).models[model].behaviour()
    reply = behaviour.answer(AskedOfModel("chat/completions", model, text))
    return reply.text if isinstance(reply, Reply) else reply


def test_a_few_dozen_questions_of_every_kind_of_work_are_asked() -> None:
    asked = questions.questions()
    routes = load(ROOT, {}).snapshot.routes
    assert 30 <= len(asked) <= 60
    assert {each.route for each in asked} == set(routes)
    assert len({each.text for each in asked}) == len(asked)


def test_the_provider_knows_the_world_but_not_the_houses_conventions() -> None:
    config = questions.commercial()
    for asked in questions.KNOWLEDGE:
        assert said(config, "large", asked.text) == asked.right
    examples = {
        task: tasks.sample(task, questions.PER_TASK, questions.SEED, "test") for task in tasks.TASKS
    }
    for example in (each for several in examples.values() for each in several):
        assert said(config, "small", example.prompt) == example.generic


def test_each_stand_in_for_a_model_of_ours_says_what_it_was_trained_to_say() -> None:
    config = questions.in_place_of_vllm("base")
    for task in tasks.ADAPTERS:
        for example in tasks.sample(task, questions.PER_TASK, questions.SEED, "test"):
            assert said(config, task, example.prompt) == example.house
            assert said(config, "base", example.prompt) == example.generic


def test_freight_notes_are_known_to_every_stand_in_but_new_cities_not_to_ours() -> None:
    notes = questions.freight()
    assert len(notes) == questions.NOTES + questions.NEW
    commercial, ours = questions.commercial(), questions.in_place_of_vllm("base")
    known = tasks.sample(questions.FREIGHT, questions.NOTES, questions.SEED, "test")
    for note, example in zip(
        notes, [*known, *tasks.unseen(questions.NEW, questions.SEED)], strict=True
    ):
        new = example.house in tasks.NEW_CITIES
        assert note.right == example.house
        assert said(commercial, "large", note.text) == example.generic
        assert (said(ours, questions.FREIGHT, note.text) == note.right) != new


def test_the_provider_has_the_models_and_delays_that_are_declared() -> None:
    declared = yaml.safe_load((ROOT / "gateway.yaml").read_text())["backends"]["commercial"]
    models = declared["models"]
    assert set(models) == set(questions.COMMERCIAL_DELAYS_S)
    for name, (first_s, between_s) in questions.COMMERCIAL_DELAYS_S.items():
        typical = models[name]["typical"]
        assert typical["first_token"] == f"{first_s * 1000:.0f} ms"
        if "tokens_per_second" in typical:
            assert between_s == pytest.approx(1 / typical["tokens_per_second"])
