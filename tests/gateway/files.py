"""A small configuration as files, and the command that serves it."""

import sys
from pathlib import Path

GATEWAY = """
default_route: general
backends:
  openai:
    kind: openai
    url: {url}
    api_key: sk-provider
    models:
      mini: {{id: mini, price: {{input: 1 usd/Mtok, output: 4 usd/Mtok}}}}
"""
ROUTE = """
name: {name}
description: A kind of work.
value: 0.01 usd
match: {{examples: [hello there, how are you]}}
candidates: [{{target: openai/mini, quality: 0.9}}]
policy: balanced
"""
SWITCHBOARD = str(Path(sys.executable).with_name("switchboard"))


def write(home: Path, url: str, more: str = "") -> None:
    """One provider at `url`, one route; `more` stands at the end of gateway.yaml."""
    for folder in ("routes", "policies"):
        (home / folder).mkdir()
    (home / "gateway.yaml").write_text(GATEWAY.format(url=url) + more)
    (home / "routes/general.yaml").write_text(ROUTE.format(name="general"))
    (home / "policies/balanced.yaml").write_text("name: balanced\n")
