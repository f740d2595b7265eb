"""What is said of answers, and what requests keep for it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_COLUMNS = (
    ("ref", sa.Text),
    ("episode", sa.Text),
    ("messages", sa.Text),
    ("features", sa.LargeBinary),
    ("experiment", sa.Text),
    ("arm", sa.Text),
    ("shadow_of", sa.Text),
)
_INDEXED = ("ref", "episode", "experiment", "shadow_of")


def upgrade() -> None:
    """Makes feedback, evidence and columns of requests."""
    for name, kind in _COLUMNS:
        op.add_column("requests", sa.Column(name, kind()))
    for name in _INDEXED:
        op.create_index(f"requests_{name}", "requests", [name])
    serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "feedback",
        sa.Column("seq", serial, primary_key=True),
        sa.Column("identity", sa.Text, nullable=False, unique=True),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("metric", sa.Text, nullable=False),
        sa.Column("value", sa.Double, nullable=False),
        sa.Column("comment", sa.Text),
        sa.Column("correction", sa.Text),
        sa.Column("key", sa.Text),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("feedback_request_id", "feedback", ["request_id"])
    op.create_index("feedback_at", "feedback", ["at"])
    op.create_table(
        "evidence",
        sa.Column("route", sa.Text, primary_key=True),
        sa.Column("target", sa.Text, primary_key=True),
        sa.Column("metric", sa.Text, primary_key=True),
        sa.Column("source", sa.Text, primary_key=True),
        sa.Column("n", sa.Double, nullable=False),
        sa.Column("right", sa.Double, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Drops them."""
    op.drop_table("evidence")
    op.drop_table("feedback")
    for name in _INDEXED:
        op.drop_index(f"requests_{name}", "requests")
    for name, _ in _COLUMNS:
        op.drop_column("requests", name)
