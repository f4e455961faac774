"""Local jobs are closed after each test, and worlds in which one job follows another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.domain import units
from service.settings import Settings
from tests.servers import S3Server
from tests.workers.runs import close_all
from tests.workers.succession import World, write_source


@pytest.fixture(autouse=True)
def _close_local_jobs() -> Iterator[None]:
    yield
    close_all()


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tensor of `succession.SHAPE` is a unit."""
    monkeypatch.setattr(units, "MIN_UNIT_BYTES", 2**20)


@pytest.fixture(scope="session")
def two_units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_source(folder / "m", 1)
    return folder


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.real)])
def places(request: pytest.FixtureRequest, tmp_path: Path, two_units: Path) -> Settings:
    connections: dict[str, Any] = {"models": {"kind": "folder", "path": two_units}}
    if request.param == "folder":
        (tmp_path / "artifacts").mkdir()
        connections["folder"] = {"kind": "folder", "path": tmp_path / "artifacts"}
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        os.environ["TEST_S3_ID"] = server.access_key
        os.environ["TEST_S3_SECRET"] = server.secret_key
        connections["s3"] = {
            "kind": "s3",
            "bucket": request.getfixturevalue("s3_bucket"),
            "endpoint_url": server.endpoint_url,
            "access_key_id_env": "TEST_S3_ID",
            "secret_access_key_env": "TEST_S3_SECRET",
        }
    return Settings.load(data_dir=tmp_path / "data", connections=connections)


@pytest.fixture
def world(places: Settings, small_units: None) -> Iterator[World]:
    names = [name for name in places.connections if name != "models"]
    made = World(places, names[0])
    yield made
    made.deps.close()
