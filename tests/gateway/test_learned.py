"""A policy that goes by learned quality, in a gateway that serves while versions come and go."""

import asyncio
import json
import logging
import random
from pathlib import Path

import msgspec
import pytest

from gateway.evals import runs
from gateway.learn import versions
from gateway.retraining import trained_beside
from gateway.standin.behaviour import Behaviour
from gateway.standin.standin import StandIn
from gateway.store.learned import LearnedBook
from tests.cli.running import Ran, switchboard
from tests.evals.test_compare import a_run, result
from tests.gateway.support import Served, serving_home
from tests.gateway.test_replay import home

LEARNED = "name: balanced\nquality: learned\n"
EASY, HARD, UNLIKE = (
    "add up these figures number {}",
    "prove this theorem number {}",
    "Zwiebelkuchen",
)


def tried(folder: Path, run: str, seed: int, *, route: str = "general", cases: int = 100) -> None:
    """A run in which the small one is right on sums, and the big one on all."""
    draw = random.Random(seed)
    found = []
    for case in range(cases):
        easy = draw.random() < 0.5
        text = (EASY if easy else HARD).format(draw.randint(10, 99) * 10 + case % 10)
        for target, right, cost in (("openai/small", easy, 1e-4), ("openai/big", True, 2e-3)):
            found.append(result(case, target, right, input=text, cost_usd=cost))
    about = msgspec.structs.replace(a_run(), id=run, suite="sums", route=route)
    runs.write(folder / runs.HOME, about, found)


async def told(folder: Path, *words: str) -> Ran:
    """A command, run beside the gateway."""
    where = ("--config", str(folder), "--store", f"sqlite:///{folder}/switchboard.db")
    return await asyncio.to_thread(switchboard, *words, *where)


async def goes_by(served: Served, version: str) -> None:
    """Waits until the gateway has taken the version."""
    for _ in range(200):
        known = served.gateway.learned.known.get("general")
        if known is not None and known.version == version:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{version} was never taken")


async def asked(served: Served, text: str) -> tuple[str, float]:
    """Who answered, and the quality that it was thought to have."""
    answer = await served.chat(text)
    assert answer.status_code == 200, answer.text
    row = await served.decision(answer)
    best = row["decision"]["ranked"][0]
    return best["target"], best["quality"]


async def test_prompts_go_where_they_are_right_and_versions_come_and_go(tmp_path: Path) -> None:
    models = {"big": Behaviour(output_tokens=60), "small": Behaviour(output_tokens=30)}
    async with StandIn(models) as provider:
        folder = home(tmp_path / "home", provider.url, LEARNED)
        route = folder / "routes/general.yaml"
        declared = route.read_text().replace("0.01 usd", "0.05 usd")
        route.write_text(declared.replace("0.8}", "0.5}"))
        tried(folder, "1", seed=1)
        async with serving_home(folder) as served:
            assert await asked(served, EASY.format(500)) == ("openai/big", 0.9)
            ran = await told(folder, "train", "--json")
            assert ran.code == 0, ran.err
            first = json.loads(ran.out)[0]["version"]
            await goes_by(served, first)
            target, quality = await asked(served, EASY.format(500))
            assert (target, quality > 0.85) == ("openai/small", True)
            target, quality = await asked(served, HARD.format(500))
            assert (target, quality > 0.85) == ("openai/big", True)
            # Nothing like it was ever seen: the route's own figure.
            assert await asked(served, UNLIKE) == ("openai/big", 0.9)

            tried(folder, "2", seed=2)
            stop = asyncio.Event()
            statuses: list[int] = []

            async def keep_asking() -> None:
                while not stop.is_set():
                    statuses.append((await served.chat(EASY.format(len(statuses)))).status_code)

            asking = [asyncio.create_task(keep_asking()) for _ in range(3)]
            made = json.loads((await told(folder, "train", "--json")).out)[0]
            second = made["version"]
            assert made["versus"]["prompts"] > 50
            assert second != first
            await goes_by(served, second)
            back = await told(folder, "train", "--route", "general", "--use", first)
            assert back.code == 0, back.err
            await goes_by(served, first)
            stop.set()
            await asyncio.gather(*asking)
            assert set(statuses) == {200}
            book = LearnedBook(served.gateway.store)
            lines = versions.history(book, "general")
            assert [line.version.version for line in lines] == [first, second, first]

        shown = await told(folder, "explain", EASY.format(500), "--json")
        ranked = json.loads(shown.out)["decision"]["ranked"]
        assert ranked[0]["target"] == "openai/small"
        like = (await told(folder, "explain", EASY.format(500))).out
        assert f"learned {first}" in like
        assert like.count("learned") > 1
        unlike = await told(folder, "explain", UNLIKE)
        assert (
            unlike.out.count("learned") == 1
        )  # it says which version, and goes by no figure of it

        policy = str(folder / "policies/balanced.yaml")
        again = await told(folder, "replay", "--policy", policy, "--since", "1d")
        assert "go by learned quality" in " ".join((again.out + again.err).split())


