"""What alembic runs for every history: on the connection and the tables that :mod:`sba.migrations.run` gives."""

from __future__ import annotations

from alembic import context

_given = context.config.attributes
context.configure(
    connection=_given["connection"],
    target_metadata=_given["metadata"],
    render_as_batch=True,  # SQLite changes a column by making the table anew
    compare_type=True,
    compare_server_default=True,
)
with context.begin_transaction():
    context.run_migrations()
