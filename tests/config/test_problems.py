"""Everything that can be wrong with a configuration is said, with file, line, key and mend."""

from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.config.load import load
from gateway.errors import ConfigError, Problem
from tests.config.trees import BALANCED, CONTRACTS, ENV, FILES, GATEWAY, GENERAL, problems, write

ROUTE = "routes/contract-summary.yaml"
VLLM_MODEL = "        id: Qwen/Qwen3-8B\n"


class Case(NamedTuple):
    """In `file`, `new` stands for `old`; then at `place` the message is said, and the mend."""

    file: str
    old: str
    new: str
    place: str
    message: str
    mend: str = ""


METRICS = "policy: balanced\nmetrics: "

CASES = [
    # retention
    Case(
        "gateway.yaml",
        "default_route: general\n",
        "retention: {requests: 30 d}\ndefault_route: general\n",
        "gateway.yaml:1 retention.requests",
        "`30 d` is too short: a month's budgets are known by its requests",
        "write `32 d` or more",
    ),
    Case(
        "gateway.yaml",
        "default_route: general\n",
        "retention: {text: 5 m}\ndefault_route: general\n",
        "gateway.yaml:1 retention.text",
        "`5 m` is too short: answers are spoken of after they were given",
        "write `1 h` or more",
    ),
    # metrics
    Case(
        ROUTE,
        "policy: balanced\n",
        METRICS + "{accepted: {}}\nright: acepted\n",
        f"{ROUTE}:14 right",
        "unknown metric `acepted`",
        "did you mean `accepted`?",
    ),
    Case(
        ROUTE,
        "policy: balanced\n",
        METRICS + "{judged: {type: score, from: judge}}\nright: judged\n",
        f"{ROUTE}:13 metrics.judged",
        "the route's `right`, but nobody knows which score is right",
        "right_when",
    ),
    Case(
        ROUTE,
        "policy: balanced\n",
        METRICS + "{judged: {type: score, right_when: true}}\n",
        f"{ROUTE}:13 metrics.judged.right_when",
        "says nothing about a score",
        "write a comparison, as `>= 4`",
    ),
    Case(
        ROUTE,
        "policy: balanced\n",
        METRICS + "{judged: {type: score, right_when: four}}\n",
        f"{ROUTE}:13 metrics.judged.right_when",
        "`four` does not say when an answer is right",
        "write `true` or `false`, or a comparison such as `>= 4`",
    ),
    Case(
        ROUTE,
        "policy: balanced\n",
        METRICS + "{judged: {from: nobody}}\n",
        f"{ROUTE}:13 metrics.judged.from",
        "`nobody` is not one of `feedback`, `judge`, `check`",
    ),
    # names
    Case(
        ROUTE,
        "local/qwen+contracts",
        "local/qwen+contract",
        f"{ROUTE}:10 candidates[0].target",
        "unknown candidate `local/qwen+contract`",
        "did you mean `local/qwen+contracts`?",
    ),
    Case(
        ROUTE,
        "local/qwen+contracts",
        "elsewhere/zzz",
        f"{ROUTE}:10 candidates[0].target",
        "unknown candidate `elsewhere/zzz`",
        "declare the model `zzz` of backend `elsewhere` in gateway.yaml",
    ),
    Case(
        ROUTE,
        "local/qwen+contracts",
        "local/llama+{key.tenant}",
        f"{ROUTE}:10 candidates[0].target",
        "unknown candidate `local/llama+{key.tenant}`",
        "declare the adapter",
    ),
    Case(
        ROUTE,
        "local/qwen+contracts",
        "qwen",
        f"{ROUTE}:10 candidates[0].target",
        "`qwen` is not a target",
        "write `backend/model`",
    ),
    Case(
        ROUTE,
        "local/qwen+contracts",
        "local/qwen+{key.name}",
        f"{ROUTE}:10 candidates[0].target",
        "is not a target",
        "`+{key.tenant}` for an adapter that follows the caller",
    ),
    Case(
        ROUTE,
        "policy: balanced",
        "policy: balancd",
        f"{ROUTE}:12 policy",
        "unknown policy `balancd`",
        "did you mean `balanced`?",
    ),
    Case(
        "gateway.yaml",
        "gpt-4o: auto",
        "gpt-4o: contract-sumary",
        "gateway.yaml:2 aliases.gpt-4o",
        "`contract-sumary` is neither `auto` nor a route nor a target",
        "did you mean `contract-summary`?",
    ),
    Case(
        "gateway.yaml",
        "gpt-4o: auto",
        "general: auto",
        "gateway.yaml:2 aliases.general",
        "the alias hides the route or target `general`",
        "rename it",
    ),
    Case(
        "gateway.yaml",
        "default_route: general",
        "default_route: genral",
        "gateway.yaml:1 default_route",
        "unknown route `genral`",
        "did you mean `general`?",
    ),
    Case(
        ROUTE,
        "name: contract-summary",
        "name: general",
        "routes/general.yaml:1 name",
        "the route `general` is declared already, at routes/contract-summary.yaml:1",
        "give one of them another name",
    ),
    Case(ROUTE, "name: contract-summary", "name: auto", f"{ROUTE}:1 name", "`auto` is what"),
    Case(
        ROUTE,
        "name: contract-summary",
        "name: Contract Summary",
        f"{ROUTE}:1 name",
        "`Contract Summary` is not a name",
        "write `contract-summary`",
    ),
    Case(
        "gateway.yaml",
        "      qwen:",
        "      Qwen_3:",
        "gateway.yaml:10 backends.local.models.Qwen_3",
        "`Qwen_3` is not a name",
        "write `qwen-3`",
    ),
    # what a route needs
    Case(
        ROUTE,
        ", quality: 0.97",
        "",
        f"{ROUTE}:10 candidates[0].quality",
        "is missing",
        "for example `quality: 0.97`",
    ),
    Case(
        ROUTE,
        "quality: 0.97",
        "quality: 97",
        f"{ROUTE}:10 candidates[0].quality",
        "`97` is more than the whole",
        "write a share as `0.8` or `80 %`",
    ),
    Case(
        ROUTE,
        "local/qwen+contracts",
        "openai/mini",
        f"{ROUTE}:10 candidates[0].target",
        "`openai/mini` is not self-hosted, and the route's data is internal",
        "leave it out, or write `data: any`",
    ),
    Case(
        ROUTE,
        "local/qwen+contracts",
        "openai/mini+{key.tenant}",
        f"{ROUTE}:10 candidates[0].target",
        "is not self-hosted",
    ),
    Case(
        ROUTE,
        "prompts/contracts-base.md",
        "prompts/contract-base.md",
        f"{ROUTE}:11 candidates[1].system",
        "there is no file `prompts/contract-base.md`",
        "write ",
    ),
    Case(
        ROUTE,
        "prompts/contracts-base.md",
        "../secret.md",
        f"{ROUTE}:11 candidates[1].system",
        "`../secret.md` lies outside of the configuration",
        "move it into the directory",
    ),
    Case(
        ROUTE,
        "prompts/contracts-base.md",
        "/etc/passwd",
        f"{ROUTE}:11 candidates[1].system",
        "`/etc/passwd` lies outside of the configuration",
    ),
    Case(
        ROUTE,
        "  - {target: local/qwen, quality: 0.80, system: prompts/contracts-base.md}",
        "  - {target: local/qwen+contracts, quality: 0.80}",
        f"{ROUTE}:11 candidates[1]",
        "`local/qwen+contracts` is a candidate already, on line 10",
        "leave one of them out",
    ),
    Case(
        ROUTE,
        "keywords: [clause, lessee]",
        "patterns: ['(']",
        f"{ROUTE}:7 match.patterns[0]",
        "not a regular expression: missing )",
    ),
    Case(
        ROUTE,
        "data: internal",
        "data: intern",
        f"{ROUTE}:4 data",
        "`intern` is not one of `any`, `internal`",
        "did you mean `internal`?",
    ),
    Case(
        ROUTE,
        "keywords:",
        "keyword:",
        f"{ROUTE}:7 match.keyword",
        "unknown key `keyword`",
        "did you mean `keywords`?",
    ),
    Case(
        ROUTE, "x-workflow:", "'x workflow':", f"{ROUTE}:6 match.headers.x workflow", "not the name"
    ),
    Case(
        ROUTE,
        CONTRACTS.partition("match:")[2].partition("candidates:")[0],
        " named_only\n",
        f"{ROUTE}:5 match",
        "must be a mapping of keys and values",
        "for example `match: {keywords: [clause]}`",
    ),
    Case(
        ROUTE,
        "match:" + CONTRACTS.partition("match:")[2].partition("candidates:")[0],
        "",
        f"{ROUTE}:1 match",
        "nothing leads to this route",
        "give it `examples`, or write `match: named`",
    ),
    # units
    Case(
        ROUTE,
        "value: 0.02 usd",
        "value: 0.02",
        f"{ROUTE}:3 value",
        "`0.02` has no unit",
        "write `0.02 usd`",
    ),
    Case(
        "policies/balanced.yaml",
        "1.5 s",
        "1.5 sec",
        "policies/balanced.yaml:3 limits.first_token_p95",
        "unknown unit `sec`",
    ),
    # policies
    Case(
        "policies/balanced.yaml",
        "if_none_fits: best",
        "if_none_fits: worst",
        "policies/balanced.yaml:4 if_none_fits",
        "`worst` is not one of `best`, `refuse`",
        "known: `best`, `refuse`",
    ),
    Case(
        "policies/balanced.yaml",
        "quality: 0.80",
        "quality: 0.98",
        f"{ROUTE}:12 policy",
        "no candidate is within the limits of `balanced` (policies/balanced.yaml:3):"
        " `local/qwen+contracts` has a quality of 0.97, under 0.98;",
        "loosen the limits, choose another policy, or add a candidate",
    ),
    Case(
        "policies/balanced.yaml",
        "cost: 0.01 usd",
        "cost: 0.00001 usd",
        "routes/general.yaml:6 policy",
        "costs $0.000051 for its usual answer of 200 tokens alone, over $0.00001",
    ),
    Case(
        "policies/balanced.yaml",
        "first_token_p95: 1.5 s",
        "first_token_p95: 100 ms",
        "routes/general.yaml:6 policy",
        "has its first token after 0.5 s, over 0.1 s",
    ),
    Case(
        "policies/balanced.yaml",
        "first_token_p95: 1.5 s",
        "whole_p95: 4 s",
        "routes/general.yaml:6 policy",
        "takes 4.5 s, over 4 s",
    ),
    # backends
    Case(
        "gateway.yaml",
        "kind: vllm",
        "kind: vlm",
        "gateway.yaml:4 backends.local",
        "`vlm` is not one of `vllm`, `openai`, `litellm`",
        "did you mean `vllm`?",
    ),
    Case(
        "gateway.yaml",
        "    kind: vllm\n",
        "",
        "gateway.yaml:4 backends.local",
        "its `kind` is missing",
        "add `kind: vllm`",
    ),
    Case(
        "gateway.yaml",
        "    url: https://api.openai.com/v1\n",
        "",
        "gateway.yaml:14 backends.openai",
        "needs either `url` or `replicas`",
        "write `url: https://host/v1`",
    ),
    Case(
        "gateway.yaml",
        "https://api.openai.com/v1",
        "api.openai.com/v1",
        "gateway.yaml:16 backends.openai.url",
        "`api.openai.com/v1` is not a URL",
        "write `http://host:port`",
    ),
    Case(
        "gateway.yaml",
        "https://api.openai.com/v1",
        "https://user:secret@api.openai.com/v1",
        "gateway.yaml:16 backends.openai.url",
        "a URL here has no user, query or fragment",
        "put a key under `api_key`",
    ),
    Case(
        "gateway.yaml",
        "http://127.0.0.1:8100",
        "dns://vllm.ml.svc",
        "gateway.yaml:6 backends.local.replicas[0]",
        "`dns://vllm.ml.svc` is not a name with a port",
        "write `dns://vllm.ml.svc:8000`",
    ),
    Case(
        "gateway.yaml",
        "replicas: [http://127.0.0.1:8100]",
        "replicas: []",
        "gateway.yaml:6 backends.local.replicas",
        "is empty",
        "for example `replicas: [http://gpu-1:8000]`",
    ),
    Case(
        "gateway.yaml",
        "    url: https",
        "    ulr: x\n    url: https",
        "gateway.yaml:16 backends.openai.ulr",
        "unknown key `ulr`",
        "did you mean `url`?",
    ),
    Case(
        "gateway.yaml",
        "price: {input: 0.25 usd/Mtok, cached_input: 0.025 usd/Mtok, output: 2 usd/Mtok}\n",
        "capabilities: {tools: true}\n",
        "gateway.yaml:19 backends.openai.models.mini",
        "has no price",
        "add `price: {input: 0.25 usd/Mtok, output: 2 usd/Mtok}`",
    ),
    Case(
        "gateway.yaml",
        "price: {input: 0.25 usd/Mtok,",
        "price: {input: 0.25 usd,",
        "gateway.yaml:21 backends.openai.models.mini.price.input",
        "unknown unit `usd`",
        "did you mean `0.25 usd/Mtok`?",
    ),
    Case(
        "gateway.yaml",
        "{source: contracts-v3}",
        "{mix: {a: 1.0, b: 0.8}}",
        "gateway.yaml:13 backends.local.models.qwen.adapters.contracts.mix.a",
        "unknown adapter `a` of this model",
        "",
    ),
    Case(
        "gateway.yaml",
        "{source: contracts-v3}",
        "{mix: {contracts: 1.0}}",
        "gateway.yaml:13 backends.local.models.qwen.adapters.contracts.mix",
        "is part of itself: contracts → contracts",
        "mix adapters that have a `source`",
    ),
    Case(
        "gateway.yaml",
        "{source: contracts-v3}",
        "{mix: {contracts: 0}}",
        "gateway.yaml:13 backends.local.models.qwen.adapters.contracts.mix.contracts",
        "`0` is not a weight",
        "write a number other than 0",
    ),
    Case(
        "gateway.yaml",
        "{source: contracts-v3}",
        "{source: a, mix: {b: 1}}",
        "gateway.yaml:13 backends.local.models.qwen.adapters.contracts.mix",
        "has a `source` already",
        "write them under `versions`",
    ),
    Case(
        "gateway.yaml",
        "{source: contracts-v3}",
        "{versions: {v7: a, v8: {}}}",
        "gateway.yaml:13 backends.local.models.qwen.adapters.contracts.versions.v8",
        "needs either a `source` or a `mix`",
        "",
    ),
    Case(
        "gateway.yaml",
        "{source: contracts-v3}",
        "{source: ftp://host/a}",
        "gateway.yaml:13 backends.local.models.qwen.adapters.contracts.source",
        "`ftp://` is no source that can be fetched",
        "`s3://`",
    ),
    Case(
        "gateway.yaml",
        "{source: contracts-v3}",
        "{source: a, rank: 8}",
        "gateway.yaml:13 backends.local.models.qwen.adapters.contracts.rank",
        "only a mix has a rank to declare",
        "leave it out",
    ),
    Case(
        "gateway.yaml",
        "{source: contracts-v3}",
        "{source: a, sha256: abc}",
        "gateway.yaml:13 backends.local.models.qwen.adapters.contracts.sha256",
        "`abc` is not a SHA-256",
        "64 hexadecimal digits",
    ),
    Case(
        "gateway.yaml",
        "{source: contracts-v3}",
        "{}",
        "gateway.yaml:13 backends.local.models.qwen.adapters.contracts",
        "needs a `source`",
        "write `source: contracts`",
    ),
    Case(
        "gateway.yaml",
        "{source: contracts-v3}",
        "{source: ../other}",
        "gateway.yaml:13 backends.local.models.qwen.adapters.contracts.source",
        "`../other` leads out of the adapter store",
        "write a path below it",
    ),
    Case(
        "gateway.yaml",
        "      qwen:\n",
        "      other: {id: x, adapters: {contracts: {source: a}}}\n      qwen:\n",
        "gateway.yaml:14 backends.local.models.qwen.adapters.contracts",
        "`contracts` is the name of something else in this backend already, on line 10",
        "give the adapter another name",
    ),
    Case(
        "gateway.yaml",
        "id: Qwen/Qwen3-8B",
        "id: contracts",
        "gateway.yaml:13 backends.local.models.qwen.adapters.contracts",
        "`contracts` is the name of something else in this backend already, on line 11",
    ),
    Case(
        "gateway.yaml",
        VLLM_MODEL,
        VLLM_MODEL + "        capabilities: {context: 8k}\n",
        "gateway.yaml:12 backends.local.models.qwen.capabilities.context",
        "`8k` could mean two numbers",
        "write the whole number, such as `8192`",
    ),
    Case(
        "gateway.yaml",
        VLLM_MODEL,
        VLLM_MODEL + "        capabilities: {endpoints: [chat, embedings]}\n",
        "gateway.yaml:12 backends.local.models.qwen.capabilities.endpoints[1]",
        "`embedings` is not one of `chat`, `completions`, `embeddings`, `responses`",
        "did you mean `embeddings`?",
    ),
    Case(
        "gateway.yaml",
        VLLM_MODEL,
        VLLM_MODEL + "        capabilities: {tools: yes}\n",
        "gateway.yaml:12 backends.local.models.qwen.capabilities.tools",
        "`yes` is not a switch",
        "write `true` or `false`",
    ),
    Case(
        "gateway.yaml",
        "api_key: ${OPENAI_API_KEY}",
        "api_key: ${NOT_THERE}",
        "gateway.yaml:17 backends.openai.api_key",
        "the environment variable NOT_THERE is not set",
        "give a default: `${NOT_THERE:-text}`",
    ),
    Case(
        "gateway.yaml",
        "api_key: ${OPENAI_API_KEY}",
        'api_key: "secret\\n"',
        "gateway.yaml:17 backends.openai.api_key",
        "has a line break",
        "take it out",
    ),
    Case(
        "gateway.yaml",
        "api_key: ${OPENAI_API_KEY}",
        "api_key: 12345",
        "gateway.yaml:17 backends.openai.api_key",
        "must be text",
        "quote it",
    ),
    # the gateway's own side
    Case(
        "gateway.yaml",
        "default_route: general\n",
        "default_route: general\nserver: {listen: 8080}\n",
        "gateway.yaml:2 server.listen",
        "must be text",
        'quote it: "8080"',
    ),
    Case(
        "gateway.yaml",
        "default_route: general\n",
        "default_route: general\nserver: {listen: localhost}\n",
        "gateway.yaml:2 server.listen",
        "`localhost` is not HOST:PORT",
        "write `127.0.0.1:8080`",
    ),
    Case(
        "gateway.yaml",
        "default_route: general\n",
        "default_route: general\nstroe: sqlite:///x.db\n",
        "gateway.yaml:2 stroe",
        "unknown key `stroe`",
        "did you mean `store`?",
    ),
    Case(
        "gateway.yaml",
        "default_route: general\n",
        "default_route: general\nstore: mysql://x\n",
        "gateway.yaml:2 store",
        "is not a store's URL",
        "write `sqlite:///FILE`",
    ),
    Case(
        "gateway.yaml",
        "default_route: general\n",
        "default_route: general\ncoordinator: http://x:6379\n",
        "gateway.yaml:2 coordinator",
        "is not the URL of a Redis",
        "write `redis://host:6379`",
    ),
    Case(
        "gateway.yaml",
        "default_route: general\n",
        "default_route: general\ncoordinator: {url: redis://, name: a}\n",
        "gateway.yaml:2 coordinator.url",
        "is not the URL of a Redis",
    ),
    Case(
        "gateway.yaml",
        "default_route: general\n",
        "",
        "gateway.yaml:1 default_route",
        "is missing",
        "for example `default_route: general`",
    ),
    Case(
        "gateway.yaml",
        "default_route: general\n",
        "default_route: general\nclassifier: {kind: embedding}\n",
        "gateway.yaml:2 classifier",
        "needs an encoder: either `directory` or `target`",
    ),
    Case(
        "gateway.yaml",
        "default_route: general\n",
        "default_route: general\nclassifier: {kind: embedding, directory: nowhere}\n",
        "gateway.yaml:2 classifier.directory",
        "there is no directory nowhere",
    ),
    Case(
        "gateway.yaml",
        "default_route: general\n",
        "default_route: general\nclassifier: {kind: embedding, target: openai/mni}\n",
        "gateway.yaml:2 classifier.target",
        "unknown target `openai/mni`",
        "did you mean `openai/mini`?",
    ),
    Case(
        "gateway.yaml",
        "default_route: general\n",
        "default_route: general\nclassifier: {kind: embedding, target: openai/mini}\n",
        "gateway.yaml:2 classifier.target",
        "`openai/mini` does not serve embeddings",
    ),
    Case(
        "gateway.yaml",
        "aliases: {gpt-4o: auto}\n",
        "aliases: {gpt-4o: auto}\naliases: {}\n",
        "gateway.yaml:3 aliases",
        "`aliases` is set twice, on line 2 and on line 3",
        "keep one of them",
    ),
    Case("gateway.yaml", "backends:", "backends: [", "gateway.yaml:5", "not YAML"),
    Case("policies/balanced.yaml", BALANCED, "", "policies/balanced.yaml:1", "the file is empty"),
    Case(
        "policies/balanced.yaml", BALANCED, "- a\n", "policies/balanced.yaml:1", "must be a mapping"
    ),
]


