"""Alembic's entry: runs the migrations on the connection `region.database.migrate` hands over."""

from alembic import context

from region.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_server_default=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
