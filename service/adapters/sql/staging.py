"""Rows on their way in: laid aside in temporary tables, then moved by one short transaction.

The tables belong to one connection and are seen by no other. While lines arrive nothing is locked,
and if the process or the connection ends, nothing of them is left. Moving is the database's own work
(INSERT ... SELECT): ten thousand jobs take it a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, MetaData, Table, insert, select, text

_Rows = Mapping[Table, Sequence[dict[str, Any]]]


class Staging:
    """Temporary twins of some tables on one connection."""

    def __init__(self, connection: Connection, tables: Sequence[Table]) -> None:
        """tables: in the order in which rows can be inserted, parents first"""
        self._connection = connection
        metadata = MetaData()
        self._twins = {table: _twin(table, metadata) for table in tables}

    def open(self) -> None:
        """Make the tables, empty."""
        self.close()
        with self._connection.begin():
            for twin in self._twins.values():
                twin.create(self._connection)

    def twin(self, table: Table) -> Table:
        """Where a table's rows wait."""
        return self._twins[table]

    def add(self, rows: _Rows) -> None:
        """Lay rows aside."""
        with self._connection.begin():
            for table, some in rows.items():
                if some:
                    self._connection.execute(insert(self._twins[table]), some)

    def move(self, connection: Connection) -> None:
        """Insert all of them for real, inside the caller's transaction on the same connection."""
        for table, twin in self._twins.items():
            names = [column.name for column in twin.columns]
            query = select(*twin.columns)
            connection.execute(insert(table).from_select(names, query, include_defaults=False))

    def close(self) -> None:
        """Drop the tables."""
        with self._connection.begin():
            for twin in self._twins.values():
                # A name in another schema is never meant, though it may be there.
                schema = "temp" if self._connection.dialect.name == "sqlite" else "pg_temp"
                self._connection.execute(text(f"DROP TABLE IF EXISTS {schema}.{twin.name}"))


def _twin(table: Table, metadata: MetaData) -> Table:
    columns = (
        Column(c.name, c.type, default=getattr(c.default, "arg", None)) for c in table.columns
    )
    return Table(f"staged_{table.name}", metadata, *columns, prefixes=["TEMPORARY"])
