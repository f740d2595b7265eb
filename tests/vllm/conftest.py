"""One real vLLM for all these tests: it takes half a minute to start."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from demo import processes, vllm_server

LONGEST = 16_384
"""What the replica has room for, in tokens of prompt and answer together: ten seconds or more."""


class Replica:
    """A vLLM on one port, which can be killed and started again."""

    def __init__(self, folder: Path, room: vllm_server.Room | None = None) -> None:
        self._folder = folder
        self._room = room
        self._starts = 0
        self.port = vllm_server.free_port()
        self.server = self._start()

    @property
    def url(self) -> str:
        """Its base URL, the same after a restart."""
        return self.server.url

    def kill(self) -> None:
        """Ends it with all its workers, as a crash of its host would."""
        self.server.kill()

    def start_again(self) -> None:
        """A new process in the killed one's place; back when it is healthy."""
        self.server = self._start()

    def _start(self) -> vllm_server.Server:
        self._starts += 1
        log = self._folder / f"{self._starts}.log"
        return vllm_server.start(self.port, log_path=log, room=self._room)


@pytest.fixture(scope="package")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replica]:
    """The trained base, healthy, with no adapter that a test has not had loaded.

    An adapter keeps its slot when it is unloaded, and the base needs one that was never taken
    (`vllm_server.Room`): there is one for every adapter that all these tests load together. Its
    context is long enough for an answer that is far from its end when a client goes.
    """
    room = vllm_server.Room(loras=32, cpu_loras=32, context=LONGEST)
    replica = Replica(tmp_path_factory.mktemp("vllm"), room)
    try:
        group = replica.server.process.pid
        assert len(processes.members(group)) > 2  # the API, the engine and its worker
        yield replica
    finally:
        group = replica.server.process.pid
        replica.server.stop()
        assert not processes.members(group)
