"""The product as it is deployed: API and workers as processes, against real servers or none."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

import arrowquant
from tests.processes import HOST, Server, free_port
from tests.servers import S3Server

ROOT = Path(__file__).resolve().parents[2]
_EVENT = re.compile(r'"event": ?"(\w+)"')


class Api(Server):
    """`python -m service`."""

    name = "api"

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__()
        self.port = free_port()
        self._environment = dict(environment)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "service"]

    def environment(self) -> Mapping[str, str]:
        return self._environment | {"ARROWQUANT_PORT": str(self.port), "PYTHONPATH": str(ROOT)}

    def ping(self) -> None:
        httpx.get(f"{self.url}/readyz", timeout=5).raise_for_status()


class Worker(Server):
    """A Celery worker with one pool process."""

    name = "worker"

    def __init__(self, environment: Mapping[str, str]) -> None:
        super().__init__()
        self._environment = dict(environment)
        self._starts = 0

    def command(self) -> list[str]:
        self._starts += 1
        program = [sys.executable, "-m", "celery", "-A", "workers.celery_app", "worker"]
        name = f"{self.directory.name}@test"
        return [*program, "--pool", "prefork", "--concurrency", "1", "--hostname", name]

    def environment(self) -> Mapping[str, str]:
        return self._environment | {"PYTHONPATH": str(ROOT)}

    def ping(self) -> None:
        if self.events().count("workshop_open") < self._starts:
            raise RuntimeError("not ready yet")

    def pool(self) -> list[psutil.Process]:
        """The pool's processes."""
        assert self._process is not None
        return psutil.Process(self._process.pid).children()

    def lines(self) -> list[dict[str, Any]]:
        """The log so far, over all starts; what was cut off by a kill is left out."""
        lines = []
        for line in self.output.read_text(errors="replace").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
        return [line for line in lines if isinstance(line, dict)]

    def events(self, unit: str = "") -> list[str]:
        """Names of the log's events, all or those of one kind of unit."""
        return [
            str(line.get("event"))
            for line in self.lines()
            if str(line.get("unit", "")).startswith(unit)
        ]

    def wait_for_more(self, event: str, than: int, seconds: float = 60) -> None:
        """Until the log has more of an event than it had."""
        end = time.monotonic() + seconds
        while self.events().count(event) <= than:
            if time.monotonic() > end:
                raise TimeoutError(f"no {event} in {seconds} s\n{self.output.read_text()[-3000:]}")
            time.sleep(0.005)


@dataclass
class Deployment:
    """A running form of the product."""

    url: str
    key: str
    workers: list[Worker] = field(default_factory=list)

    def client(self) -> arrowquant.Client:
        return arrowquant.Client(self.url, self.key)


def s3_connections(server: S3Server, buckets: Mapping[str, str]) -> dict[str, str]:
    """Environment that names buckets as connections, credentials by reference."""
    connections = {
        name: {
            "kind": "s3",
            "bucket": bucket,
            "endpoint_url": server.endpoint_url,
            "region": "us-east-1",
            "access_key_id_env": "TEST_S3_KEY",
            "secret_access_key_env": "TEST_S3_SECRET",
        }
        for name, bucket in buckets.items()
    }
    return {
        "ARROWQUANT_CONNECTIONS": json.dumps(connections),
        "TEST_S3_KEY": server.access_key,
        "TEST_S3_SECRET": server.secret_key,
    }


def make_key(environment: Mapping[str, str]) -> str:
    """An API key, made as an operator makes one."""
    made = subprocess.run(
        [sys.executable, "-m", "service", "keys", "create", "--tenant", "t", "--name", "test"],
        env={**os.environ, **environment},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return made.stdout.strip()
