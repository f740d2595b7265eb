"""What the making of vLLM's environment leaves alone."""

import shutil
import subprocess
import sys
from pathlib import Path

from demo import vllm_env


def test_an_environment_behind_a_link_is_not_torn_down_for_another_lock(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    for name in ("vllm_env.py", vllm_env.LOCK.name):
        shutil.copy(vllm_env.DEMO / name, tmp_path / "demo" / name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (tmp_path / ".vllm").symlink_to(elsewhere)
    command = [sys.executable, str(tmp_path / "demo/vllm_env.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == vllm_env.CANNOT
    assert f"is a link to {elsewhere}" in done.stderr
    assert [path.name for path in elsewhere.iterdir()] == ["kept"]
