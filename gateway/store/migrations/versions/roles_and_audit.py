"""Roles of keys, the audit log, and the shares of traffic that commands set."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes audit and weights; keys.role takes the place of keys.admin."""
    op.add_column("keys", sa.Column("role", sa.Text))
    op.execute(sa.text("UPDATE keys SET role = 'admin' WHERE admin"))
    op.drop_column("keys", "admin")
    op.create_table(
        "audit",
        sa.Column("seq", SERIAL, primary_key=True),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("action", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_index("audit_at", "audit", ["at"])
    op.create_table(
        "weights",
        sa.Column("seq", SERIAL, primary_key=True),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("share", sa.Double, nullable=False),
        sa.Column("why", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("saved", sa.Double, nullable=False),
    )
    op.create_index("weights_subject", "weights", ["subject"])


def downgrade() -> None:
    """Drops them; who had a role less than admin may command nothing."""
    op.drop_table("weights")
    op.drop_table("audit")
    op.add_column("keys", sa.Column("admin", sa.Boolean, nullable=False, server_default=sa.false()))
    op.execute(sa.text("UPDATE keys SET admin = true WHERE role = 'admin'"))
    op.drop_column("keys", "role")
