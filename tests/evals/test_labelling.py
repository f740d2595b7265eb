"""The page on which people label, over HTTP, by the command, and in a real browser."""

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn

from gateway.evals import labels, runs
from gateway.evals.labelling import Labelling
from gateway.evals.runs import Asked, Result
from gateway.store.evidence import EvidenceBook
from gateway.store.store import Store
from tests.browser import browser
from tests.cli.running import switchboard
from tests.evals.test_compare import a_run, result

HOSTILE = "</pre><script>document.title = 'taken'</script><img src=//x.invalid/y onerror=alert(1)>"
JSON = {"content-type": "application/json"}


def answers(count: int = 4) -> list[Result]:
    """Two targets' answers; the last are the same."""
    found = []
    for n in range(count):
        same = n == count - 1
        found.append(result(n, "base", same, output="alike" if same else f"{HOSTILE} {n}"))
        found.append(result(n, "lora", True, output="alike" if same else f"good {n}"))
    return found


@asynccontextmanager
async def served(path: Path, rater: str = "ann") -> AsyncIterator[tuple[Labelling, str]]:
    """The page on a real socket, with its address."""
    known, _ = labels.read(path)
    labelling = Labelling(
        "support", labels.pairs(answers(), ("base", "lora"), 1), rater, 1, known,
        keep=lambda each: labels.append(path, each), clock=lambda: 1.0,
    )  # fmt: skip
    import socket

    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        port = own.getsockname()[1]
        config = uvicorn.Config(labelling.app(port), lifespan="off", log_level="error", ws="none")
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[own])
        try:
            yield labelling, f"http://127.0.0.1:{port}/{labelling.token}/"
        finally:
            await server.shutdown(sockets=[own])


async def test_only_the_page_itself_with_its_token_may_label(tmp_path: Path) -> None:
    async with served(tmp_path / "l.jsonl") as (_, url), httpx.AsyncClient() as client:
        base = url.rsplit("/", 2)[0]
        own = {**JSON, "origin": base}
        body = json.dumps({"preferred": "tie", "left": None, "right": None})

        async def sent(headers: dict[str, str], content: str = body, path: str = url) -> int:
            return (
                await client.post(f"{path}pairs/0", content=content, headers=headers)
            ).status_code

        page = await client.get(url)
        assert page.status_code == 200
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in page.headers
        assert not re.search(r"(src=|href=|url\(|@import|https?://)", page.text)
        for wrong in (f"{base}/", f"{base}/wrong/", f"{base}/wrong/state"):
            assert (await client.get(wrong)).status_code == 404
        rebound = await client.get(url, headers={"host": "evil.example"})
        assert rebound.status_code == 421
        assert await sent(JSON) == 403
        assert await sent({**own, "origin": "https://evil.example"}) == 403
        assert await sent({**own, "content-type": "text/plain"}) == 415
        assert await sent(own, path=f"{base}/wrong/") == 404
        assert await sent(own, "x" * 5000) == 413
        assert await sent(own, '{"preferred": "base", "left": null, "right": null}') == 400
        assert (await client.post(f"{url}pairs/9", content=body, headers=own)).status_code == 404
        assert not (tmp_path / "l.jsonl").exists()
        assert await sent(own) == 200
        # What the page is told holds nobody's name.
        for path in ("state", "pairs/0", "pairs/1"):
            told = (await client.get(url + path)).text
            assert "base" not in told
            assert "lora" not in told
    assert labels.read(tmp_path / "l.jsonl")[0][0].preferred == "tie"


