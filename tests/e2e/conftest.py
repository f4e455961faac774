"""Whole deployments, started for tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.deployment import ROOT, Api, Deployment, Worker, make_key, s3_connections
from tests.processes import HOST, Server, free_port
from tests.servers import S3Server


@pytest.fixture
def production_environment(
    tmp_path: Path,
    postgres_database: str,
    redis_url: str,
    s3_server: S3Server,
    s3_bucket: str,
) -> dict[str, str]:
    """PostgreSQL, Redis and S3, named as an operator names them."""
    return s3_connections(s3_server, {"models": s3_bucket, "artifacts": s3_bucket}) | {
        "ARROWQUANT_DATA_DIR": str(tmp_path / "data"),
        "ARROWQUANT_DATABASE_URL": postgres_database,
        "ARROWQUANT_BROKER_URL": redis_url,
        "ARROWQUANT_LOG_FORMAT": "json",
    }


@pytest.fixture
def deploy(production_environment: dict[str, str]) -> Iterator[Any]:
    """Start an API and any number of workers in the production form."""
    with ExitStack() as stack:

        def start(workers: int = 1, **more: str) -> Deployment:
            environment = production_environment | more
            key = make_key(environment)
            api = stack.enter_context(Api(environment))
            started = [stack.enter_context(Worker(environment)) for _ in range(workers)]
            return Deployment(api.url, key, started)

        yield start


class Standalone(Server):
    """`arrowquant serve`."""

    name = "standalone"

    def __init__(self, data: Path, environment: dict[str, str]) -> None:
        super().__init__()
        self.port = free_port()
        self._data, self._environment = data, environment

    def command(self) -> list[str]:
        program = str(Path(sys.executable).with_name("arrowquant"))
        return [program, "serve", "--port", str(self.port), "--data", str(self._data)]

    def environment(self) -> dict[str, str]:
        return self._environment | {"PYTHONPATH": str(ROOT)}

    def ping(self) -> None:
        import httpx

        httpx.get(f"http://{HOST}:{self.port}/readyz", timeout=5).raise_for_status()
        assert self.key  # printed once the API answers

    @property
    def key(self) -> str:
        found = re.search(r"ARROWQUANT_API_KEY=(aq_\S+)", self.output.read_text())
        assert found, self.output.read_text()
        return found[1]


@pytest.fixture
def standalone(tmp_path: Path) -> Iterator[Standalone]:
    """The embedded form, with its data in the test's folder."""
    environment = {"ARROWQUANT_LOG_FORMAT": "json"}
    with Standalone(tmp_path / "data", environment) as server:
        yield server


def run_cli(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command line as a person runs it."""
    program = str(Path(sys.executable).with_name("arrowquant"))
    return subprocess.run(
        [program, *arguments],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
