"""What eval runs found, as far as quality is learned from it."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes eval_runs and eval_prompts."""
    op.create_table(
        "eval_runs",
        sa.Column("run", sa.Text, primary_key=True),
        sa.Column("route", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
    )
    op.create_index("eval_runs_route", "eval_runs", ["route"])
    op.create_table(
        "eval_prompts",
        sa.Column("run", sa.Text, primary_key=True),
        sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("prompt", sa.Text, nullable=False),
        sa.Column("text", sa.Text),
        sa.Column("features", sa.LargeBinary),
        sa.Column("answers", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Drops them."""
    op.drop_table("eval_prompts")
    op.drop_table("eval_runs")
