"""People: what each activity row is about, how long records are kept, and how often the settings were changed."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# The subject of rows written before, where the action alone says it.
_SUBJECTS = {"selection.changed": "selection", "settings.changed": "settings", "sync.switched": "sync"}


def upgrade() -> None:
    op.add_column("activity", sa.Column("subject", sa.Text(), server_default=sa.text("''"), nullable=False))
    activity = sa.table("activity", sa.column("subject", sa.Text), sa.column("action", sa.Text))
    for action, subject in _SUBJECTS.items():
        op.execute(sa.update(activity).where(activity.c.action == action).values(subject=subject))
    op.create_index("ix_activity_subject_id", "activity", ["subject", sa.text("id DESC")])
    op.add_column("region", sa.Column("retention_days", sa.Integer(), server_default=sa.text("400"), nullable=False))
    op.add_column(
        "region", sa.Column("settings_revision", sa.BigInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("region", sa.Column("tidied_at", sa.DateTime(timezone=True), nullable=True))
    op.create_check_constraint(op.f("ck_region_retention_days"), "region", sa.text("retention_days BETWEEN 1 AND 3650"))


def downgrade() -> None:
    op.drop_constraint(op.f("ck_region_retention_days"), "region", type_="check")
    op.drop_column("region", "tidied_at")
    op.drop_column("region", "settings_revision")
    op.drop_column("region", "retention_days")
    op.drop_index("ix_activity_subject_id", table_name="activity")
    op.drop_column("activity", "subject")
