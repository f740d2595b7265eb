"""`switchboard adapters mix`: weights tried on suites at a real vLLM."""

import json
import shutil
from pathlib import Path

import httpx

from demo import vllm_server
from tests.cli.running import switchboard
from tests.config.trees import ENV, write
from tests.vllm.conftest import Replica
from tests.vllm.support import ROUTE_FILES

EVALS = Path(__file__).parents[2] / "evals"
GATEWAY = """
default_route: general
backends:
  local:
    kind: vllm
    replicas: [{url}]
    replica_hour: 0.40 usd
    peak_tokens_per_second: 2000
    adapter_store: {adapters}
    lora: {{max_rank: 16}}
    models:
      tiny:
        id: base
        adapters:
          support: {{source: support}}
          brand: {{source: brand}}
          both: {{mix: {{support: 1.0, brand: 1.0}}}}
"""


def home(folder: Path, url: str) -> Path:
    adapters = folder / "adapters"
    adapters.mkdir()
    for name in ("support", "brand"):
        shutil.copytree(vllm_server.ADAPTERS / name, adapters / name)
    files = {
        "gateway.yaml": GATEWAY.format(url=url, adapters=adapters),
        **ROUTE_FILES,
    }
    return write(folder / "home", files)


def test_the_best_weights_of_a_mix_are_found(vllm: Replica, tmp_path: Path) -> None:
    suites = [f"--suite={EVALS / name}.yaml" for name in ("support", "brand")]
    weights = ["--weights=support=0.5,1", "--weights=brand=0.5,1"]
    words = ["adapters", "mix", "both", *suites, *weights]
    ran = switchboard(*words, "--json", home=home(tmp_path, vllm.url), env=ENV)
    assert ran.code == 0, ran.said
    tried = json.loads(ran.out)
    assert len(tried) == 4
    best, worst = tried[0], tried[-1]
    assert best["weights"] == {"support": 1.0, "brand": 1.0}
    assert best["on_front"]
    assert min(best["right"].values()) >= 0.95
    assert worst["weights"] == {"support": 0.5, "brand": 0.5}
    assert min(worst["right"].values()) < 0.9
    listed = httpx.get(f"{vllm.url}/v1/models").json()["data"]
    assert not [model["id"] for model in listed if model["id"].startswith("try-")]


def test_what_cannot_be_tried_is_told(vllm: Replica, tmp_path: Path) -> None:
    suite = f"--suite={EVALS / 'support.yaml'}"
    made = home(tmp_path, vllm.url)
    no_mix = switchboard("adapters", "mix", "support", suite, home=made, env=ENV)
    assert "local/tiny+support is no mix" in no_mix.said
    unknown = switchboard("adapters", "mix", "nobody", suite, home=made, env=ENV)
    assert "nobody is no adapter; there are local/tiny+support" in unknown.said
    away = ["--replica=http://127.0.0.1:1", "--weights=support=1", "--weights=brand=1"]
    away_said = switchboard("adapters", "mix", "both", suite, *away, home=made, env=ENV)
    assert "http://127.0.0.1:1/v1/load_lora_adapter: ConnectError" in away_said.said
    assert (no_mix.code, unknown.code, away_said.code) == (1, 1, 1)