def place_of(problem: Problem) -> str:
    """`file:line key`, as the cases write it."""
    line = f":{problem.line}" if problem.line else ""
    key = f" {problem.key}" if problem.key else ""
    return f"{problem.file}{line}{key}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.place}-{case.message[:30]}")
def test_each_mistake_is_said_with_its_place_and_mend(case: Case, tmp_path: Path) -> None:
    assert FILES[case.file].count(case.old) == 1
    found = problems(tmp_path, {case.file: FILES[case.file].replace(case.old, case.new)})
    meant = [
        each for each in found if place_of(each) == case.place and case.message in each.message
    ]
    assert meant, [str(each) for each in found]
    assert case.mend in meant[0].mend
    assert meant[0].severity == "error"


def test_the_good_configuration_has_no_problem(tmp_path: Path) -> None:
    assert problems(tmp_path) == []


def test_every_problem_is_said_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        {
            "gateway.yaml": GATEWAY.replace("kind: openai", "kind: opnai").replace("auto}", "no}"),
            "routes/general.yaml": GENERAL.replace("0.01 usd", "0.01").replace("0.80", "80"),
            ROUTE: CONTRACTS.replace("policy: balanced", "policy: cheap").replace("legal", "[a]"),
            "policies/balanced.yaml": BALANCED.replace("5 %", "5 percent"),
        },
    )
    assert [place_of(each) for each in found] == [
        "gateway.yaml:2 aliases.gpt-4o",
        "gateway.yaml:14 backends.openai",
        "policies/balanced.yaml:5 switch_if_better_by",
        "routes/contract-summary.yaml:6 match.headers.x-workflow",
        "routes/contract-summary.yaml:12 policy",
        "routes/general.yaml:2 value",
        "routes/general.yaml:4 candidates[0].quality",
    ]


