"""Each test of the ledger runs on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from service.adapters.objects import ConfiguredStores, FolderStore, S3Store
from service.adapters.sql import make_engine, migrate
from service.adapters.sql.tables import metadata
from service.domain.ports import ObjectStore
from service.settings import S3Connection
from tests.contracts.batches import CHUNK, BatchBench
from tests.contracts.hooks import Hooks
from tests.contracts.ledgers import Bench, HandClock
from tests.servers import S3Server


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


@pytest.fixture
def batched(engine: Engine, clock: HandClock, monkeypatch: pytest.MonkeyPatch) -> BatchBench:
    """Beside a bench on the same database."""
    monkeypatch.setattr("service.adapters.sql.bulk.CHUNK", CHUNK)
    return BatchBench(engine, clock)


@pytest.fixture(scope="session")
def s3_credentials(s3_server: S3Server) -> dict[str, str]:
    os.environ["TEST_S3_ID"] = s3_server.access_key
    os.environ["TEST_S3_SECRET"] = s3_server.secret_key
    os.environ["TEST_S3_WRONG"] = "0" * 40
    return {"access_key_id_env": "TEST_S3_ID", "secret_access_key_env": "TEST_S3_SECRET"}


@pytest.fixture
def s3(s3_bucket: str, s3_server: S3Server, s3_credentials: dict[str, str]) -> Iterator[S3Store]:
    connection = S3Connection(
        kind="s3",
        bucket=s3_bucket,
        prefix="tenant-a",
        endpoint_url=s3_server.endpoint_url,
        **s3_credentials,  # type: ignore[arg-type]
    )
    store = ConfiguredStores({"bucket": connection}).open("acme", "bucket")
    assert isinstance(store, S3Store)
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "objects")


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    found: ObjectStore = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def hooks(engine: Engine, clock: HandClock) -> Hooks:
    return Hooks(engine, clock)
