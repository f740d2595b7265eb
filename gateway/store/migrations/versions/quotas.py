"""Limits of keys, and which alerts about budgets were told."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes budget_alerts and keys.quota."""
    op.add_column("keys", sa.Column("quota", sa.Text))
    op.create_table(
        "budget_alerts",
        sa.Column("account", sa.Text, primary_key=True),
        sa.Column("period", sa.Text, primary_key=True),
        sa.Column("starts", sa.Double, primary_key=True),
        sa.Column("share", sa.Double, primary_key=True),
        sa.Column("claimed", sa.Double, nullable=False),
    )


def downgrade() -> None:
    """Drops them."""
    op.drop_table("budget_alerts")
    op.drop_column("keys", "quota")
