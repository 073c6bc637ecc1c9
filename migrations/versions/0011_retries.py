"""When an import that failed for a passing reason is tried again, and how often in a row it has failed."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_TRIGGERS = "trigger IN ('schedule', 'operator', 'selection', 'healing', 'retry')"
_TRIGGERS_OF_BEFORE = "trigger IN ('schedule', 'operator', 'selection', 'healing')"


def upgrade() -> None:
    op.add_column("imports", sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("imports", sa.Column("tries", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.drop_constraint(op.f("ck_imports_trigger"), "imports", type_="check")
    op.create_check_constraint(op.f("ck_imports_trigger"), "imports", sa.text(_TRIGGERS))
    op.create_index("ix_imports_retry", "imports", ["retry_at"], postgresql_where=sa.text("retry_at IS NOT NULL"))


def downgrade() -> None:
    op.drop_index("ix_imports_retry", table_name="imports")
    op.execute("UPDATE imports SET trigger = 'healing' WHERE trigger = 'retry'")
    op.drop_constraint(op.f("ck_imports_trigger"), "imports", type_="check")
    op.create_check_constraint(op.f("ck_imports_trigger"), "imports", sa.text(_TRIGGERS_OF_BEFORE))
    op.drop_column("imports", "tries")
    op.drop_column("imports", "retry_at")
