"""One request: who asks, for what, and which kind of work it is."""

from collections.abc import Mapping
from enum import Enum
from typing import Literal

import msgspec

from gateway.types.limits import Quota


class Endpoint(Enum):
    """The inference calls of OpenAI's API; the value is the path below `/v1/`."""

    CHAT = "chat/completions"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RESPONSES = "responses"


Role = Literal["read", "operate", "apply", "admin"]
"""What a key may do besides asking models: see what runs and what was done; change what gets
requests (drain, weight, promote, canary, roll back); change the configuration; make keys."""

ROLES: tuple[Role, ...] = ("read", "operate", "apply", "admin")
"""In order: each may do what those before it may."""


class Caller(msgspec.Struct, frozen=True, gc=False):
    """Who asks. `routes` None is every route; `direct` allows targets and overrides by header.

    `role` says which commands are open to it; None none, as for applications. `quota` are limits of
    its own.
    """

    key: str | None = None
    name: str = "anonymous"
    tenant: str | None = None
    routes: frozenset[str] | None = None
    direct: bool = True
    role: Role | None = None
    quota: Quota | None = None

    def may(self, needed: Role) -> bool:
        """Whether its role is `needed`, or one above."""
        return self.role is not None and ROLES.index(self.role) >= ROLES.index(needed)

    def owns(self, key: str | None, tenant: str | None) -> bool:
        """Whether what a key of a tenant made is its own, or its tenant's. Without keys all is."""
        if self.key is None or self.key == key:
            return True
        return self.tenant is not None and self.tenant == tenant


class Needs(msgspec.Struct, frozen=True, gc=False):
    """What a request asks of a target; tokens are estimates made before any tokenizer.

    `media_hosts` are those that its pictures and the like are to be fetched from. Where `prompts`
    are several each is read by itself, within the target's context: `longest` are the tokens of the
    longest, 0 where there is only one.
    """

    endpoint: str = "chat/completions"
    input_tokens: int = 0
    max_output: int | None = None
    tools: bool = False
    vision: bool = False
    audio: bool = False
    json_schema: bool = False
    media_hosts: tuple[str, ...] = ()
    prompts: int = 1
    longest: int = 0


class Request(msgspec.Struct, frozen=True, gc=False):
    """A request as the edge parsed it, once. `fields` holds the body's top-level values verbatim.

    `turns` are the user's texts, the latest first; classifiers read them. `asks_usage` is true
    when the client itself asked for a stream's usage event. `route` and `policy` are what headers
    asked for. `previous` names the response that this one continues. `choices` are the answers that
    are given: OpenAI's `n` for each prompt; `written` those of which they are the best, by
    `best_of`. `within_s` are the seconds that the client gives the whole answer. `size` is the
    body's, in bytes. `ref` is the application's own name for what it is about, `episode` for the
    piece of work that it is part of.
    """

    id: str
    endpoint: Endpoint
    model: str
    stream: bool
    fields: Mapping[str, msgspec.Raw]
    headers: Mapping[str, str]
    caller: Caller
    needs: Needs
    turns: tuple[str, ...] = ()
    asks_usage: bool = False
    route: str | None = None
    policy: str | None = None
    previous: str | None = None
    choices: int = 1
    written: int = 1
    within_s: float | None = None
    size: int = 0
    ref: str | None = None
    episode: str | None = None


Source = Literal[
    "named", "alias", "header", "keyword", "pattern", "classifier", "conversation", "default"
]
"""How a route was known."""


class Recognition(msgspec.Struct, frozen=True, gc=False):
    """Which route, and how it was known. `confidence` is 1 for everything but the classifier."""

    route: str
    by: Source
    confidence: float = 1.0
    detail: str = ""

    @property
    def names_target(self) -> bool:
        """Whether the request named a target, and is of the route without asking for it."""
        return self.by == "named" and self.detail not in ("", self.route)
