"""Versions of what was learned of routes' qualities."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes learned_versions."""
    serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "learned_versions",
        sa.Column("seq", serial, primary_key=True),
        sa.Column("route", sa.Text, nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("used", sa.Boolean, nullable=False),
        sa.Column("told", sa.Text, nullable=False),
        sa.Column("model", sa.LargeBinary),
    )
    op.create_index("learned_versions_route", "learned_versions", ["route"])


def downgrade() -> None:
    """Drops it."""
    op.drop_table("learned_versions")