async def test_what_is_said_of_answers_is_learned_from(tmp_path: Path) -> None:
    models = {"big": Behaviour(output_tokens=60), "small": Behaviour(output_tokens=30)}
    async with StandIn(models) as provider:
        folder = home(tmp_path / "home", provider.url, "name: balanced\nexplore: 80 %\n")
        route = folder / "routes/general.yaml"
        route.write_text(route.read_text() + "keep: features\n")
        async with serving_home(folder) as served:
            draw = random.Random(1)

            async def one(n: int) -> None:
                easy = draw.random() < 0.5
                answer = await served.chat((EASY if easy else HARD).format(n))
                target = answer.headers["x-switchboard-target"]
                if n % 4 == 0:
                    return
                said = {"metric": "accepted", "value": easy or target == "openai/big"}
                said["decision"] = answer.headers["x-switchboard-decision"]
                told_so = await served.client.post("/v1/feedback", json=said)
                assert told_so.is_success, told_so.text

            for batch in range(0, 240, 12):
                await asyncio.gather(*(one(n) for n in range(batch, batch + 12)))
            await asyncio.to_thread(served.gateway.writer.flush)
            ran = await told(folder, "train", "--route", "general", "--json")
        assert ran.code == 0, ran.err
        (made,) = json.loads(ran.out)
        heard = made["report"]["heard"]
        assert (heard["requests"], heard["labelled"]) == (240, 180)
        assert made["runs"] == []
        assert made["report"]["brier"] < made["report"]["brier_shares"]
        again = made["replayed"]
        assert (again["requests"], again["logged"], again["left_out"]) == (240, 240, {})
        assert again["net_low"] < again["net"] < again["net_high"]
        for target, n in zip(made["report"]["targets"], heard["effective"], strict=True):
            assert target in ("openai/big", "openai/small")
            assert 40 < n < 140


async def test_a_route_is_trained_anew_by_its_schedule_and_too_little_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "switchboard")
    async with StandIn({"big": Behaviour(), "small": Behaviour()}) as provider:
        folder = home(tmp_path / "home", provider.url, LEARNED)
        route = folder / "routes/general.yaml"
        plain = route.read_text()
        route.write_text(plain + "train: {every: 1 h}\n")
        (folder / "routes/other.yaml").write_text(
            plain.replace("general", "other") + "match: named\ntrain: {every: 1 h}\n"
        )
        (folder / "routes/few.yaml").write_text(
            plain.replace("general", "few") + "match: named\ntrain: {every: 1 h, over: all}\n"
        )
        tried(folder, "1", seed=1)
        tried(folder, "2", seed=2, route="few", cases=24)
        async with serving_home(folder) as served:
            for _ in range(2400):
                known = served.gateway.learned.known
                if {"general", "few"} <= set(known) and "other" in caplog.text:
                    break
                await asyncio.sleep(0.05)
            scorer = served.gateway.learned.known["general"]
            assert served.gateway.retraining.counts == {
                ("general", "used"): 1,
                ("few", "used"): 1,
                ("other", "too_little"): 1,
            }
            page = served.gateway.metrics.page().decode()
            assert 'switchboard_trainings_total{outcome="used",route="general"} 1.0' in page
            await served.gateway.retraining.look()  # neither is due again
            assert sum(served.gateway.retraining.counts.values()) == 3
        entries = [
            json.loads(line)
            for line in (await told(folder, "audit", "--json")).out.split("\n")
            if line
        ]
    trained = {each["subject"]: each["detail"] for each in entries if each["action"] == "train"}
    assert trained["general"]["version"] == scorer.version
    assert set(trained["few"]["over"]) == {"general", "few"}
    assert len(trained) == 2
    assert "there is nothing to learn from" in caplog.text


