"""The demo's suites on the real vLLM: what an adapter is worth, by the command that teams use."""

from benchmarks.suites import measured
from tests.vllm.conftest import Replica

ADAPTED = ["support", "contracts", "dispatch", "brand"]


def test_each_adapter_is_right_where_the_base_alone_is_not(vllm: Replica) -> None:
    found = measured(vllm.url, [*ADAPTED, "reviews"])
    for name in ADAPTED:
        right = {row["target"]: row["right"] / row["n"] for row in found[name]["rows"]}
        assert right[f"local/tiny+{name}"] >= 0.99, name
        assert right["local/tiny"] <= 0.8, name
    # Where the base is good enough, it is a small part of the price.
    base, commercial = found["reviews"]["rows"]
    assert base["right"] >= 98
    assert base["cost_usd"] < 0.2 * commercial["cost_usd"]
