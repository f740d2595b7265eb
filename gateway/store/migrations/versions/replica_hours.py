"""What each replica did in each hour, by its engine's counters."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes replica_hours."""
    op.create_table(
        "replica_hours",
        sa.Column("replica", sa.Text, primary_key=True),
        sa.Column("start", sa.Double, primary_key=True),
        sa.Column("backend", sa.Text, nullable=False),
        sa.Column("up_s", sa.Double, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Drops it."""
    op.drop_table("replica_hours")
