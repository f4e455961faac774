"""Alembic's scripts. They run by `service.adapters.sql.migrate`."""
