"""Replicas behind a name."""

from pathlib import Path

import msgspec

from gateway.backends.addresses import Names, with_addresses
from gateway.standin.engine import Vllm
from gateway.standin.standin import StandIn
from gateway.types.snapshot import Snapshot
from tests.gateway.support import route, serving, snapshot, target

NAME = "dns://vllm.ml.svc:8000"


class Resolver:
    def __init__(self, *hosts: str) -> None:
        self.hosts = set(hosts)

    async def __call__(self, host: str, port: int) -> set[str]:
        assert (host, port) == ("vllm.ml.svc", 8000)
        if not self.hosts:
            raise OSError("no such host")
        return self.hosts


def behind(name: str) -> Snapshot:
    base = target("local/qwen", name, internal=True, served="base")
    return snapshot([base], [route("general", "local/qwen", internal=True)])


async def test_a_name_is_each_of_its_addresses() -> None:
    plain = behind(NAME)
    found = with_addresses(
        plain, await Names(Resolver("10.0.0.2", "10.0.0.1", "fd00::1")).look(plain)
    )
    urls = ("http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://[fd00::1]:8000")
    assert found.backends["local"].replicas == urls
    assert found.targets["local/qwen"].replicas == urls


async def test_addresses_come_and_go() -> None:
    plain, resolver = behind(NAME), Resolver("10.0.0.1")
    names = Names(resolver)
    assert (await names.look(plain))[NAME] == ("http://10.0.0.1:8000",)
    resolver.hosts = {"10.0.0.2"}
    assert (await names.look(plain))[NAME] == ("http://10.0.0.2:8000",)


async def test_while_nothing_answers_the_addresses_stay() -> None:
    plain, resolver = behind(NAME), Resolver("10.0.0.1")
    names = Names(resolver)
    before = await names.look(plain)
    resolver.hosts = set()
    assert await names.look(plain) == before
    assert (await Names(resolver).look(plain))[NAME] == ()


async def test_what_has_no_name_is_left_as_it_is() -> None:
    plain = behind("http://10.0.0.1:8000")
    assert with_addresses(plain, await Names().look(plain)) == plain


async def test_a_gateway_serves_from_behind_a_name(tmp_path: Path) -> None:
    async with StandIn(vllm=Vllm()) as vllm:
        async with serving(behind(f"dns://localhost:{vllm.port}"), tmp_path) as served:
            answer = await served.chat()
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-switchboard-target"] == "local/qwen"


async def test_a_name_that_leads_nowhere_yet_is_no_error_of_the_client(tmp_path: Path) -> None:
    plain = behind("dns://nowhere.invalid:8000")
    empty = msgspec.structs.replace(plain, hash="nowhere")
    async with serving(empty, tmp_path) as served:
        assert (await served.chat()).status_code == 503
