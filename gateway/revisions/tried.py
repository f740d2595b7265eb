"""What replay tries in the place of what runs, and what was served when requests were logged."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.config.load import load_texts
from gateway.config.yaml import read
from gateway.errors import ConfigError
from gateway.store.revisions import Revisions
from gateway.types.snapshot import Snapshot


class Served:
    """The snapshots that decisions name, compiled again from the store's revisions."""

    def __init__(
        self,
        revisions: Revisions,
        directory: Path,
        env: Mapping[str, str],
        known: Mapping[str, Snapshot],
    ) -> None:
        """`known` are those that need no compiling, by hash."""
        self._revisions, self._directory, self._env = revisions, directory, env
        self._known: dict[str, Snapshot | None] = dict(known)

    def under(self, hash: str) -> Snapshot | None:
        """The snapshot of that hash; None where there is no such revision, or it cannot be compiled
        here."""
        if hash not in self._known:
            self._known[hash] = self._compiled(hash)
        return self._known[hash]

    def _compiled(self, hash: str) -> Snapshot | None:
        found = self._revisions.find(hash)
        if found is None:
            return None
        try:
            return load_texts(found.files, self._directory, self._env, found.environment).snapshot
        except ConfigError:
            return None


def with_policy(
    running: Snapshot,
    files: Mapping[str, str],
    policy: tuple[str, str],
    directory: Path,
    env: Mapping[str, str],
    environment: str | None,
    route: str | None,
) -> tuple[Snapshot, str, tuple[str, ...]]:
    """The running configuration with another policy: of a name that there is, it takes its place;
    of a new one, it is tried on `route`, or on every route.

    `policy` is its file's name and text. Answers the snapshot, the policy's name and the routes
    that it is tried on. Raises ConfigError for a text that is no policy.
    """
    file, text = policy
    name = _name_in(text)
    others = {
        each: content
        for each, content in files.items()
        if not (each.startswith("policies/") and _name_in(content) == name)
    }
    loaded = load_texts({**others, f"policies/{file}": text}, directory, env, environment)
    new = loaded.snapshot
    tried = tuple(
        each.name
        for each in new.routes.values()
        if (each.name == route)
        or (route is None and (each.policy == name or name not in running.policies))
    )
    routes = {
        each.name: msgspec.structs.replace(each, policy=name) if each.name in tried else each
        for each in new.routes.values()
    }
    return msgspec.structs.replace(new, routes=routes), name, tried


def reachable(snapshot: Snapshot) -> Snapshot:
    """litellm's process is the replica of its backends: there is none where nothing runs."""
    targets = {
        name: target
        if target.replicas or snapshot.backends[target.backend].kind != "litellm"
        else msgspec.structs.replace(target, replicas=("litellm",))
        for name, target in snapshot.targets.items()
    }
    return msgspec.structs.replace(snapshot, targets=targets)


def _name_in(text: str) -> str:
    """What a policy's file calls it; empty where it does not, which loading tells."""
    document, _ = read(text, "", None)
    data = document.data if document is not None else None
    found = data.get("name") if isinstance(data, dict) else None
    return found if isinstance(found, str) else ""
