"""Sources can be disabled, or read alone; how often to sync is a setting; one image of an import can be stopped."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sources", sa.Column("enabled", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.add_column("imports", sa.Column("source_id", sa.Integer(), nullable=True))
    op.add_column("imports", sa.Column("stopped", sa.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False))
    op.add_column(
        "sync_schedule", sa.Column("interval_seconds", sa.Integer(), server_default=sa.text("3600"), nullable=False)
    )
    op.create_check_constraint(
        op.f("ck_sync_schedule_interval"), "sync_schedule", sa.text("interval_seconds BETWEEN 300 AND 604800")
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_sync_schedule_interval"), "sync_schedule", type_="check")
    op.drop_column("sync_schedule", "interval_seconds")
    op.drop_column("imports", "stopped")
    op.drop_column("imports", "source_id")
    op.drop_column("sources", "enabled")
