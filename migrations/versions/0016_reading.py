"""A source can be disabled, and one source can be read without an import of what it offers."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sources", sa.Column("enabled", sa.Boolean(), server_default=sa.true(), nullable=False))
    op.add_column("imports", sa.Column("source_id", sa.Integer(), nullable=True))


def downgrade() -> None:
    op.drop_column("imports", "source_id")
    op.drop_column("sources", "enabled")
