"""The configurations that are applied, as files: the same targets in other orders, at other prices.

Each has a number, by which its prices and the order of its candidates are told from all others'.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from demo import vllm_server
from gateway.config.load import load_texts
from gateway.types.snapshot import Snapshot
from tests.chaos.servers import BUSY, CUTTING, WORDS, Provider, Replica
from tests.vllm.support import ROOM

Texts = Mapping[str, str]
"""The files of a configuration by their path from its directory."""

ADAPTERS = "adapters"
"""Where the adapters' files lie, from the configuration's directory."""

VERSIONS = {"v1": "support", "v2": "brand"}
"""Of the adapter `desk`, which is promoted to and fro."""

DESK, TINY = "local/tiny+desk", "local/tiny"

PROVIDERS = {"connect": "4 s", "first_token": "4 s", "between_tokens": "4 s", "total": "2 m"}
"""Shorter than the longest time that a provider is held for, and no shorter than a busy machine
may make a healthy one wait."""

OURS = {"connect": "10 s", "first_token": "40 s", "between_tokens": "40 s", "total": "2 m"}

PLACES = 64
"""More than there are clients: the model that is always busy would else make the others wait."""

CANDIDATES: Mapping[str, tuple[str, ...]] = {
    "general": (f"p0/{WORDS}", f"p1/{WORDS}", f"p2/{WORDS}"),
    "second": (f"p1/{WORDS}", f"p2/{WORDS}", f"p0/{WORDS}"),
    "rough": (f"p2/{CUTTING}", f"p0/{WORDS}", f"p1/{WORDS}"),
    "carried": (f"p0/{CUTTING}", f"p1/{WORDS}", f"p2/{WORDS}"),
    "crowded": (f"p1/{BUSY}", f"p2/{WORDS}", f"p0/{WORDS}"),
    "picked": ("composed/picked", f"p0/{WORDS}"),
    "voted": ("composed/voted", f"p1/{WORDS}"),
    "polished": ("composed/polished", f"p2/{WORDS}"),
}
COMPOSITIONS: Mapping[str, Mapping[str, Any]] = {
    "picked": {
        "kind": "cascade",
        "steps": [f"p0/{CUTTING}", f"p1/{WORDS}", f"p2/{WORDS}"],
        "checks": [{"kind": "contains", "text": "w40"}],
    },
    "voted": {
        "kind": "best_of",
        "steps": [f"p0/{WORDS}", f"p1/{WORDS}", f"p2/{WORDS}"],
        "choose": {"by": "vote"},
    },
    "polished": {
        "kind": "chain",
        "steps": [
            {"name": "draft", "target": f"p0/{WORDS}"},
            {"name": "rewrite", "target": f"p1/{WORDS}", "prompt": "{draft}"},
        ],
    },
}
"""Whatever becomes of their steps, what they say is what any of them would: all echo."""

COMPOSED = {
    "composed/picked": (f"p1/{WORDS}", f"p2/{WORDS}"),
    "composed/voted": (f"p0/{WORDS}", f"p1/{WORDS}", f"p2/{WORDS}"),
    "composed/polished": (f"p0/{WORDS}", f"p1/{WORDS}"),
}
"""The steps that, while they are well, have a composition answer."""

HOUSE: Mapping[str, tuple[str, ...]] = {
    "house": (DESK, TINY, f"p0/{WORDS}", f"p1/{WORDS}"),
    "private": (DESK, TINY),
}
"""Routes whose best candidates are our own servers; of the second the only ones."""

CARRIED = "carried"
"""The route whose streams another candidate goes on with when they break off."""

ENVIRONMENT = "chaos"
"""What `gateway.yaml` is laid under: an overlay with a price of its own."""

OVERLAY = f"gateway.{ENVIRONMENT}.yaml"

HASTY = "second"
"""The route whose waiting is so dear that whatever is late is asked of a second one too."""

POLICIES: Mapping[str, Mapping[str, Any]] = {
    "quality": {"on_failure": {"tries": 6}},
    "hasty": {
        "waiting": {"first_token": "100 usd/s", "whole": "100 usd/s"},
        "on_failure": {"tries": 6, "hedge": "100 %"},
    },
    "carrying": {"on_failure": {"tries": 6, "continue": True}},
}
"""Every candidate may be asked."""

POLICY_OF = {HASTY: "hasty", CARRIED: "carrying"}
"""Of the routes whose policy is not `quality`."""


class World:
    """Makes configurations of these servers, in files below a directory."""

    def __init__(
        self, directory: Path, providers: Sequence[Provider], replicas: Sequence[Replica]
    ) -> None:
        self.directory = directory
        self._providers = providers
        self._replicas = replicas
        if replicas:
            shutil.copytree(vllm_server.ADAPTERS, directory / ADAPTERS)

    def texts(self, number: int) -> dict[str, str]:
        """All files of a configuration."""
        routes = [route(name, number) for name in CANDIDATES]
        if self._replicas:
            routes += [_route(name, HOUSE[name]) for name in HOUSE]
        documents: dict[str, Any] = {
            "gateway.yaml": self._gateway(number),
            OVERLAY: _overlay(number),
        }
        documents |= {f"routes/{each['name']}.yaml": each for each in routes}
        documents |= {
            f"policies/{name}.yaml": {"name": name, **terms} for name, terms in POLICIES.items()
        }
        return {path: written(each) for path, each in documents.items()}

    def compiled(self, texts: Texts, environment: str | None = ENVIRONMENT) -> Snapshot:
        """What a gateway makes of it in an environment. Raises ConfigError."""
        return load_texts(texts, self.directory, {}, environment).snapshot

    def write(self, texts: Texts) -> None:
        """Files of these texts, each there as a whole or as it was before."""
        for path, text in texts.items():
            file = self.directory / path
            file.parent.mkdir(parents=True, exist_ok=True)
            beside = file.with_suffix(".new")  # which nobody reads
            beside.write_text(text)
            os.replace(beside, file)

    def _gateway(self, number: int) -> dict[str, Any]:
        price = _price(1 + number / 1000)
        backends: dict[str, Any] = {
            provider.name: {
                "kind": "openai",
                "url": provider.url,
                "timeouts": PROVIDERS,
                "admission": {"concurrent": PLACES},
                "models": {
                    model: {"id": model, "price": price} for model in (WORDS, CUTTING, BUSY)
                },
            }
            for provider in self._providers
        }
        if self._replicas:
            backends["local"] = self._local()
        return {
            "default_route": "general",
            "backends": backends,
            "compositions": COMPOSITIONS,
        }

    def _local(self) -> dict[str, Any]:
        return {
            "kind": "vllm",
            "replicas": [replica.url for replica in self._replicas],
            "timeouts": OURS,
            "adapter_store": ADAPTERS,
            "lora": {
                "slots": ROOM.loras, "cpu_slots": ROOM.cpu_loras, "max_rank": ROOM.lora_rank
            },
            "models": {
                "tiny": {
                    "id": "base",
                    "config": str(vllm_server.BASE / "config.json"),
                    "price": _price(1),
                    "adapters": {"desk": {"versions": VERSIONS}},
                }
            },
        }  # fmt: skip


def written(document: Mapping[str, Any]) -> str:
    """A document as YAML."""
    return msgspec.yaml.encode(document).decode()


def route(name: str, number: int) -> dict[str, Any]:
    """The faulty candidate stays the first, where it matters; the rest take turns."""
    candidates = CANDIDATES[name]
    head = 0 if WORDS in candidates[0] else 1
    rest = candidates[head:]
    turn = number % len(rest)
    return _route(name, (*candidates[:head], *rest[turn:], *rest[:turn]))


def _route(name: str, candidates: Sequence[str]) -> dict[str, Any]:
    """Candidates are better the earlier they stand. The text is kept: it holds the word by which a
    row is known again."""
    return {
        "name": name,
        "value": "0.1 usd",
        "match": "named",
        "keep": "text",
        "data": "internal" if name == "private" else "any",
        "candidates": [
            {"target": target, "quality": round(0.99 - 0.1 * n, 2)}
            for n, target in enumerate(candidates)
        ],
        "policy": POLICY_OF.get(name, "quality"),
    }


def _overlay(number: int) -> dict[str, Any]:
    """Another price for one model, and nothing else."""
    return {"backends": {"p0": {"models": {WORDS: {"price": _price(3 + number / 1000)}}}}}


def _price(dollars: float) -> dict[str, str]:
    """Of a million tokens of input; a token of output is four times as much."""
    return {"input": f"{dollars:.6f} usd/Mtok", "output": f"{4 * dollars:.6f} usd/Mtok"}
