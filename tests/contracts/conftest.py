"""Each test of the ledger runs on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from service.adapters.sql import make_engine, migrate
from service.adapters.sql.tables import metadata
from tests.contracts.ledgers import Bench, HandClock


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the schema, to be copied."""
    path = tmp_path_factory.mktemp("sqlite") / "empty.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_postgres(postgres_url: str) -> str:
    """A database with the schema, to be emptied."""
    migrate(postgres_url)
    return postgres_url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.real)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database with the schema and no rows."""
    if request.param == "sqlite":
        source: Path = request.getfixturevalue("migrated_sqlite")
        return f"sqlite:///{shutil.copy(source, tmp_path / 'ledger.db')}"
    url: str = request.getfixturevalue("migrated_postgres")
    engine = make_engine(url)
    with engine.begin() as connection:
        names = ", ".join(metadata.tables)
        connection.execute(text(f"TRUNCATE {names}"))
    engine.dispose()
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    engine = make_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def bench(engine: Engine, database_url: str, clock: HandClock) -> Bench:
    return Bench(engine, database_url, clock)
