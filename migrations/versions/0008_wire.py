"""Racks: the greatest sequence of a rack's requests, the keys of removed racks, and who made an enrolment token."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("racks", sa.Column("request_sequence", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.create_table(
        "barred_keys",
        sa.Column("public_key", sa.Text(), nullable=False),
        sa.Column("rack_name", sa.Text(), nullable=False),
        sa.Column("barred_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("public_key", name=op.f("pk_barred_keys")),
    )
    op.add_column("enrolment_tokens", sa.Column("made_by", sa.Text(), server_default=sa.text("''"), nullable=False))


def downgrade() -> None:
    op.drop_column("enrolment_tokens", "made_by")
    op.drop_table("barred_keys")
    op.drop_column("racks", "request_sequence")
