"""The tables of the store, in SQLAlchemy Core.

`requests` has one row for each request, `attempts` one for every upstream call. Columns that hold
JSON are text, so that SQLite and PostgreSQL share one schema.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
)

VERSION = "0010"
"""The newest migration: what a store must be at for this code."""

metadata = MetaData()

_SERIAL = BigInteger().with_variant(Integer(), "sqlite")
"""SQLite numbers rows by itself only where the type is INTEGER."""

requests = Table(
    "requests",
    metadata,
    Column("seq", _SERIAL, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("decision_id", Text, nullable=False),
    Column("completion_id", Text),
    Column("started", Double, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("stream", Boolean, nullable=False),
    Column("key", Text),
    Column("key_name", Text, nullable=False),
    Column("tenant", Text),
    Column("route", Text),
    Column("recognised_by", Text),
    Column("confidence", Double),
    Column("recognised_detail", Text),
    Column("policy", Text),
    Column("snapshot", Text),
    Column("target", Text),
    Column("replica", Text),
    Column("decision", Text),
    Column("needs", Text, nullable=False),
    Column("status", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cost_usd", Double, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("first_token_s", Double),
    Column("total_s", Double, nullable=False),
    Column("overhead_s", Double, nullable=False),
    Column("text", Text),
    Column("answer", Text),
    Column("ref", Text),
    Column("episode", Text),
    Column("messages", Text),
    Column("features", LargeBinary),
    Column("experiment", Text),
    Column("arm", Text),
    Column("shadow_of", Text),
    Column("unit", Text),
    Column("arm_share", Double),
    Index("requests_completion_id", "completion_id"),
    Index("requests_started", "started"),
    Index("requests_ref", "ref"),
    Index("requests_episode", "episode"),
    Index("requests_experiment", "experiment"),
    Index("requests_shadow_of", "shadow_of"),
)
"""`target` and `replica` are those of the last attempt, and of a composition the target is its own;
`decision` is as `gateway.store.decisions`
writes it. A decision is found through its request, whose id differs from it in the prefix only.
`shadow_of` is the request that this one is a copy of: no client saw its answer. `unit` is a hash of
what the arm of an experiment sticks to, and `arm_share` the chance that it had."""

attempts = Table(
    "attempts",
    metadata,
    Column("request_id", Text, primary_key=True),
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("reason", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("replica", Text, nullable=False),
    Column("started", Double, nullable=False),
    Column("status", Integer, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("error", Text, nullable=False),
    Column("input_tokens", Integer, nullable=False),
    Column("cached_tokens", Integer, nullable=False),
    Column("output_tokens", Integer, nullable=False),
    Column("cost_usd", Double, nullable=False),
    Column("estimated", Boolean, nullable=False),
    Column("first_token_s", Double),
    Column("total_s", Double, nullable=False),
    Column("changed", Text, nullable=False),
    sqlite_with_rowid=False,
)
"""`n` counts from 0 within the request; `changed` is a JSON array of texts."""

keys = Table(
    "keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("digest", Text, nullable=False, unique=True),
    Column("prefix", Text, nullable=False),
    Column("routes", Text),
    Column("tenant", Text),
    Column("direct", Boolean, nullable=False),
    Column("created", Double, nullable=False),
    Column("expires", Double),
    Column("revoked", Double),
    Column("role", Text),
    Column("quota", Text),
)
"""`digest` is the key's SHA-256 in hex, `prefix` its first characters, for people to tell keys
apart; `routes` a JSON array of texts, null for every route; `role` null where it may not command;
`quota` limits of its own, as JSON."""

revisions = Table(
    "revisions",
    metadata,
    Column("seq", _SERIAL, primary_key=True),
    Column("hash", Text, nullable=False),
    Column("content", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("saved", Double, nullable=False),
    Column("kind", Text, nullable=False, server_default="start"),
    Column("note", Text, nullable=False, server_default=""),
    Column("environment", Text),
    Column("restores", BigInteger),
    Column("rolled_back", Double),
    Column("guard", Text),
    Column("verdict", Text, nullable=False, server_default=""),
    Index("revisions_hash", "hash"),
)
"""What was set to run, in order: a hash stands here again each time that it is gone back to.
`restores` is the `seq` of the one that a rollback went back to, `rolled_back` when one was left by
a rollback; `guard` is JSON, and `verdict` how the guard ended."""

adapter_states = Table(
    "adapter_states",
    metadata,
    Column("seq", _SERIAL, primary_key=True),
    Column("target", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("change", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("saved", Double, nullable=False),
    Index("adapter_states_target", "target"),
)
"""Revisions of what commands made of adapters; the last of each is the truth. `state` is JSON."""

replica_hours = Table(
    "replica_hours",
    metadata,
    Column("replica", Text, primary_key=True),
    Column("start", Double, primary_key=True),
    Column("backend", Text, nullable=False),
    Column("up_s", Double, nullable=False),
    Column("content", Text, nullable=False),
)
"""What each replica did in the hour from `start` on, by its engine; `content` is JSON."""

audit = Table(
    "audit",
    metadata,
    Column("seq", _SERIAL, primary_key=True),
    Column("at", Double, nullable=False),
    Column("key", Text),
    Column("name", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("action", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Index("audit_at", "at"),
)
"""Every command that changes something, tried or done; `key` null for a person at the store itself.
"""

weights = Table(
    "weights",
    metadata,
    Column("seq", _SERIAL, primary_key=True),
    Column("subject", Text, nullable=False),
    Column("share", Double, nullable=False),
    Column("why", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("saved", Double, nullable=False),
    Index("weights_subject", "subject"),
)
"""What share of its traffic a target, backend or replica gets by command; 0 is drained. The last
row of each is the truth, and a share of 1 is as if nothing was said."""

budget_alerts = Table(
    "budget_alerts",
    metadata,
    Column("account", Text, primary_key=True),
    Column("period", Text, primary_key=True),
    Column("starts", Double, primary_key=True),
    Column("share", Double, primary_key=True),
    Column("claimed", Double, nullable=False),
)
"""Which shares of which budgets were told of: whoever puts a row in first tells."""

feedback = Table(
    "feedback",
    metadata,
    Column("seq", _SERIAL, primary_key=True),
    Column("identity", Text, nullable=False, unique=True),
    Column("request_id", Text, nullable=False),
    Column("metric", Text, nullable=False),
    Column("value", Double, nullable=False),
    Column("comment", Text),
    Column("correction", Text),
    Column("key", Text),
    Column("at", Double, nullable=False),
    Index("feedback_request_id", "request_id"),
    Index("feedback_at", "at"),
)
"""What was said of an answer. `identity` is of the request, the metric and who says it: said again,
it takes the place of what was said before, under a new `seq`."""

evidence = Table(
    "evidence",
    metadata,
    Column("route", Text, primary_key=True),
    Column("target", Text, primary_key=True),
    Column("metric", Text, primary_key=True),
    Column("source", Text, primary_key=True),
    Column("n", Double, nullable=False),
    Column("right", Double, nullable=False),
    Column("at", Double, nullable=False),
)
"""How many of `n` answers were right where a target was tried on known cases; `source` is such as
`eval:support/20261125-081500`."""

experiment_states = Table(
    "experiment_states",
    metadata,
    Column("seq", _SERIAL, primary_key=True),
    Column("experiment", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("saved", Double, nullable=False),
    Index("experiment_states_experiment", "experiment"),
)
"""What has become of experiments, as revisions; the last of each is the truth. `state` is JSON."""

learned_versions = Table(
    "learned_versions",
    metadata,
    Column("seq", _SERIAL, primary_key=True),
    Column("route", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("author", Text, nullable=False),
    Column("used", Boolean, nullable=False),
    Column("told", Text, nullable=False),
    Column("model", LargeBinary),
    Index("learned_versions_route", "route"),
)
"""What was learned of routes' qualities; the last that is `used` is what a route goes by. `told` is
JSON; `model` null where a version was gone back to, or its model is kept no more."""

eval_runs = Table(
    "eval_runs",
    metadata,
    Column("run", Text, primary_key=True),
    Column("route", Text, nullable=False),
    Column("hash", Text, nullable=False),
    Column("at", Double, nullable=False),
    Index("eval_runs_route", "route"),
)
"""Eval runs of routes, as far as quality is learned from them; `hash` is of what is kept of one."""

eval_prompts = Table(
    "eval_prompts",
    metadata,
    Column("run", Text, primary_key=True),
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("prompt", Text, nullable=False),
    Column("text", Text),
    Column("features", LargeBinary),
    Column("answers", Text, nullable=False),
)
"""Their prompts: `prompt` is a digest of the text, of which as much is kept as the route keeps.
`answers` is a JSON array of target, how right it was, and dollars."""

meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Integer, nullable=False),
)
"""Counters: `keys` grows with every change of a key. And `home:DIRECTORY` for each whose files have
been served from this store, where it is a file."""