def test_one_mistake_in_the_gateway_makes_no_candidate_unknown(tmp_path: Path) -> None:
    broken = GATEWAY.replace("2 usd/Mtok", "2 usd")
    assert [each.key for each in problems(tmp_path, {"gateway.yaml": broken})] == [
        "backends.openai.models.mini.price.output"
    ]


def test_one_mistake_in_a_policy_does_not_make_it_unknown(tmp_path: Path) -> None:
    broken = BALANCED.replace("explore: 2 %", "explore: 200 %")
    found = problems(tmp_path, {"policies/balanced.yaml": broken})
    assert [each.key for each in found] == ["explore"]


def test_an_unset_variable_is_said_once(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, env={})
    assert found.message == "the environment variable OPENAI_API_KEY is not set"


def test_a_secret_is_never_said(tmp_path: Path) -> None:
    for secret in ("sk-very-secret\n", " sk-very-secret", "sk-very-\x00secret"):
        found = problems(tmp_path, env={"OPENAI_API_KEY": secret})
        assert [each.key for each in found] == ["backends.openai.api_key"]
        assert not any("very-secret" in str(each) for each in found)


def test_a_directory_without_a_gateway_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, {})
    assert "gateway.yaml: there is no such file; `switchboard init DIR`" in str(refused.value)


