"""A real vLLM from `.vllm/`: it starts, serves what was trained, and leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from demo import measure, processes, vllm_server
from demo.tasks import ADAPTERS, sample
from tests.vllm.conftest import Replica

REPORTED_BASE_AT_MOST = 0.75
STARTER = """
import sys
import urllib.request
from pathlib import Path
from demo import vllm_server
server = vllm_server.launch(vllm_server.free_port(), log_path=Path(sys.argv[1]))
print(server.process.pid, flush=True)
sys.stdin.read()
"""


def load_unless_loaded(url: str, name: str) -> None:
    with urllib.request.urlopen(f"{url}/v1/models", timeout=20) as answer:
        listed = json.load(answer)["data"]
    if name not in [model["id"] for model in listed]:
        measure.load_adapter(url, name)


@pytest.mark.parametrize("task", ADAPTERS)
def test_an_adapter_answers_as_the_house_does_where_the_base_often_fails(
    vllm: Replica, task: str
) -> None:
    load_unless_loaded(vllm.url, task)
    examples = sample(task, 20, 23, "test")
    right = {
        model: [measure.ask(vllm.url, model, e.prompt) == e.house for e in examples]
        for model in (task, vllm_server.SERVED_NAME)
    }
    assert sum(right[task]) >= 19
    assert sum(right[vllm_server.SERVED_NAME]) <= REPORTED_BASE_AT_MOST * len(examples)


def test_one_that_is_not_healthy_in_time_can_be_stopped_half_way(tmp_path: Path) -> None:
    running = vllm_server.launch(vllm_server.free_port(), log_path=tmp_path / "vllm.log")
    heard: list[float] = []
    with pytest.raises(vllm_server.VllmFailed, match="not healthy after 2 s"):
        running.wait(2, lambda elapsed_s: heard.append(elapsed_s))
    assert heard
    assert processes.members(running.process.pid)
    running.stop()
    assert not processes.members(running.process.pid)
    assert not running.is_running()


def test_a_start_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(vllm_server.VllmFailed, match="vLLM ended with 1: "):
        vllm_server.start(
            vllm_server.free_port(), log_path=tmp_path / "vllm.log", base=tmp_path / "nothing"
        )


def test_it_ends_when_the_process_that_started_it_is_killed(tmp_path: Path) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(tmp_path / "vllm.log")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=vllm_server.DEMO.parent,
        text=True,
    )
    assert starter.stdout is not None
    assert starter.stdin is not None
    group = int(starter.stdout.readline())
    assert processes.members(group)
    os.kill(starter.pid, signal.SIGKILL)
    starter.wait()
    starter.stdin.close()
    starter.stdout.close()
    assert processes.wait_until_gone(group, processes.STOP_GRACE_S * 2)
