"""Where racks are to reach the region, when that is another address than the one each enrolled by."""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("region", sa.Column("url", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("region", "url")
