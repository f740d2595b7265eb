"""Limits as they are written: in files, by `keys`, and shown by `limits`."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner, Result

from gateway.cli import build
from gateway.config.load import load
from gateway.errors import ConfigError
from gateway.standin.standin import StandIn
from gateway.store.keys import Keys
from gateway.store.store import Store
from gateway.types.limits import Quota, Rate
from tests.gateway.support import serving, snapshot, target

GATEWAY = """
default_route: general
limits:
  every_key: {requests: 600/min, tokens: 100k/min, concurrent: 20, budget: {day: 10 usd}}
  tenants:
    acme: {budget: {month: 500 usd}}
  alerts: {at: [50 %, 100 %], webhook: "https://alerts.example/x", secret: "${SECRET}"}
backends:
  openai:
    kind: openai
    url: https://api.example/v1
    models: {mini: {id: m, price: {input: 1 usd/Mtok, output: 2 usd/Mtok}}}
"""
ROUTE = """
name: general
value: 0.02 usd
candidates: [{target: openai/mini, quality: 0.9}]
policy: plain
limits: {requests: 10/s, budget: {month: 1000 usd}}
"""


def write(folder: Path, gateway: str = GATEWAY, route: str = ROUTE) -> Path:
    for name, text in (
        ("gateway.yaml", gateway),
        ("routes/general.yaml", route),
        ("policies/plain.yaml", "name: plain\n"),
    ):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)
    return folder


def run(*words: str, code: int = 0) -> Result:
    result = CliRunner().invoke(build(), words)
    assert result.exit_code == code, result.output + result.stderr
    return result


def test_files_declare_limits(tmp_path: Path) -> None:
    loaded = load(write(tmp_path), {"SECRET": "hush"})
    quotas = loaded.snapshot.quotas
    assert quotas.every_key == Quota(Rate(600, 60), Rate(100_000, 60), 20, 10.0)
    assert quotas.tenants["acme"] == Quota(month=500.0)
    assert loaded.snapshot.routes["general"].quota == Quota(Rate(10, 1), month=1000.0)
    assert quotas.alerts is not None
    assert (quotas.alerts.at, quotas.alerts.secret) == ((0.5, 1.0), "hush")
    assert "hush" not in repr(loaded.snapshot)
    other = load(tmp_path, {"SECRET": "another"})
    assert other.snapshot.hash != loaded.snapshot.hash


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("600/min", "600", "gateway.yaml:4: limits.every_key.requests: `600` is not a rate"),
        ("100k/min", "1.5/min", "is not a whole number above 0"),
        ("10 usd", "0 usd", "`0 usd` is nothing; write an amount above 0"),
        ("concurrent: 20", "at_once: 20", "limits.every_key.at_once"),
        ("https://alerts.example/x", "ftp://x", "is not a URL"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, old: str, new: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, GATEWAY.replace(old, new)), {"SECRET": "hush"})
    assert said in str(caught.value)


def test_keys_are_made_and_changed_with_limits(tmp_path: Path) -> None:
    store = ["--store", f"sqlite:///{tmp_path}/s.db"]
    limits = ["--requests", "600/min", "--tokens", "100k/min", "--concurrent", "20"]
    run("keys", "create", "--name", "app", *limits, "--per-day", "10 usd", *store)

    def known() -> Quota | None:
        (key,) = Keys(Store.open(store[1])).list()
        return key.quota

    assert known() == Quota(Rate(600, 60), Rate(100_000, 60), 20, 10.0)
    shown = run("keys", "limit", "app", "--tokens", "none", "--per-month", "200 usd", *store)
    assert "requests 600/min, 20 at once, 10 usd a day, 200 usd a month, tokens lifted" in (
        shown.output
    )
    assert known() == Quota(Rate(600, 60), None, 20, 10.0, 200.0, lifted=frozenset({"tokens"}))
    told = run("keys", "limit", "app", "--concurrent", "5", "--json", *store).output
    (listed,) = json.loads(run("keys", "list", "--json", *store).output)
    assert {**json.loads(told), "state": "valid"} == listed
    assert listed["quota"]["concurrent"] == 5
    names = ("requests", "tokens", "concurrent", "per-day", "per-month")
    run("keys", "limit", "app", *(word for n in names for word in (f"--{n}", "default")), *store)
    assert known() is None
    assert "is not a rate" in run("keys", "limit", "app", "--requests", "9", *store, code=2).stderr
    assert "no key 'x'" in run("keys", "limit", "x", "--requests", "9/s", *store, code=1).stderr
    listed = json.loads(run("keys", "list", "--json", *store).output)
    assert listed[0]["quota"] is None


async def test_limits_shows_who_is_at_what(tmp_path: Path) -> None:
    async with StandIn() as provider:
        quota = Quota(requests=Rate(4, 60), day=1.0)
        plain = snapshot([target("a/m", provider.url)])
        async with serving(plain, tmp_path, key=True, quota=quota, role="read") as served:
            await served.chat("hello")
            words = ["limits", "--gateway", served.url, "--key", str(served.key)]
            shown = (await asyncio.to_thread(run, *words)).output
            assert "key 'test'  requests/min" in shown
            assert "25%" in shown
            found = json.loads((await asyncio.to_thread(run, *words, "--json")).output)
            assert found[0]["limits"]["requests"] == {"limit": 4, "per_s": 60.0, "used": 1}
            assert 0 < found[0]["limits"]["day"]["used"] < 0.001
            assert msgspec.json.decode(msgspec.json.encode(found)) == found


async def test_a_budget_of_nothing_is_shown_as_used_up(tmp_path: Path) -> None:
    async with StandIn() as provider:
        plain = snapshot([target("a/m", provider.url)])
        async with serving(plain, tmp_path, key=True, quota=Quota(day=0.0), role="read") as served:
            await served.chat("hello")  # refused, and so the key is known
            words = ["limits", "--gateway", served.url, "--key", str(served.key)]
            shown = (await asyncio.to_thread(run, *words)).output
    assert "100%" in shown