async def test_a_training_that_cannot_be_done_is_told(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/none/switchboard.db"
    came = await trained_beside("general", tmp_path, store, {}, "prod")
    assert (came.version, came.failed) == (None, True)
    assert "is in no directory" in came.why


async def test_logged_requests_are_decided_again_by_what_was_learned(tmp_path: Path) -> None:
    models = {"big": Behaviour(output_tokens=60), "small": Behaviour(output_tokens=30)}
    plain = "name: balanced\nexplore: 20 %\n"
    async with StandIn(models) as provider:
        folder = home(tmp_path / "home", provider.url, plain)
        route, policy = folder / "routes/general.yaml", folder / "policies/balanced.yaml"
        declared = route.read_text().replace("0.01 usd", "0.05 usd").replace("0.8}", "0.5}")
        route.write_text(declared + "keep: features\n")
        tried(folder, "1", seed=1)
        async with serving_home(folder) as served:

            async def half(since: int) -> None:
                for n in range(since, since + 40, 8):
                    texts = ((EASY if at % 2 else HARD).format(at) for at in range(n, n + 8))
                    await asyncio.gather(*(served.chat(text) for text in texts))

            await half(100)
            await asyncio.to_thread(served.gateway.writer.flush)
            ran = await told(folder, "train", "--json")
            assert ran.code == 0, ran.err
            learned = tmp_path / "learned.yaml"
            learned.write_text(plain + "quality: learned\n")
            words = ("replay", "--since", "1d", "--json", "--policy")
            before = json.loads((await told(folder, *words, str(learned))).out)

            policy.write_text(learned.read_text())
            differs = await told(folder, "diff", "--json")
            assert differs.code == 2, differs.err
            live = json.loads(differs.out)["traffic"]
            where = f"sqlite:///{folder}/switchboard.db"
            applied = await asyncio.to_thread(
                switchboard, "apply", "--config", str(folder), "--store", where
            )
            assert applied.code == 0, applied.err
            (made,) = json.loads(ran.out)
            assert made["replayed"]["requests"] == 40
            assert made["replayed"]["elsewhere"] == pytest.approx(0.4, abs=0.01)
            assert made["replayed"]["net_high"] is None  # nobody has said what was right
            await goes_by(served, made["version"])
            await half(200)
            await asyncio.to_thread(served.gateway.writer.flush)
            back = tmp_path / "plain.yaml"
            back.write_text(plain)
            after = json.loads((await told(folder, *words, str(back))).out)
            same = json.loads((await told(folder, *words, str(learned))).out)
    assert (live["again"], live["by_prompt"], live["left_out"]) == (40, 40, {})
    assert live["elsewhere"] == 20
    # Half of the prompts are easy, and nine of ten of them go to the small one.
    (found,) = before["routes"]
    assert (before["requests"], before["left_out"]) == (40, [])
    shares = {each["target"]: each["new"] for each in found["targets"]}
    assert shares == pytest.approx({"openai/big": 0.5, "openai/small": 0.5}, abs=0.01)
    # The first half was served by the plain one, and the second half by what was learned.
    for told_of in (after, same):
        assert (told_of["requests"], told_of["elsewhere"]) == (80, pytest.approx(0.2, abs=0.01))
