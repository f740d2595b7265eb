"""A gateway whose classifier's encoder is away: it starts, serves, and finds it again."""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from gateway.standin.standin import StandIn
from gateway.types.routes import Match
from gateway.types.snapshot import Server, Snapshot
from tests.classify.servers import embeddings, port_of, vectors
from tests.gateway.conftest import KEY
from tests.gateway.support import Served, route, serving, snapshot, target
from tests.transport.peer import forwarding, peer

SHORT = ("brief", "a short one", "tiny", "no more")
LONG = (
    "this one is a good deal longer than the others are, and it says so",
    "and so is this one, which goes on and on and on and on and on",
    "whoever reads this one to its very end has read a great many words",
    "of all of these texts this one may well turn out to be the longest",
)


class Heard(logging.Handler):
    """What the log says of the classifier; `back` is set when its encoder is there again."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.back = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a line's first words."""
        self.lines.append(record.getMessage().partition(",")[0])
        if "there again" in self.lines[-1]:
            self.back.set()


@contextlib.contextmanager
def heard() -> Iterator[Heard]:
    log, handler = logging.getLogger("switchboard.classifier"), Heard()
    log.addHandler(handler)
    try:
        yield handler
    finally:
        log.removeHandler(handler)


def configuration(provider: StandIn, encoder: str) -> Snapshot:
    """Two routes told apart by length, and one by a keyword."""
    mini = target("openai/mini", provider.url)
    routes = [
        route("long", mini.name, match=Match(examples=LONG)),
        route("short", mini.name, match=Match(examples=SHORT)),
        route("contracts", mini.name, match=Match(keywords=("clause",))),
    ]
    plain = snapshot(
        [mini, target("encoders/small", encoder)],
        routes,
        keys={"openai": KEY},
    )
    server = Server(classifier="embedding", encoder_target="encoders/small")
    return msgspec.structs.replace(plain, server=server)


async def found(served: Served, text: str) -> tuple[str, str, str]:
    """A served chat's route, how it was known, and the detail."""
    answer = await served.chat(text)
    assert answer.status_code == 200, answer.text
    known = (await served.decision(answer))["recognition"]
    return known["route"], known["by"], known["detail"]


DEFAULT = ("long", "default", "the encoder is away")
AWAY = "the classifier's encoder is away"
BACK = "the classifier's encoder is there again"


async def test_it_starts_without_its_encoder_and_finds_it(
    provider: StandIn, tmp_path: Path
) -> None:
    with embeddings(vectors) as url:
        pass
    with heard() as log:
        async with serving(configuration(provider, url), tmp_path) as served:
            assert await found(served, "brief") == DEFAULT
            assert await found(served, "tiny") == DEFAULT
            assert (await found(served, "this clause"))[:2] == ("contracts", "keyword")
            with embeddings(vectors, port_of(url)):
                assert await asyncio.to_thread(log.back.wait, 20)
                assert (await found(served, "brief"))[:2] == ("short", "classifier")
    assert log.lines == [AWAY, BACK]


async def test_it_serves_on_when_its_encoder_goes_away(provider: StandIn, tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        log = stack.enter_context(heard())
        with embeddings(vectors) as url:
            gateway = serving(configuration(provider, url), tmp_path)
            served = await stack.enter_async_context(gateway)
            assert (await found(served, "brief"))[:2] == ("short", "classifier")
        for text in ("brief", "tiny", "no more"):
            assert await found(served, text) == DEFAULT
        assert log.lines == [AWAY]
        with embeddings(vectors, port_of(url)):
            assert await asyncio.to_thread(log.back.wait, 20)
            assert (await found(served, "brief"))[:2] == ("short", "classifier")
    assert log.lines == [AWAY, BACK]


async def test_its_encoder_is_reached_through_the_backends_proxy(
    provider: StandIn, tmp_path: Path
) -> None:
    seen: list[bytes] = []
    async with peer(forwarding(seen)) as proxy:
        with embeddings(vectors) as url:
            plain = configuration(provider, url)
            through = f"http://127.0.0.1:{proxy.origin.port}"
            encoders = msgspec.structs.replace(plain.backends["encoders"], proxy=through)
            behind = msgspec.structs.replace(
                plain, backends={**plain.backends, "encoders": encoders}
            )
            async with serving(behind, tmp_path) as served:
                assert (await found(served, "brief"))[:2] == ("short", "classifier")
    assert seen
    assert all(line.startswith(b"POST " + url.encode()) for line in seen)
