"""`switchboard train`: what is there to be learned is found, and where nothing is, that is said."""

import json
import random
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from gateway.evals import runs
from gateway.learn import versions
from gateway.learn.kinds import WORDS
from gateway.learn.model import Model, fit
from gateway.learn.rows import Answer, Rows, rows_of
from gateway.learn.training import calibration_error, train, versus
from gateway.retraining import TOO_LITTLE
from gateway.store.learned import LearnedBook
from gateway.store.store import Store
from tests.cli.running import switchboard
from tests.config.trees import write
from tests.evals.test_compare import a_run, result


def answers(n: int, *, told: bool) -> list[Answer]:
    """The cheap one is right on sums only, where the words tell; else on half of all."""
    draw = random.Random(3)
    found = []
    for at in range(n):
        easy = draw.random() < 0.5
        shown = easy if told else draw.random() < 0.5
        text = f"{'add up these figures' if shown else 'prove this theorem'} number {at}"
        found.append(Answer(text, "cheap", float(easy), 0.001))
        found.append(Answer(text, "dear", float(draw.random() < 0.9), 0.004))
    return found


def test_prompts_go_to_who_is_right_on_them_and_that_pays() -> None:
    trained = train(rows_of(answers(200, told=True), ["cheap", "dear"], WORDS), value=0.01)
    model, report = trained.model, trained.report
    assert report.pays
    assert report.brier < 0.7 * report.brier_shares
    assert report.log_loss < report.log_loss_shares
    assert report.calibration_error < 0.08
    easy = model.score(*WORDS.of("add up these figures number 1234"))
    hard = model.score(*WORDS.of("prove this theorem number 1234"))
    assert easy[0] > 0.8 > 0.3 > hard[0]


def test_where_nothing_is_to_be_learned_it_goes_by_the_shares() -> None:
    report = train(rows_of(answers(200, told=False), ["cheap", "dear"], WORDS), value=0.01).report
    assert not report.pays
    assert report.brier < report.brier_shares + 0.01


def test_a_version_is_compared_with_the_one_before_on_prompts_new_to_it() -> None:
    targets = ["cheap", "dear"]
    ignorant = train(rows_of(answers(200, told=False), targets, WORDS), value=0.01)
    rows = rows_of(answers(260, told=True), targets, WORDS)
    better = train(rows, value=0.01)
    found = versus(rows, better, ignorant.model, targets, set(rows.keys[:100]), 0.0)
    assert found is not None
    assert found.prompts == 160
    assert found.gain_low > 0.0
    assert versus(rows, better, ignorant.model, targets, set(rows.keys), 0.0) is None


def test_nothing_is_judged_by_prompts_that_not_all_have_answered_and_too_few_are_none() -> None:
    some = answers(60, told=True)
    more = [*some, some[0], Answer("only one", "cheap", 1.0, 0.0), Answer("x", "other", 1.0, 0.0)]
    rows = rows_of(more, ["cheap", "dear"], WORDS)
    assert (len(rows.keys), rows.stands.sum()) == (61, 60)
    report = train(rows, 0.01).report
    assert (report.prompts, report.left_out) == (60, 1)
    with pytest.raises(ValueError, match="20 of cheap, 20 of dear; 50 of each of two targets"):
        train(rows_of(some[:40], ["cheap", "dear"], WORDS), 0.01)


def test_what_is_said_and_what_comes_are_a_tenth_apart() -> None:
    right = np.array([1.0] * 8 + [0.0] * 2)
    said, known = np.full((10, 1), 0.7), np.ones((10, 1))
    assert calibration_error(said, right[:, None], known) == pytest.approx(0.1)


