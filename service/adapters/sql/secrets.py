"""Every secret in the database, for a change of keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from sqlalchemy import Column, Engine, RowMapping, Table, select, update

from service.adapters.sql.connection_tables import connections
from service.adapters.sql.engine import Database
from service.adapters.sql.webhook_tables import endpoints
from service.domain.errors import ArrowQuantError
from service.domain.vault import Resealed, Vault

Context = Callable[[RowMapping], Sequence[str]]


def _of(kind: str) -> Context:
    return lambda row: (kind, row["tenant"], row["id"])


# Where secrets are, and what each of them is bound to: as those who seal them have it.
_PLACES: tuple[tuple[Table, Column[bytes], Context], ...] = (
    (connections, connections.c.sealed, _of("connection")),
    (endpoints, endpoints.c.secret, _of("webhook")),
    (endpoints, endpoints.c.old_secret, _of("webhook")),
)


class SqlSecrets:
    """`Sealed`: connections and webhook endpoints."""

    def __init__(self, engine: Engine, vault: Vault) -> None:
        self._db, self._vault = Database(engine), vault

    def reseal(self) -> Resealed:
        done = lost = 0
        for place in list(self._stale()):
            try:
                done += self._again(*place)
            except ArrowQuantError as error:
                if error.code != "secret_unreadable":
                    raise
                lost += 1  # the others are not to wait for it
        return Resealed(done, lost)

    def _stale(self) -> Iterator[tuple[Table, Column[bytes], str, Sequence[str], bytes]]:
        for table, column, context in _PLACES:
            query = select(table.c.id, table.c.tenant, column.label("sealed"))
            with self._db.read() as db:
                found = db.execute(query.where(column.is_not(None))).mappings().all()
            for row in found:
                if self._vault.stale(row["sealed"]):
                    yield table, column, row["id"], context(row), row["sealed"]

    def _again(
        self, table: Table, column: Column[bytes], row: str, context: Sequence[str], sealed: bytes
    ) -> bool:
        again = self._vault.seal(context, self._vault.open(context, sealed))
        # Not over what somebody gave meanwhile.
        this = (table.c.id == row, column == sealed)
        with self._db.write() as db:
            return db.execute(update(table).where(*this).values({column: again})).rowcount == 1
