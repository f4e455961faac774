"""Run by Alembic, inside the transaction of whoever called it."""

from __future__ import annotations

from alembic import context

from service.adapters.sql.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite alters a table by copying it.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