def test_a_file_of_another_name_is_not_passed_over_in_silence(tmp_path: Path) -> None:
    found = problems(
        tmp_path, {"routes/more.yml": GENERAL, "policies/.hidden": "", "routes/a.md": ""}
    )
    assert [str(each) for each in found] == [
        "routes/more.yml: is not read; name it more.yaml",
    ]


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "routes" / "folder.yaml").mkdir()
    (tmp_path / "routes" / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    (tmp_path / "prompts" / "contracts-base.md").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, ENV)
    said = [each.message for each in refused.value.problems]
    assert "cannot be read: Is a directory" in said
    assert "cannot be read: not UTF-8 (invalid continuation byte at byte 9)" in said or (
        "cannot be read: not UTF-8 (unexpected end of data at byte 9)" in said
    )
    assert any(
        "`prompts/contracts-base.md` cannot be read: not UTF-8" in message for message in said
    )


def test_a_prompt_cannot_be_linked_in_from_outside(tmp_path: Path) -> None:
    write(tmp_path / "config")
    (tmp_path / "outside.md").write_text("secret")
    prompt = tmp_path / "config" / "prompts" / "contracts-base.md"
    prompt.unlink()
    prompt.symlink_to(tmp_path / "outside.md")
    with pytest.raises(ConfigError, match="lies outside of the configuration"):
        load(tmp_path / "config", ENV)


