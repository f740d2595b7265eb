"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes requests, attempts, keys, revisions and meta."""
    _requests()
    _attempts()
    op.create_table(
        "keys",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False, unique=True),
        sa.Column("prefix", sa.Text, nullable=False),
        sa.Column("routes", sa.Text),
        sa.Column("tenant", sa.Text),
        sa.Column("direct", sa.Boolean, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("expires", sa.Double),
        sa.Column("revoked", sa.Double),
    )
    op.create_table(
        "revisions",
        sa.Column("seq", SERIAL, primary_key=True),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("saved", sa.Double, nullable=False),
    )
    op.create_index("revisions_hash", "revisions", ["hash"])
    op.create_table(
        "meta",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.Integer, nullable=False),
    )
    op.execute("INSERT INTO meta (name, value) VALUES ('keys', 0)")


def downgrade() -> None:
    """Drops them all."""
    for table in ("meta", "revisions", "keys", "attempts", "requests"):
        op.drop_table(table)


def _requests() -> None:
    op.create_table(
        "requests",
        sa.Column("seq", SERIAL, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("decision_id", sa.Text, nullable=False),
        sa.Column("completion_id", sa.Text),
        sa.Column("started", sa.Double, nullable=False),
        sa.Column("endpoint", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("key_name", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text),
        sa.Column("route", sa.Text),
        sa.Column("recognised_by", sa.Text),
        sa.Column("confidence", sa.Double),
        sa.Column("recognised_detail", sa.Text),
        sa.Column("policy", sa.Text),
        sa.Column("snapshot", sa.Text),
        sa.Column("target", sa.Text),
        sa.Column("replica", sa.Text),
        sa.Column("decision", sa.Text),
        sa.Column("needs", sa.Text, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("input_tokens", sa.Integer, nullable=False),
        sa.Column("cached_tokens", sa.Integer, nullable=False),
        sa.Column("output_tokens", sa.Integer, nullable=False),
        sa.Column("cost_usd", sa.Double, nullable=False),
        sa.Column("estimated", sa.Boolean, nullable=False),
        sa.Column("first_token_s", sa.Double),
        sa.Column("total_s", sa.Double, nullable=False),
        sa.Column("overhead_s", sa.Double, nullable=False),
        sa.Column("text", sa.Text),
        sa.Column("answer", sa.Text),
    )
    op.create_index("requests_completion_id", "requests", ["completion_id"])
    op.create_index("requests_started", "requests", ["started"])


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("request_id", sa.Text, primary_key=True),
        sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("replica", sa.Text, nullable=False),
        sa.Column("started", sa.Double, nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("input_tokens", sa.Integer, nullable=False),
        sa.Column("cached_tokens", sa.Integer, nullable=False),
        sa.Column("output_tokens", sa.Integer, nullable=False),
        sa.Column("cost_usd", sa.Double, nullable=False),
        sa.Column("estimated", sa.Boolean, nullable=False),
        sa.Column("first_token_s", sa.Double),
        sa.Column("total_s", sa.Double, nullable=False),
        sa.Column("changed", sa.Text, nullable=False),
        sqlite_with_rowid=False,
    )
