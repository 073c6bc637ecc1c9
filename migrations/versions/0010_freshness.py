"""Freshness: a source's documents may be older than those accepted before, once; and after which age all are warned."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sources", sa.Column("older_accepted_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("sources", sa.Column("stale_after_days", sa.Integer(), server_default=sa.text("30"), nullable=False))
    op.create_check_constraint(
        op.f("ck_sources_stale_after_days"), "sources", sa.text("stale_after_days BETWEEN 0 AND 3650")
    )


def downgrade() -> None:
    op.drop_constraint(op.f("ck_sources_stale_after_days"), "sources", type_="check")
    op.drop_column("sources", "stale_after_days")
    op.drop_column("sources", "older_accepted_until")
