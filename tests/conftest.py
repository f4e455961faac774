"""Fixtures and settings of every test.

Servers are started once per session, on first use. A test gets an empty Redis database, an empty
PostgreSQL database or an empty bucket of its own from `redis_url`, `postgres_database`, `s3_bucket`.
A test that stops or kills a server takes one of its own: `own_redis`, `own_s3`, `own_postgres`.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.servers import PostgresServer, RedisServer, S3Server
from workers import kernel_cache

# These tests need torch, which is not in the locked environment: `make test-torch` runs them.
collect_ignore = [] if importlib.util.find_spec("torch") else ["torch"]

# "ci" draws the same examples every time: a red run speaks of the change, not of luck.
settings.register_profile("dev", deadline=None)
settings.register_profile(
    "ci",
    deadline=None,
    derandomize=True,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", parent=settings.get_profile("dev"), max_examples=2000)
settings.load_profile(
    os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev")
)


def pytest_configure() -> None:
    """Make the run independent of the caller's settings, credentials and proxies."""
    for name in list(os.environ):
        if name.startswith(("ARROWQUANT_", "AWS_")):
            del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    # Kernels are compiled once for the run and all the processes it starts, and kept for the next.
    kernel_cache.choose(Path(__file__).resolve().parents[1] / ".pytest_cache")
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as `real` every test that reaches a real server through these fixtures."""
    servers = {f"{name}_server" for name in ("redis", "postgres", "s3")}
    servers |= {f"own_{name}" for name in ("redis", "postgres", "s3")}
    for item in items:
        if servers.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.real)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of an empty Redis database."""
    with redis_server.client() as client:
        client.flushall()
    return redis_server.url


@pytest.fixture
def own_redis() -> Iterator[RedisServer]:
    """A Redis that this test may stop, kill and start again."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def postgres_url(postgres_server: PostgresServer) -> str:
    """The address of one empty PostgreSQL database for the session."""
    return postgres_server.create_database()


@pytest.fixture
def postgres_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The address of an empty PostgreSQL database for this test alone."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that this test may stop, kill and start again."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture
def s3_bucket(s3_server: S3Server) -> Iterator[str]:
    """The name of an empty bucket for this test alone."""
    name = s3_server.make_bucket()
    yield name
    s3_server.drop_bucket(name)


@pytest.fixture
def own_s3() -> Iterator[S3Server]:
    """An S3 server that this test may stop, kill, freeze and start again."""
    with S3Server() as server:
        yield server
