"""What commands have made of adapters, and keys that may command."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

SERIAL = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Makes adapter_states, and the column keys.admin."""
    op.create_table(
        "adapter_states",
        sa.Column("seq", SERIAL, primary_key=True),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("change", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("saved", sa.Double, nullable=False),
    )
    op.create_index("adapter_states_target", "adapter_states", ["target"])
    op.add_column("keys", sa.Column("admin", sa.Boolean, nullable=False, server_default=sa.false()))


def downgrade() -> None:
    """Drops them."""
    op.drop_column("keys", "admin")
    op.drop_table("adapter_states")
