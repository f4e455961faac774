"""The migrations make exactly the tables that the code expects."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from service.adapters.sql import make_engine, migrate
from service.adapters.sql.tables import metadata
from service.domain.errors import ArrowQuantError


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database with nothing in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/made/100%/new.db"
    url: str = request.getfixturevalue("postgres_database")
    return url


def test_migrations_and_tables_agree(empty_url: str) -> None:
    migrate(empty_url)
    migrate(empty_url)
    engine = make_engine(empty_url)
    with engine.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
        # Alembic does not compare these.
        conditions = {
            index["name"]: index["dialect_options"]
            for index in inspect(connection).get_indexes("units")
        }
        assert any("FREE" in str(where) for where in conditions["ix_units_open"].values())
    engine.dispose()


def test_many_processes_start_at_once(empty_url: str) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=migrate, args=(empty_url,)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4


def test_a_database_of_a_newer_version_is_left_alone(empty_url: str) -> None:
    migrate(empty_url)
    engine = make_engine(empty_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'future'"))
    engine.dispose()
    with pytest.raises(ArrowQuantError, match=r"database_unavailable.*up to date"):
        migrate(empty_url)


def test_sqlite_is_set_up_for_many_processes(tmp_path: Path) -> None:
    engine = make_engine(f"sqlite:///{tmp_path}/a.db")
    with engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    engine.dispose()
    assert found == {
        "journal_mode": "wal", "synchronous": 1, "foreign_keys": 1, "busy_timeout": 30_000,
    }  # fmt: skip
