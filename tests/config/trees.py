"""Small configurations on disk for the tests."""

from collections.abc import Mapping
from pathlib import Path

from gateway.config.load import Loaded, load
from gateway.errors import ConfigError, Problem

GATEWAY = """\
default_route: general
aliases: {gpt-4o: auto}
backends:
  local:
    kind: vllm
    replicas: [http://127.0.0.1:8100]
    replica_hour: 2.20 usd
    peak_tokens_per_second: 2400
    models:
      qwen:
        id: Qwen/Qwen3-8B
        adapters:
          contracts: {source: contracts-v3}
  openai:
    kind: openai
    url: https://api.openai.com/v1
    api_key: ${OPENAI_API_KEY}
    models:
      mini:
        id: gpt-5-mini
        price: {input: 0.25 usd/Mtok, cached_input: 0.025 usd/Mtok, output: 2 usd/Mtok}
        request: {rename: {max_tokens: max_completion_tokens}, drop: [temperature]}
"""
GENERAL = """\
name: general
value: 0.01 usd
candidates:
  - {target: local/qwen, quality: 0.80}
  - {target: openai/mini, quality: 0.90}
policy: balanced
"""
CONTRACTS = """\
name: contract-summary
description: Summarise a contract clause in plain words.
value: 0.02 usd
data: internal
match:
  headers: {x-workflow: legal}
  keywords: [clause, lessee]
  examples: [Summarise this clause in one sentence.]
candidates:
  - {target: local/qwen+contracts, quality: 0.97}
  - {target: local/qwen, quality: 0.80, system: prompts/contracts-base.md}
policy: balanced
"""
BALANCED = """\
name: balanced
waiting: {first_token: 0.002 usd/s, whole: 0.0005 usd/s}
limits: {cost: 0.01 usd, first_token_p95: 1.5 s, quality: 0.80}
if_none_fits: best
switch_if_better_by: 5 %
explore: 2 %
"""
FILES = {
    "gateway.yaml": GATEWAY,
    "routes/contract-summary.yaml": CONTRACTS,
    "routes/general.yaml": GENERAL,
    "policies/balanced.yaml": BALANCED,
    "prompts/contracts-base.md": "You summarise clauses.\n",
}
ENV = {"OPENAI_API_KEY": "sk-test"}


def write(directory: Path, files: Mapping[str, str] = FILES) -> Path:
    """The files under `directory`."""
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return directory


def loaded(
    directory: Path, changes: Mapping[str, str] | None = None, env: Mapping[str, str] = ENV
) -> Loaded:
    """The good configuration with some files replaced or added."""
    return load(write(directory, {**FILES, **(changes or {})}), env)


def problems(
    directory: Path, changes: Mapping[str, str] | None = None, env: Mapping[str, str] = ENV
) -> list[Problem]:
    """Everything wrong with the good configuration after some changes; files without directory."""
    try:
        found = loaded(directory, changes, env).warnings
    except ConfigError as error:
        found = error.problems
    return [
        Problem(
            each.file.removeprefix(f"{directory}/"),
            each.line,
            each.key,
            each.message.replace(f"{directory}/", ""),
            each.mend,
            each.severity,
        )
        for each in found
    ]