@pytest.mark.parametrize(
    ("text", "message"),
    [(" \n", "is empty"), ("x" * (1024 * 1024 + 1), "is longer than 1,048,576 bytes")],
)
def test_a_prompt_has_something_to_say_and_not_too_much(
    text: str, message: str, tmp_path: Path
) -> None:
    (found,) = problems(tmp_path, {"prompts/contracts-base.md": text})
    assert message in found.message


# ---------------------------------------------------------------- what is only warned of


def test_a_hosted_model_without_a_price_is_warned_of(tmp_path: Path) -> None:
    changed = GATEWAY.replace("    peak_tokens_per_second: 2400\n", "")
    (found,) = problems(tmp_path, {"gateway.yaml": changed})
    assert found.severity == "warning"
    assert found.message == "has no price: it is decided on as free"
    assert found.mend == "add `peak_tokens_per_second` to the backend, or declare `price`"


def test_a_litellm_model_without_a_price_waits_for_litellms_map(tmp_path: Path) -> None:
    added = "  claude: {kind: litellm, provider: anthropic, models: {haiku: {id: haiku-4-5}}}\n"
    (found,) = problems(tmp_path, {"gateway.yaml": GATEWAY + added})
    assert found.severity == "warning"
    assert "it is taken from litellm's map" in found.message
    snapshot = load(tmp_path, ENV).snapshot
    target = snapshot.targets["claude/haiku"]
    assert (target.priced, target.served, target.replicas) == (False, "claude/haiku", ())
    assert snapshot.backends["claude"].models == {"haiku": "haiku-4-5"}
    assert snapshot.backends["claude"].provider == "anthropic"


