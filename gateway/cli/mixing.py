"""Weights of a mix, tried on suites: each mixture is made, loaded at a replica, and asked."""

import asyncio
import itertools
import posixpath
from collections.abc import Mapping, Sequence
from pathlib import Path

import httpx
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gateway.adapters import mix
from gateway.adapters.manifest import directory_name
from gateway.adapters.shelf import Shelf
from gateway.errors import SwitchboardError
from gateway.evals.asking import share_right
from gateway.evals.suites import Suite
from gateway.types.backends import Backend

USUAL = (0.5, 0.75, 1.0, 1.25)
"""Weights that are tried where none are given."""
MOST = 64
"""Mixtures that one run tries at most."""


class TryFailed(SwitchboardError):
    """Something that cannot be tried; the text says why."""


class Tried(msgspec.Struct, frozen=True):
    """One mixture: its weights by adapter, the share of each suite that is right, and whether no
    other is at least as good at every suite and better at one."""

    weights: Mapping[str, float]
    right: Mapping[str, float]
    on_front: bool = False


def grid(
    declared: Mapping[str, float], given: Mapping[str, Sequence[float]]
) -> list[dict[str, float]]:
    """Every combination of the weights of each part. Raises TryFailed for too many."""
    choices = [given.get(part, USUAL) for part in declared]
    found = [dict(zip(declared, weights, strict=True)) for weights in itertools.product(*choices)]
    if len(found) > MOST:
        raise TryFailed(
            f"that makes {len(found)} mixtures, and {MOST} are the most: fix some part's weight, "
            f"such as --weights {next(iter(declared))}=1"
        )
    return found


def with_front(tried: Sequence[Tried]) -> list[Tried]:
    """The best first, those on the Pareto front of the suites' shares marked."""
    found = [
        msgspec.structs.replace(
            each, on_front=not any(_beats(other.right, each.right) for other in tried)
        )
        for each in tried
    ]
    return sorted(found, key=lambda each: (-sum(each.right.values()), *each.weights.values()))


def _beats(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return all(one[name] >= other[name] for name in other) and any(
        one[name] > other[name] for name in other
    )


async def try_out(
    weights: Sequence[Mapping[str, float]],
    parts: Mapping[str, str],
    suites: Sequence[Suite],
    backend: Backend,
    replica: str,
    *,
    rank: int | None,
    base_matches: bool,
    out: Console,
) -> list[Tried]:
    """Every mixture on every suite, at one replica. `parts` are digests on the shelf, by name.

    Raises TryFailed, MixError, AskFailed. What was loaded is unloaded again in any case.
    """
    place = Shelf(Path(backend.shelf_here))
    headers = {"authorization": f"Bearer {backend.api_key}"} if backend.api_key else {}
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=out,
        disable=not out.is_terminal,
    )
    cases = sum(len(suite.cases) for suite in suites)
    tried = []
    async with httpx.AsyncClient(trust_env=False) as client:
        with bars:
            bar = bars.add_task("cases", total=len(weights) * cases)
            for each in weights:
                bars.update(bar, description=_said(each))
                digest = await asyncio.to_thread(
                    _mixed, place, each, parts, backend, rank, base_matches
                )
                name = f"try-{digest[:12]}"
                path = posixpath.join(backend.shelf_on_replicas, directory_name(digest))
                await _told(client, replica, "load", headers, lora_name=name, lora_path=path)
                try:
                    right = {
                        suite.name: await share_right(
                            client,
                            backend.api_url(replica),
                            name,
                            suite,
                            headers=headers,
                            done=lambda: bars.advance(bar),
                        )
                        for suite in suites
                    }
                finally:
                    await _told(client, replica, "unload", headers, lora_name=name)
                tried.append(Tried(dict(each), right))
    return with_front(tried)


def _said(weights: Mapping[str, float]) -> str:
    return " + ".join(f"{weight:g} {name}" for name, weight in weights.items())


def _mixed(
    place: Shelf,
    weights: Mapping[str, float],
    parts: Mapping[str, str],
    backend: Backend,
    rank: int | None,
    base_matches: bool,
) -> str:
    """In a thread: the mixture's digest, with its files on the shelf."""
    with place.staging() as folder:
        mix.mix(
            [mix.Part(place.path(parts[name]), weight, name) for name, weight in weights.items()],
            folder / "mix",
            rank=rank,
            max_rank=backend.max_rank,
            base_matches=base_matches,
        )
        return place.put(folder / "mix", move=True).digest


async def _told(
    client: httpx.AsyncClient, replica: str, what: str, headers: Mapping[str, str], **body: str
) -> None:
    """Loads or unloads. Raises TryFailed."""
    url = f"{replica}/v1/{what}_lora_adapter"
    try:
        answer = await client.post(url, json=body, headers=dict(headers), timeout=120)
    except httpx.HTTPError as error:
        raise TryFailed(f"{url}: {type(error).__name__}: {error}") from error
    if not answer.is_success and "already been loaded" not in answer.text:
        raise TryFailed(f"{url}: {answer.status_code} {answer.text[:300]}")
