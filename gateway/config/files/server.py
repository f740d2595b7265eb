"""`gateway.yaml`: the gateway's own side: its server, coordinator and classifier."""

from typing import Literal

from pydantic import Field

from gateway.config.fields import (
    CoordinatorUrl,
    Listen,
    Name,
    RequestAge,
    Seconds,
    Size,
    Switch,
    TargetName,
    Text,
    TextAge,
    Whole,
)
from gateway.config.files.part import Part
from gateway.types.snapshot import Server

_SERVER = Server()


class ServerPart(Part):
    """The gateway's own side."""

    listen: Listen = Field(
        default=(_SERVER.host, _SERVER.port),
        description="Where to listen. Without any key in the store only loopback is bound.",
        examples=["127.0.0.1:8080"],
    )
    max_head: Size = Field(
        default=_SERVER.max_head, description="Largest request head.", examples=["64 KiB"]
    )
    max_body: Size = Field(
        default=_SERVER.max_body, description="Largest request body.", examples=["32 MiB"]
    )
    max_bodies: Size = Field(
        default=_SERVER.max_bodies,
        description="Most that the bodies of all open requests may take together; "
        "those of up to 64 KiB do not count.",
        examples=["512 MiB"],
    )
    max_open: Whole = Field(
        default=_SERVER.max_open, description="Most requests open at once.", examples=[4096]
    )
    max_connections: Whole = Field(
        default=_SERVER.max_connections,
        description="Most connections open at once, those that are idle among them.",
        examples=[8192],
    )
    head_timeout: Seconds = Field(
        default=_SERVER.head_timeout,
        description="Time for a client to send a head.",
        examples=["10 s"],
    )
    body_timeout: Seconds = Field(
        default=_SERVER.body_timeout,
        description="Time for a client to send a body, and to catch up with an answer; "
        "after it, one that still comes, or is taken, at 32 KiB/s or more is waited for.",
        examples=["30 s"],
    )
    open_metrics: Switch = Field(
        default=_SERVER.open_metrics,
        description="True if whoever reaches `/metrics` may read it; else a key of the role `read`"
        " is needed, as soon as there is any key.",
        examples=[True],
    )
    workers: Whole = Field(
        default=_SERVER.workers,
        description="Processes that serve on one port; more than one need a `coordinator`, and"
        " PostgreSQL as the `store`. Read at the start.",
        examples=[4],
    )
    spool: Size = Field(
        default=_SERVER.spool,
        description="How much of the log may wait on disk, in `.switchboard/spool`, while the store"
        " is away or slow; 0 keeps it in memory only.",
        examples=["1 GiB"],
    )


class RetentionPart(Part):
    """How long the store keeps what was asked and answered."""

    text: TextAge | None = Field(
        default=None,
        description="Prompts, answers, comments and corrections, where a route keeps text; for ever"
        " if left out.",
        examples=["30 d"],
    )
    requests: RequestAge | None = Field(
        default=None,
        description="Requests with their attempts and what was said of them, and eval runs; for"
        " ever if left out. At least `32 d`: a month's budgets are known by them.",
        examples=["400 d"],
    )


class CoordinatorPart(Part):
    """A Redis that others use too."""

    url: CoordinatorUrl = Field(
        description="Where it is; `rediss://` by TLS.", examples=["redis://host:6379/0"]
    )
    name: Name = Field(
        default=_SERVER.coordinator_name,
        description="Begins the name of every key and channel. Workers and hosts that share their"
        " limits have the same; another gateway at the same Redis has another.",
        examples=["switchboard"],
    )


class ClassifierPart(Part):
    """How a text's route is learned from the routes' examples."""

    kind: Literal["lexical", "embedding"] = Field(
        default="lexical",
        description="`lexical` needs nothing; `embedding` needs an encoder.",
        examples=["lexical"],
    )
    directory: Text | None = Field(
        default=None,
        description="Encoder: a sentence-transformer's directory, from the configuration's own.",
        examples=["encoders/all-minilm-l6-v2"],
    )
    target: TargetName | None = Field(
        default=None,
        description="Encoder: a declared model that serves `embeddings`, instead of a directory.",
        examples=["local/embedder"],
    )