def test_an_adapter_that_is_not_there_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "adapters" / "contracts-v2").mkdir(parents=True)
    changed = GATEWAY.replace(
        "    models:\n      qwen", "    adapter_store: adapters\n    models:\n      qwen"
    )
    (found,) = problems(tmp_path, {"gateway.yaml": changed})
    assert found.severity == "warning"
    assert found.message == "there is no `contracts-v3` in adapters"
    assert found.mend == "did you mean `contracts-v2`?"


def test_a_store_that_is_not_there_is_warned_of(tmp_path: Path) -> None:
    changed = GATEWAY.replace(
        "    models:\n      qwen", "    adapter_store: nowhere\n    models:\n      qwen"
    )
    (found,) = problems(tmp_path, {"gateway.yaml": changed})
    assert (found.severity, found.message) == ("warning", "there is no directory nowhere")


def test_one_message_is_an_example_of_one_route(tmp_path: Path) -> None:
    changed = GENERAL + "match: {examples: ['summarise  this clause in ONE sentence.']}\n"
    (found,) = problems(tmp_path, {"routes/general.yaml": changed})
    assert found.severity == "warning"
    assert "is an example of `contract-summary` (routes/contract-summary.yaml)" in found.message


# ---------------------------------------------------------------- what is no mistake


@pytest.mark.parametrize(
    "changes",
    [
        {ROUTE: CONTRACTS.replace("local/qwen+contracts", "local/qwen+{key.tenant}")},
        {ROUTE: CONTRACTS.replace("local/qwen+contracts", "local/qwen+legal-{key.tenant}")},
        {ROUTE: CONTRACTS.replace("quality: 0.97", "quality: 97 %")},
        {ROUTE: CONTRACTS.replace("local/qwen+contracts", "local/qwen")},
        {"gateway.yaml": GATEWAY.replace("http://127.0.0.1:8100", "unix:///run/vllm.sock")},
        {"gateway.yaml": GATEWAY.replace("gpt-4o: auto", "openai/gpt-4o: openai/mini")},
        {"routes/named.yaml": GENERAL.replace("general", "named") + "match: named\n"},
        {
            "routes/aliased.yaml": GENERAL.replace("general", "aliased"),
            "gateway.yaml": GATEWAY.replace("gpt-4o: auto", "gpt-4o: aliased"),
        },
    ],
)
def test_what_may_be_written(changes: dict[str, str], tmp_path: Path) -> None:
    assert problems(tmp_path, changes) == []


