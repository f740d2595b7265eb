"""A directory becomes one snapshot, in the domain's own units."""

from pathlib import Path

import msgspec
import pytest

from gateway.types.backends import Price, Timeouts, Version
from gateway.types.policies import Limits
from tests.config.trees import GATEWAY, loaded


def test_prices_are_dollars_per_token(tmp_path: Path) -> None:
    targets = loaded(tmp_path).snapshot.targets
    assert targets["openai/mini"].price == Price(0.25e-6, 0.025e-6, 2e-6)
    assert not targets["openai/mini"].internal


def test_a_hosted_price_is_the_replicas_hour_over_its_peak(tmp_path: Path) -> None:
    target = loaded(tmp_path).snapshot.targets["local/qwen+contracts"]
    assert target.price.output == pytest.approx(2.20 / 3600 / 2400)
    assert target.price.input == target.price.cached_input == target.price.output
    assert target.internal


def test_an_adapter_is_a_target_served_under_its_own_name(tmp_path: Path) -> None:
    snapshot = loaded(tmp_path).snapshot
    assert snapshot.targets["local/qwen"].served == "Qwen/Qwen3-8B"
    assert snapshot.targets["local/qwen+contracts"].served == "contracts"
    (adapter,) = snapshot.adapters
    assert (adapter.target, adapter.base_id) == ("local/qwen+contracts", "Qwen/Qwen3-8B")
    assert adapter.versions == (Version("", source="contracts-v3"),)


def test_each_version_is_a_target_of_its_own(tmp_path: Path) -> None:
    versions = "{versions: {v7: contracts-v7, v8: {source: s3://b/v8, sha256: %s}}}" % ("a" * 64)
    changed = GATEWAY.replace("{source: contracts-v3}", versions)
    snapshot = loaded(tmp_path, {"gateway.yaml": changed}).snapshot
    (adapter,) = snapshot.adapters
    assert adapter.versions == (
        Version("v7", source="contracts-v7"),
        Version("v8", source="s3://b/v8", sha256="a" * 64),
    )
    assert snapshot.targets["local/qwen+contracts"].version is None
    assert snapshot.targets["local/qwen+contracts@v8"].version == "v8"


def test_a_mix_is_of_other_adapters_of_its_model(tmp_path: Path) -> None:
    more = "{source: contracts-v3}\n          both: {mix: {contracts: -0.5}, rank: 8}"
    changed = GATEWAY.replace("{source: contracts-v3}", more)
    snapshot = loaded(tmp_path, {"gateway.yaml": changed}).snapshot
    assert snapshot.adapters[1].versions == (Version("", mix={"contracts": -0.5}, rank=8),)


def test_without_a_store_the_replicas_read_beside_the_configuration(tmp_path: Path) -> None:
    backend = loaded(tmp_path).snapshot.backends["local"]
    assert backend.adapters_here == str(tmp_path)
    assert backend.shelf_here == backend.shelf_on_replicas
    assert backend.shelf_here == str(tmp_path / ".switchboard" / "adapters")


def test_an_adapters_shelf_is_as_the_replica_sees_it(tmp_path: Path) -> None:
    (tmp_path / "store" / "contracts-v3").mkdir(parents=True)
    changed = GATEWAY.replace(
        "    models:\n      qwen",
        "    adapter_store: {here: store, on_replicas: /adapters}\n    models:\n      qwen",
    )
    found = loaded(tmp_path, {"gateway.yaml": changed})
    backend = found.snapshot.backends["local"]
    assert backend.adapters_here == str(tmp_path / "store")
    assert backend.shelf_here == str(tmp_path / "store" / ".shelf")
    assert backend.shelf_on_replicas == "/adapters/.shelf"
    assert found.warnings == ()


def test_a_policy_is_in_seconds_dollars_and_shares(tmp_path: Path) -> None:
    policy = loaded(tmp_path).snapshot.policies["balanced"]
    assert (policy.waiting_first_token, policy.waiting_whole) == (0.002, 0.0005)
    assert policy.limits == Limits(cost=0.01, first_token_p95=1.5, quality=0.8)
    assert (policy.switch_margin, policy.explore) == (0.05, 0.02)


def test_a_candidates_prompt_is_read_from_its_file(tmp_path: Path) -> None:
    route = loaded(tmp_path).snapshot.routes["contract-summary"]
    assert [candidate.system for candidate in route.candidates] == [None, "You summarise clauses."]
    assert route.internal
    assert route.match.headers == {"x-workflow": "legal"}


def test_every_timeout_has_its_own_name(tmp_path: Path) -> None:
    changed = GATEWAY.replace(
        "    url: https",
        "    timeouts: {connect: 1 s, first_token: 2 s, between_tokens: 300 ms, total: 4 m}\n"
        "    url: https",
    )
    backend = loaded(tmp_path, {"gateway.yaml": changed}).snapshot.backends["openai"]
    assert backend.timeouts == Timeouts(connect=1, first_byte=2, between=0.3, total=240)
    assert backend.api_key == "sk-test"


def test_what_was_read_can_be_kept_and_has_no_secret(tmp_path: Path) -> None:
    found = loaded(tmp_path)
    assert set(found.texts) == {
        "gateway.yaml",
        "routes/contract-summary.yaml",
        "routes/general.yaml",
        "policies/balanced.yaml",
        "prompts/contracts-base.md",
    }
    assert not any("sk-test" in text for text in found.texts.values())
    assert {path.relative_to(tmp_path).as_posix() for path in found.files} == set(found.texts)


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    one = loaded(tmp_path).snapshot
    again = loaded(tmp_path).snapshot
    assert one.hash == again.hash
    assert len(one.hash) == 64
    reordered = GATEWAY.replace("default_route: general\n", "") + "default_route: general\n"
    assert loaded(tmp_path, {"gateway.yaml": reordered}).snapshot.hash == one.hash
    dearer = GATEWAY.replace("2 usd/Mtok", "3 usd/Mtok")
    assert loaded(tmp_path, {"gateway.yaml": dearer}).snapshot.hash != one.hash
    assert loaded(tmp_path, env={"OPENAI_API_KEY": "other"}).snapshot.hash != one.hash


def test_a_snapshot_without_its_secret_is_what_is_hashed(tmp_path: Path) -> None:
    from gateway.config.compile import canonical

    content = canonical(loaded(tmp_path).snapshot)
    assert b"sk-test" not in content
    assert isinstance(msgspec.json.decode(content), list)


def test_a_backend_may_be_behind_a_proxy(tmp_path: Path) -> None:
    changed = GATEWAY.replace(
        "    api_key: ${OPENAI_API_KEY}",
        "    api_key: ${OPENAI_API_KEY}\n    proxy: http://proxy:3128",
    )
    backends = loaded(tmp_path, {"gateway.yaml": changed}).snapshot.backends
    assert backends["openai"].proxy == "http://proxy:3128"
    assert backends["local"].proxy is None
