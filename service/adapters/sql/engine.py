"""The database connection: SQLite in WAL mode or PostgreSQL, and the schema brought up to date."""

from __future__ import annotations

import os
import sqlite3
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from service.adapters.sql import patience
from service.domain.errors import ArrowQuantError

BUSY_SECONDS = 30
MIGRATIONS = Path(__file__).with_name("migrations")
_MIGRATION_LOCK = 0x4152_5157  # any number that is ours in the database
_SQLITE_BEGIN = "sqlite_begin"
_CONNECTION_FAILURES = (OperationalError, InterfaceError)


def make_engine(url: str | URL, timeout_s: float | None = patience.DEFAULT_S) -> Engine:
    """An engine for `sqlite:///path` or `postgresql+psycopg://...`; connects on first use.

    timeout_s  the longest that PostgreSQL may take for one answer; None for as long as it likes
    """
    parsed = make_url(url)
    sqlite = parsed.get_backend_name() == "sqlite"
    if sqlite and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(
        parsed,
        connect_args=_sqlite_arguments() if sqlite else _postgres_arguments(timeout_s),
        pool_size=10,
        max_overflow=30,
        pool_timeout=BUSY_SECONDS if sqlite else timeout_s or BUSY_SECONDS,
        pool_pre_ping=not sqlite,
        json_serializer=_dump_json,
        json_deserializer=orjson.loads,
    )
    if sqlite:
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    elif timeout_s is not None:
        patience.bound(engine, timeout_s)
    _forget_connections_after_fork(engine)
    return engine


class Database:
    """Transactions on an engine, with connection failures named as ours."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._outage = patience.outage_of(engine)
        self._writer = engine.execution_options(**{_SQLITE_BEGIN: "IMMEDIATE"})

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that only reads: on SQLite it waits for no writer."""
        with _named_failures(self._outage), self.engine.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes. On SQLite it holds the write lock from the start, because a
        reader that becomes a writer fails at once when someone else wrote in between."""
        with _named_failures(self._outage), self._writer.begin() as connection:
            yield connection

    @contextmanager
    def hold(self) -> Iterator[Connection]:
        """A connection for several transactions, each begun with `begin` or `write_on`."""
        with _named_failures(self._outage), self.engine.connect() as connection:
            yield connection


@contextmanager
def write_on(connection: Connection) -> Iterator[None]:
    """A transaction that writes, on a connection that is held."""
    connection.execution_options(**{_SQLITE_BEGIN: "IMMEDIATE"})
    try:
        with connection.begin():
            yield
    finally:
        connection.execution_options(**{_SQLITE_BEGIN: "DEFERRED"})


def migrate(url: str | URL) -> None:
    """Bring the schema to the newest version. Any number of processes may do it at once: the
    first does the work in one transaction, the others wait for it and find nothing left."""
    engine = make_engine(url, timeout_s=None)
    try:
        with Database(engine).write() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            _upgrade(connection)
    finally:
        engine.dispose()


def _upgrade(connection: Connection) -> None:
    # Imported here: only the process that starts up needs it.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise ArrowQuantError(
            "database_unavailable",
            f"the schema cannot be brought up to date: {error}",
            "Run the version of the service that last used this database, or a newer one.",
        ) from error


@contextmanager
def _named_failures(outage: patience.Outage) -> Iterator[None]:
    try:
        with outage.watched():
            yield
    except DBAPIError as error:
        if not (error.connection_invalidated or isinstance(error, _CONNECTION_FAILURES)):
            raise
        raise _unavailable(error) from error
    except (PoolTimeout, patience.Away) as error:
        raise _unavailable(error) from error


def _unavailable(error: Exception) -> ArrowQuantError:
    # The driver's text names hosts and statements: it goes to the log with the cause, not to users.
    cause = getattr(error, "orig", None) or error
    return ArrowQuantError(
        "database_unavailable",
        f"the database did not take the request ({type(cause).__name__})",
        "Try again; if it goes on, look at the database's and the service's logs.",
    )


def _dump_json(value: Any) -> str:
    # Numbers that JSON has no word for become null, which PostgreSQL would refuse as NaN.
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def _sqlite_arguments() -> dict[str, Any]:
    return {"timeout": BUSY_SECONDS, "check_same_thread": False}


def _postgres_arguments(timeout_s: float | None) -> dict[str, Any]:
    # Rows stay locked as long as their transaction: a frozen process must not stop the others.
    options = "-c lock_timeout=20s -c idle_in_transaction_session_timeout=30s"
    if timeout_s is not None:
        options += f" -c statement_timeout={int(timeout_s * 1000)}"
    return {
        "connect_timeout": 5,
        "options": options,
        # Of a host that is gone no packet ever says so.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # Transactions begin where we say so, not where the driver guesses.
    connection.isolation_level = None
    connection.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = NORMAL")
    if connection.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        _set_wal(connection)


def _set_wal(connection: sqlite3.Connection) -> None:
    # Changing the mode of a new file does not wait for other processes that do the same.
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _begin_sqlite(connection: Connection) -> None:
    mode = connection.get_execution_options().get(_SQLITE_BEGIN, "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")


def _forget_connections_after_fork(engine: Engine) -> None:
    # A connection used by both sides of a fork mixes up their answers.
    reference = weakref.ref(engine)

    def forget() -> None:
        if (alive := reference()) is not None:
            alive.dispose(close=False)

    os.register_at_fork(after_in_child=forget)
