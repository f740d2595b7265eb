"""Which version of an adapter is live, which one was, and a canary's share: state, and its changes.

Pure. Every change makes a new state; the store keeps each as a revision, so that what ran when can
be told, and gone back to.
"""

from collections.abc import Mapping, Sequence

import msgspec

from gateway.types.backends import Adapter

STEPS = (0.05, 0.25, 1.0)
"""The shares that a canary goes through by itself; at the last one it is promoted."""


class StateError(ValueError):
    """A change that makes no sense in this state; the message names the mend."""


class CanaryState(msgspec.Struct, frozen=True):
    """A version on trial with a share of the requests since an instant (Unix seconds)."""

    version: str
    share: float
    since: float
    steps: tuple[float, ...] = STEPS


class AdapterState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What commands have made of an adapter. `live` None is the first version written.

    `previous` was live before, and stays loaded so that going back takes no time. `ended` says how
    the last canary ended.
    """

    live: str | None = None
    previous: str | None = None
    canary: CanaryState | None = None
    pinned: bool = False
    ended: str = ""


NEW = AdapterState()


def live_version(adapter: Adapter, state: AdapterState) -> str:
    """The version that the adapter's name means. One that is no longer written is live no more."""
    names = [version.name for version in adapter.versions]
    return state.live if state.live in names else names[0]


def previous_version(adapter: Adapter, state: AdapterState) -> str | None:
    """The version to go back to, if there is one that is still written."""
    names = [version.name for version in adapter.versions]
    live = live_version(adapter, state)
    return state.previous if state.previous in names and state.previous != live else None


def canary_version(adapter: Adapter, state: AdapterState) -> CanaryState | None:
    """The canary, if its version is still written and not live."""
    canary = state.canary
    names = [version.name for version in adapter.versions]
    if canary is None or canary.version not in names:
        return None
    return canary if canary.version != live_version(adapter, state) else None


def promoted(adapter: Adapter, state: AdapterState, version: str) -> AdapterState:
    """`version` is live from now on. Raises StateError for one that is not written, or is live."""
    _known(adapter, version)
    live = live_version(adapter, state)
    if version == live:
        raise StateError(f"{adapter.target}@{version} is live already")
    return msgspec.structs.replace(state, live=version, previous=live, canary=None, ended="")


def rolled_back(adapter: Adapter, state: AdapterState) -> AdapterState:
    """A canary ends, or else the version before is live again. Raises StateError without either."""
    if canary_version(adapter, state) is not None:
        return msgspec.structs.replace(state, canary=None, ended="rolled back by command")
    previous = previous_version(adapter, state)
    if previous is None:
        raise StateError(
            f"{adapter.target} has nothing to go back to: no version was promoted before"
        )
    return msgspec.structs.replace(state, live=previous, previous=live_version(adapter, state))


def tried(
    adapter: Adapter,
    state: AdapterState,
    version: str,
    share: float,
    now: float,
    steps: Sequence[float] = STEPS,
) -> AdapterState:
    """`version` gets `share` of the requests, and steps up from there.

    Raises StateError for a version that is not written or is live, or a share out of 0..1.
    """
    _known(adapter, version)
    if version == live_version(adapter, state):
        raise StateError(f"{adapter.target}@{version} is live already; try another version")
    if not 0.0 < share <= 1.0:
        raise StateError(f"a canary's share is above 0 % and at most 100 %, not {share:.4g}")
    later = tuple(sorted(step for step in steps if share < step <= 1.0))
    canary = CanaryState(version, share, now, later)
    return msgspec.structs.replace(state, canary=canary, ended="")


def stepped(adapter: Adapter, state: AdapterState, now: float) -> AdapterState:
    """The canary's next share; past the last one it is promoted."""
    canary = state.canary
    assert canary is not None
    if not canary.steps or canary.steps[0] >= 1.0:
        return promoted(adapter, state, canary.version)
    following = CanaryState(canary.version, canary.steps[0], now, canary.steps[1:])
    return msgspec.structs.replace(state, canary=following)


def given_up(state: AdapterState, why: str) -> AdapterState:
    """The canary ends, and the state says why."""
    return msgspec.structs.replace(state, canary=None, ended=why)


def pinned(state: AdapterState, pin: bool) -> AdapterState:
    """Placement keeps a pinned adapter in use."""
    return msgspec.structs.replace(state, pinned=pin)


def _known(adapter: Adapter, version: str) -> None:
    names = [each.name for each in adapter.versions]
    if version in names:
        return
    if names == [""]:
        raise StateError(
            f"{adapter.target} has no versions; write them as `versions: {{v1: …, v2: …}}`"
        )
    raise StateError(
        f"{adapter.target} has no version '{version}'; there are {', '.join(sorted(names))}"
    )


States = Mapping[str, AdapterState]
"""By the adapter's target; what is not in it is NEW."""
