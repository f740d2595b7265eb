"""What is told of a revision: how it came, under which environment, and what became of it."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns; what was there before was set by serving."""
    for column in (
        sa.Column("kind", sa.Text, nullable=False, server_default="start"),
        sa.Column("note", sa.Text, nullable=False, server_default=""),
        sa.Column("environment", sa.Text),
        sa.Column("restores", sa.BigInteger),
        sa.Column("rolled_back", sa.Double),
        sa.Column("guard", sa.Text),
        sa.Column("verdict", sa.Text, nullable=False, server_default=""),
    ):
        op.add_column("revisions", column)


def downgrade() -> None:
    """Drops them."""
    with op.batch_alter_table("revisions") as batch:
        for name in (
            "kind", "note", "environment", "restores", "rolled_back", "guard", "verdict",
        ):  # fmt: skip
            batch.drop_column(name)
