"""Passwords of mirrors and proxies are kept sealed, in columns of their own.

The next start of a region seals those that stand in URLs: it needs the key, which a migration has not. What was vouched
for by an unsigned source is named by its URL, which had the password too.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

WITHOUT_PASSWORDS = (
    r"""
    UPDATE sources SET vouchers = (
        SELECT array_agg(regexp_replace(name, '^(unsigned:https?://)[^/]*@', '\1')) FROM unnest(vouchers) name)
    WHERE EXISTS (SELECT FROM unnest(vouchers) name WHERE name ~ '^unsigned:https?://[^/]*@')
    """,
    r"""
    UPDATE stream_documents SET vouched_by = (
        SELECT array_agg(regexp_replace(name, '^(unsigned:https?://)[^/]*@', '\1')) FROM unnest(vouched_by) name)
    WHERE EXISTS (SELECT FROM unnest(vouched_by) name WHERE name ~ '^unsigned:https?://[^/]*@')
    """,
    r"""
    UPDATE versions SET vouched_by = (
        SELECT array_agg(regexp_replace(name, '^(unsigned:https?://)[^/]*@', '\1')) FROM unnest(vouched_by) name)
    WHERE EXISTS (SELECT FROM unnest(vouched_by) name WHERE name ~ '^unsigned:https?://[^/]*@')
    """,
)


def upgrade() -> None:
    op.add_column("sources", sa.Column("url_credentials", sa.Text, nullable=True))
    op.add_column("sources", sa.Column("proxy_credentials", sa.Text, nullable=True))
    op.add_column("region", sa.Column("proxy_credentials", sa.Text, nullable=True))
    op.add_column("region", sa.Column("secrets_fingerprint", sa.Text, nullable=True))
    for statement in WITHOUT_PASSWORDS:
        op.execute(statement)


def downgrade() -> None:
    op.drop_column("region", "secrets_fingerprint")
    op.drop_column("region", "proxy_credentials")
    op.drop_column("sources", "proxy_credentials")
    op.drop_column("sources", "url_credentials")