def test_variables_stand_for_numbers_and_switches_too(tmp_path: Path) -> None:
    changed = GATEWAY.replace(
        "default_route: general\n",
        "default_route: general\nserver: {max_open: ${OPEN}, listen: '${HOST:-0.0.0.0}:${PORT}'}\n",
    ).replace("    url: https", "    internal: ${OURS:-true}\n    url: https")
    write(tmp_path, {**FILES, "gateway.yaml": changed})
    snapshot = load(tmp_path, {**ENV, "OPEN": "12", "PORT": "0"}).snapshot
    assert (snapshot.server.max_open, snapshot.server.host, snapshot.server.port) == (
        12,
        "0.0.0.0",
        0,
    )
    assert snapshot.targets["openai/mini"].internal


# ---------------------------------------------------------------- what variables hold

SECRET = "Sk-Live_0042.Vault/x9"
"""Its parts too would be enough: a target's are its two sides, a quantity's its number and unit."""

MISPLACED = [
    ("gateway.yaml", "default_route: general", "default_route: ${S}", "unknown route `${S}`"),
    ("gateway.yaml", "kind: openai", "kind: ${S}", "`${S}` is not one of"),
    ("gateway.yaml", "0.25 usd/Mtok", "${S}", "`${S}` is not a price per token"),
    ("gateway.yaml", "0.25 usd/Mtok", "1 ${S}", "unknown unit `1 ${S}`"),
    ("gateway.yaml", "gpt-4o: auto", "gpt-4o: ${S}", "`${S}` is neither `auto` nor a route"),
    ("gateway.yaml", "https://api.openai.com/v1", "${S}", "`${S}` is not a URL"),
    ("gateway.yaml", "https://api", "https://[${S}", "`https://[${S}.openai.com/v1` is not a URL"),
    ("gateway.yaml", "rename: {max", "no${S}: {max", "unknown key `no${S}`"),
    ("gateway.yaml", "      mini:", "      ${S}:", "models.${S}"),
    ("gateway.yaml", "aliases:", "server: {listen: '${S}'}\naliases:", "`${S}` is not HOST:PORT"),
    (ROUTE, "data: internal", "data: ${S}", "`${S}` is not one of `any`, `internal`"),
    (ROUTE, "quality: 0.80", "quality: ${S}", "`${S}` is not"),
    (ROUTE, "target: local/qwen,", "target: '${S}',", "`${S}` is not a target"),
    (ROUTE, "target: local/qwen,", "target: 'a/${T}',", "unknown candidate `a/${T}`"),
    (ROUTE, "policy: balanced", "policy: ${T}", "unknown policy `${T}`"),
    (ROUTE, "prompts/contracts-base.md", "${S}", "there is no file `${S}`"),
    ("routes/general.yaml", "name: general", "name: ${S}", "`${S}` is not a name"),
]


