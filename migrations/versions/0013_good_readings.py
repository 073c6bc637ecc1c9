"""When each source was last read and accepted, whatever its readings met since."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("sources", sa.Column("last_good_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE sources SET last_good_at = last_read_at WHERE error_code = ''")


def downgrade() -> None:
    op.drop_column("sources", "last_good_at")