async def test_a_person_labels_in_a_browser_and_goes_on_another_time(tmp_path: Path) -> None:
    """By the keyboard alone: whatever side it is on, the good answer is preferred."""
    path = tmp_path / "l.jsonl"
    async with browser() as page:
        async with served(path) as (labelling, url):
            await page.goes_to(url)
            for n in range(3):
                await page.until(f"shown && shown.done === {n} && el('input').textContent !== ''")
                await said(page)
                await page.until(f"el('bar').value === {n + 1}")
                if n < 2:
                    before = await page.value("shown.n")
                    await page.press("n")
                    await page.until(f"shown.n !== {before}")
            assert labelling.done == 3
            assert await page.value("document.title") == "Labelling support"
            assert await page.value("document.querySelectorAll('img, script').length") == 1
            assert not page.said
            assert {each.split("/")[2] for each in page.fetched} == {url.split("/")[2]}
        async with served(path) as (labelling, url):
            await page.goes_to(url)
            await page.until("shown && shown.done === 3")
            await said(page)
            await page.until("el('bar').value === 4")
            # A mind is changed with the mouse; then it is finished.
            await page.value("document.querySelector('[data-mark=false]').click()")
            await page.until("el('said').textContent.startsWith('All is said')")
            await page.value("el('finish').click()")
            await page.until("over")
            assert labelling.done == 4
    found, unread = labels.read(path)
    assert unread == 0
    assert len(found) == 4
    by_case = {each.case: each for each in found}
    assert {by_case[str(n)].preferred for n in range(3)} == {"other"}
    assert by_case["0"].right == {"base": False, "lora": True}
    assert by_case["3"].preferred == "tie"


async def said(page: Any) -> None:
    """What a person says who knows which is good."""
    if await page.value("shown.same"):
        await page.press("a")
        return
    left = (await page.value("el('text-left').textContent")).startswith("good")
    for key in ("ArrowLeft", "a", "l") if left else ("3", "s", "k"):
        await page.press(key)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A configuration's directory with a run of its suite."""
    run = msgspec.structs.replace(
        a_run(), id="20260101-000000", suite="support", route="support", finished=1.0,
        targets=(Asked("base", "m"), Asked("lora", "m")),
    )  # fmt: skip
    runs.write(tmp_path / runs.HOME, run, answers())
    for name, text in {
        "gateway.yaml": "default_route: support\nstore: sqlite:///switchboard.db\nbackends:\n"
        "  x: {kind: openai, url: 'http://127.0.0.1:1/v1',"
        " models: {m: {id: m, price: {input: 1 usd/Mtok, output: 1 usd/Mtok}}}}\n",
        "routes/support.yaml": "name: support\nvalue: 0.01 usd\npolicy: plain\n"
        "candidates: [{target: x/m, quality: 0.5}]\nmetrics: {accepted: {}}\nright: accepted\n",
        "policies/plain.yaml": "name: plain\n",
        "evals/support.yaml": "name: support\ndata: support.jsonl\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


async def test_the_command_serves_it_and_reports_show_what_was_said(kept: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", "eval", "label", "support", "--rater", "ann"),
        *("--no-open", "--json"),
        cwd=kept, env={**os.environ, "COLUMNS": "300"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(30):
        line = (await process.stderr.readline()).decode()
    url = line.split()[-1]
    async with httpx.AsyncClient() as client:
        headers = {**JSON, "origin": url.rsplit("/", 2)[0]}
        for n in range(4):
            shown = (await client.get(f"{url}pairs/{n}")).json()
            left = shown["texts"][0].startswith("good")
            body = {"preferred": "left" if left else "right", "left": left, "right": not left}
            if shown["same"]:
                body = {"preferred": "tie", "left": True, "right": None}
            answer = await client.post(f"{url}pairs/{n}", json=body, headers=headers)
            assert answer.json()["done"] == n + 1
    process.send_signal(signal.SIGINT)
    out, _ = await process.communicate()
    assert json.loads(out)["done"] == 4

    report = await asyncio.to_thread(
        switchboard, "eval", "report", "support", "--json", "--html", "page.html", home=kept
    )
    told = json.loads(report.out)["labels"]
    (pair,) = told["preferences"]
    assert (pair["one"], pair["wins"], pair["ties"], pair["losses"]) == ("base", 0, 1, 3)
    page = (kept / "page.html").read_text()
    assert "By people" in page
    assert "base against lora: 0 wins, 1 tie, 3 losses" in page
    by_file = ("eval", "report", "evals/support.yaml")
    shown = await asyncio.to_thread(switchboard, *by_file, home=kept)
    assert "the scorer exact with people on what is right: 100.0 % the same" in shown.out
    fed = await asyncio.to_thread(
        switchboard, "eval", "feed", "support", "--labels", "--json", home=kept
    )
    assert fed.code == 0, fed.err
    store = Store.open(f"sqlite:///{kept}/switchboard.db")
    rows = {row.target: (row.n, row.right, row.source) for row in EvidenceBook(store).read()}
    store.close()
    assert rows == {"base": (4.0, 1.0, "eval:support"), "lora": (4.0, 4.0, "eval:support")}


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("support", "--targets", "base,nobody"), "did not ask nobody; it asked base, lora"),
        (("support", "--targets", "base"), "no case was answered by two targets"),
        (("nothing",), "there is no run 'nothing'"),
    ],
)
def test_what_cannot_be_labelled_is_said(kept: Path, words: tuple[str, ...], why: str) -> None:
    ran = switchboard("eval", "label", *words, "--no-open", home=kept)
    assert ran.code == 1
    assert why in ran.said