@pytest.mark.parametrize(("file", "old", "new", "said"), MISPLACED)
def test_what_a_variable_holds_is_never_said(
    file: str, old: str, new: str, said: str, tmp_path: Path
) -> None:
    assert old in FILES[file]
    env = {**ENV, "S": SECRET, "T": "live-0042.vault"}
    found = problems(tmp_path, {file: FILES[file].replace(old, new)}, env)
    told = "\n".join(map(str, found))
    assert said in told
    for part in ("live", "0042", "vault", "x9"):
        assert part not in told.lower()


def test_what_a_variable_gave_another_file_is_not_said_either(tmp_path: Path) -> None:
    """A name that is likely meant, one of an overlay, and one that stands in two places by `*`."""
    models = GATEWAY.replace("      mini:", "      ${T}:").replace("auto}", "&a '${S}', b: *a}")
    write(tmp_path, {**FILES, "gateway.yaml": models, "gateway.prod.yaml": "store: ${S}\n"})
    mistaken = GENERAL.replace("openai/mini", "openai/live-0042.vaul")
    write(tmp_path, {"routes/general.yaml": mistaken})
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {**ENV, "S": SECRET, "T": "live-0042.vault"}, "prod")
    told = str(caught.value).replace("openai/live-0042.vaul`", "")
    assert "did you mean `openai/${T}`?" in told
    assert "aliases.b: `${S}` is neither" in told
    assert "vault" not in told.lower()


def test_a_short_value_is_hidden_where_it_stands_alone(tmp_path: Path) -> None:
    """`auto` is a word of ours."""
    changed = GATEWAY.replace("auto}", "aut, b: '${P}', c: '${P}-x'}")
    found = problems(tmp_path, {"gateway.yaml": changed}, {**ENV, "P": "auto"})
    assert [each.message.split(" nor ")[0] for each in found] == [
        "`${P}-x` is neither `${P}-x`",
        "`aut` is neither `auto`",
    ]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("kind: openai", "kind: opena", "did you mean `openai`?"),
        ("aliases:", "server: {listen: '${Q}'}\naliases:", "`${Q}` is not HOST:PORT"),
        ("aliases:", "server: {listen: '${R}'}\naliases:", "`${R}` is not HOST:PORT"),
        (
            "aliases:",
            "server: {listen: '${URL}:${P}@x'}\naliases:",
            "`${URL}:${P}@x` is not HOST:PORT",
        ),
    ],
)
def test_only_what_a_variable_gave_is_told_as_one(
    old: str, new: str, said: str, tmp_path: Path
) -> None:
    """Not a word of ours, or a place, that is also a part of what it holds elsewhere."""
    changed = GATEWAY.replace("https://api.openai.com/v1", "${URL}").replace(old, new)
    env = {**ENV, "URL": "https://api.openai.com/v1", "Q": "ab`secretpart"}
    env |= {"R": "${abc}secretpart", "P": "secr7"}
    told = "\n".join(map(str, problems(tmp_path, {"gateway.yaml": changed}, env)))
    assert said in told
    assert "secretpart" not in told
    assert "secr7" not in told
    assert "`${URL}`" not in told


def test_places_are_told_though_a_variable_holds_their_number(tmp_path: Path) -> None:
    changed = CONTRACTS.replace("target: local/qwen,", "target: local/qwe,")
    changed = changed.replace("quality: 0.97", "quality: '${N}'")
    found = problems(tmp_path, {ROUTE: changed}, {**ENV, "N": "1"})
    assert [each.key for each in found] == ["candidates[1].target"]


def test_what_an_overlay_puts_in_a_variables_place_is_told_as_it_is(tmp_path: Path) -> None:
    base = GATEWAY + "server: {listen: '${LISTEN}'}\n"
    write(tmp_path, {"gateway.yaml": base, "gateway.prod.yaml": "server: {listen: nowhere}\n"})
    with pytest.raises(ConfigError, match="`nowhere` is not HOST:PORT"):
        load(tmp_path, {**ENV, "LISTEN": "nowhere:8080"}, "prod")
