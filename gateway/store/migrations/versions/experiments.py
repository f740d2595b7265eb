"""What has become of experiments, and what requests keep of their part in them."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes experiment_states and columns of requests."""
    op.add_column("requests", sa.Column("unit", sa.Text))
    op.add_column("requests", sa.Column("arm_share", sa.Double))
    serial = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "experiment_states",
        sa.Column("seq", serial, primary_key=True),
        sa.Column("experiment", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("author", sa.Text, nullable=False),
        sa.Column("saved", sa.Double, nullable=False),
    )
    op.create_index("experiment_states_experiment", "experiment_states", ["experiment"])


def downgrade() -> None:
    """Drops them."""
    op.drop_table("experiment_states")
    op.drop_column("requests", "arm_share")
    op.drop_column("requests", "unit")