def test_the_command_learns_from_runs_and_keeps_a_version(tmp_path: Path) -> None:
    home = write(tmp_path)
    targets = {"cheap": "local/qwen", "dear": "openai/mini"}
    found = [
        result(at // 2, targets[each.target], each.right > 0, input=each.text, cost_usd=each.cost)
        for at, each in enumerate(answers(200, told=True))
    ]
    run = msgspec.structs.replace(a_run(), id="1", suite="sums", route="general")
    runs.write(home / runs.HOME, run, found)
    ran = switchboard("train", "--route", "general", "--json", home=home)
    assert ran.code == 0, ran.err
    (told,) = json.loads(ran.out)
    assert told["report"]["gain_low"] > 0.0
    assert told["runs"] == ["sums/1"]
    with closing(Store.open(f"sqlite:///{home}/switchboard.db")) as store:
        book = LearnedBook(store)
        (line,) = versions.history(book, "general")
        assert line.version.version == told["version"]
        model = versions.read(book, "general", told["version"])
        assert model.score(*WORDS.of("add up these figures number 77"))[0] > 0.7
        again = switchboard("train", "--dry-run", home=home)
        assert "not kept" in again.out
        assert len(versions.history(book, "general")) == 1
    nothing = switchboard("train", "--route", "contract-summary", home=home)
    assert nothing.code == TOO_LITTLE
    assert "nothing to learn" in nothing.said
    listed = switchboard("train", "--route", "general", "--history", home=home).out
    assert told["version"] in listed
    assert "used now" in listed
    unknown = switchboard("train", "--route", "general", "--use", "other", home=home)
    assert f"has no version 'other'; there are: {told['version']}" in unknown.said


def test_any_host_learns_from_runs_that_the_store_has(tmp_path: Path) -> None:
    here, there = write(tmp_path / "here"), write(tmp_path / "there")
    targets = {"cheap": "local/qwen", "dear": "openai/mini"}
    found = [
        result(at // 2, targets[each.target], each.right > 0, input=each.text)
        for at, each in enumerate(answers(100, told=True))
    ]
    run = msgspec.structs.replace(a_run(), id="1", suite="sums", route="general", complete=True)
    runs.write(here / runs.HOME, run, found)
    store = ("--store", f"sqlite:///{tmp_path}/both.db")
    train_there = ("train", "--route", "general", "--dry-run", "--json", *store)
    feed = ("eval", "feed", "sums", *store)
    general = here / "routes/general.yaml"
    declared = general.read_text() + "metrics: {ok: {type: boolean, from: feedback}}\nright: ok\n"
    general.write_text(declared)
    assert switchboard(*feed, home=here).code == 0
    assert switchboard(*train_there, home=there).code == TOO_LITTLE  # the route keeps nothing
    general.write_text(declared + "keep: features\n")
    fed = switchboard(*feed, home=here)
    assert "kept in the store for training, with its prompts' features" in fed.said, fed.said
    assert "kept in the store" not in switchboard(*feed, home=here).said
    made = [json.loads(switchboard(*train_there, home=home).out)[0] for home in (here, there)]
    assert made[0]["runs"] == made[1]["runs"] == ["sums/1"]
    assert made[0]["report"] == made[1]["report"]


def test_a_route_that_knows_little_goes_by_what_is_learned_over_all(tmp_path: Path) -> None:
    home = write(tmp_path)
    for route, suite, targets, n in (
        ("general", "sums", {"cheap": "local/qwen", "dear": "openai/mini"}, 120),
        ("contract-summary", "few", {"cheap": "local/qwen", "dear": "local/qwen+contracts"}, 24),
    ):
        found = [
            result(at // 2, targets[each.target], each.right > 0, input=f"{route} {each.text}")
            for at, each in enumerate(answers(n, told=True))
        ]
        run = msgspec.structs.replace(a_run(), id="1", suite=suite, route=route)
        runs.write(home / runs.HOME, run, found)
    alone = switchboard("train", "--route", "contract-summary", home=home)
    assert alone.code == TOO_LITTLE
    ran = switchboard("train", "--over-all", "--json", home=home)
    assert ran.code == 0, ran.err
    made = {each["route"]: each for each in json.loads(ran.out)}
    few, own = made["contract-summary"], made["general"]
    assert set(few["over"]) == {"general", "contract-summary"}
    assert (few["over_own"], few["report"]["prompts"]) == (None, 24)
    assert set(few["runs"]) == {"sums/1", "few/1"}
    assert own["over_own"]["prompts"] == 120
    assert bool(own["over"]) == (own["over_own"]["gain_low"] > 0.0)
    with closing(Store.open(f"sqlite:///{home}/switchboard.db")) as store:
        model = versions.read(LearnedBook(store), "contract-summary", few["version"])
    place = few["report"]["targets"].index("local/qwen")
    said = [model.score(*WORDS.of(f"contract-summary {text} number 77"))[place]
            for text in ("add up these figures", "prove this theorem")]  # fmt: skip
    assert said[0] > said[1] + 0.3
    listed = switchboard("train", "--route", "contract-summary", "--history", home=home).out
    assert "2 routes" in listed
    only = switchboard("train", "--over-all", "--route", "general", "--dry-run", home=home)
    assert "over all routes, over its own" in only.out
    assert "contract-summary:" not in only.out


def test_a_version_that_is_surely_worse_than_the_one_before_is_kept_and_not_used(
    tmp_path: Path,
) -> None:
    home = write(tmp_path)
    draw = random.Random(5)
    targets = ("local/qwen", "openai/mini")
    results = []
    for case in range(120):
        text = " ".join("".join(draw.choices("abcdefgh", k=7)) for _ in range(8))
        first = draw.random() < 0.5  # no word tells it
        results += [
            result(case, target, right, input=text, cost_usd=0.001)
            for target, right in zip(targets, (first, not first), strict=True)
        ]
    run = msgspec.structs.replace(a_run(), id="1", suite="noise", route="general")
    runs.write(home / runs.HOME, run, results)
    rows = rows_of(
        [Answer(each.input, each.target, float(each.right or 0), 0.001) for each in results],
        targets,
        WORDS,
    )
    trained = train(rows, 0.01)
    seer = knows_by_heart(rows)
    with closing(Store.open(f"sqlite:///{home}/switchboard.db")) as store:
        book = LearnedBook(store)
        before = versions.Version("", 1.0, "general", WORDS.name, (), trained.report)
        kept = versions.keep(book, seer, before, "ann")
        ran = switchboard("train", "--route", "general", "--json", home=home)
        assert ran.code == 0, ran.err
        assert "surely worse than the version before; not used" in ran.said
        (told,) = json.loads(ran.out)
        assert (told["used"], told["why"]) == (False, "surely worse than the version before")
        assert book.current()["general"].version == kept.version
        assert [each.used for each in versions.history(book, "general")] == [True, False]
        assert "not used" in switchboard("train", "--route", "general", "--history", home=home).out
        use = ("train", "--route", "general", "--use", told["version"])
        assert switchboard(*use, home=home).code == 0
        assert book.current()["general"].version == told["version"]


def knows_by_heart(rows: Rows) -> Model:
    """A model that knows each of the rows, and nothing else."""
    model = fit(rows.vectors, rows.plain, rows.right)
    squares = (model.landmarks**2).sum(axis=1)
    kernel = np.exp(model.landmarks @ model.landmarks.T - (squares[:, None] + squares) / 2)
    weights = np.linalg.solve(kernel + 1e-3 * np.eye(len(kernel)), rows.right - model.shares)
    return msgspec.structs.replace(model, weights=weights.astype(np.float32))