async def test_of_three_targets_each_pair_is_labelled_and_what_is_right_is_asked_once(
    tmp_path: Path,
) -> None:
    results = [result(1, name, True, output=name * 3) for name in ("x", "y", "z")]
    kept: list[labels.Label] = []
    labelling = Labelling(
        "s", labels.pairs(results, ("x", "y", "z"), 1), "ann", 1, (), kept.append, lambda: 1.0
    )
    transport = httpx.ASGITransport(labelling.app(80))
    base = "http://localhost:80"
    async with httpx.AsyncClient(transport=transport, base_url=base) as client:
        headers = {**JSON, "host": "localhost:80", "origin": base}
        own = f"/{labelling.token}"
        for n in range(3):
            shown = (await client.get(f"{own}/pairs/{n}", headers=headers)).json()
            marks = {side: shown[side] for side in ("left", "right")}
            # By the third pair both were marked before.
            assert list(marks.values()).count(None) == (2, 1, 0)[n]
            body = {"preferred": "tie", "left": True, "right": True}
            await client.post(f"{own}/pairs/{n}", json=body, headers=headers)
        state = (await client.get(f"{own}/state", headers=headers)).json()
    assert (state["done"], state["count"]) == (3, 3)
    assert {(each.one, each.other) for each in kept} == {("x", "y"), ("x", "z"), ("y", "z")}


async def test_a_text_that_comes_again_at_another_repetition_is_marked_already(
    tmp_path: Path,
) -> None:
    results = [result(1, "x", True, rep, output="same") for rep in (0, 1)]
    results += [result(1, "y", True, rep, output=f"other {rep}") for rep in (0, 1)]
    kept: list[labels.Label] = []
    labelling = Labelling(
        "s", labels.pairs(results, ("x", "y"), 1), "ann", 1, (), kept.append, lambda: 1.0
    )
    transport = httpx.ASGITransport(labelling.app(80))
    base = "http://localhost:80"
    async with httpx.AsyncClient(transport=transport, base_url=base) as client:
        headers = {**JSON, "host": "localhost:80", "origin": base}
        own = f"/{labelling.token}"
        body = {"preferred": "left", "left": True, "right": True}
        await client.post(f"{own}/pairs/0", json=body, headers=headers)
        shown = (await client.get(f"{own}/pairs/1", headers=headers)).json()
        marks = dict(zip(shown["texts"], (shown["left"], shown["right"]), strict=True))
        assert marks.pop("same") is True
        assert list(marks.values()) == [None]
        assert shown["preferred"] is None
        await client.post(f"{own}/pairs/1", json=body, headers=headers)
    assert {each.rep for each in kept} == {0, 1}
    assert labelling.done == 2
