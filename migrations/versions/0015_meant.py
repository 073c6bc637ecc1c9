"""The images that each selection means: a selection may be a rule, and then it means other images tomorrow."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "meant",
        sa.Column("selection_id", sa.Integer(), nullable=False),
        sa.Column("os", sa.Text(), nullable=False),
        sa.Column("release", sa.Text(), nullable=False),
        sa.Column("arch", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["selection_id"], ["selections.id"], name=op.f("fk_meant_selection_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("selection_id", "os", "release", "arch", name=op.f("pk_meant")),
    )
    op.create_index(op.f("ix_meant_os_release_arch"), "meant", ["os", "release", "arch"])
    op.execute("INSERT INTO meant SELECT id, os, release, arch FROM selections")


def downgrade() -> None:
    op.drop_table("meant")
