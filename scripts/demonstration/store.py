"""An S3 server on this machine: SeaweedFS in one process, with two buckets."""

from __future__ import annotations

import secrets
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from scripts.demonstration.processes import HOST, Failed, Program, free_port

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

REGION = "us-east-1"
MODELS, ARTIFACTS = "models", "artifacts"
BUCKETS = (MODELS, ARTIFACTS)
# Its parts also talk over sockets here, whatever it is told, and may leave them behind.
SOCKETS = Path("/tmp")
GRPC = 10_000  # each of its HTTP ports has a second one, this much above


class Store:
    """The server's addresses and keys. `program` runs it."""

    def __init__(self, folder: Path) -> None:
        self._ports = {
            part: free_port((0, GRPC)) for part in ("master", "volume", "filer", "s3", "admin")
        }
        self.access_key = "AQ" + secrets.token_hex(9).upper()
        self.secret_key = secrets.token_hex(20)
        self.url = f"http://{HOST}:{self._ports['s3']}"
        self.folder = folder
        self._client: S3Client | None = None

    def program(self, logs: Path) -> Program:
        """The process, not yet started, and killed at the end. Ready once the buckets are there."""
        weed = Path(sys.executable).with_name("weed")
        if not weed.exists():
            raise Failed(f"{weed} is not there: run `make setup`")
        self.folder.mkdir()
        command = [
            *(str(weed), "mini", f"-dir={self.folder}", f"-ip={HOST}", f"-ip.bind={HOST}"),
            *(f"-{part}.port={port}" for part, port in self._ports.items()),
            *("-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"),
            *(f"-s3.localSocket={self.folder}/s3.sock", f"-filer.localSocket={self.folder}/f.sock"),
            "-master.telemetry=false",  # on by default
        ]
        env = {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "GOMEMLIMIT": "512MiB",
            "HOME": str(self.folder),
        }
        return Program("store", command, logs, env, self._make_buckets, signal.SIGKILL)

    def upload(self, file: Path, bucket: str, key: str) -> None:
        """Put a file, in parts where it is large."""
        self.client.upload_file(str(file), bucket, key)

    def discard(self) -> None:
        """Let go of connections, of what was stored, and of the sockets that the server forgot."""
        if self._client is not None:
            self._client.close()
        shutil.rmtree(self.folder, ignore_errors=True)
        for part, port in self._ports.items():
            (SOCKETS / f"seaweedfs-{part}-grpc-{port + GRPC}.sock").unlink(missing_ok=True)

    @property
    def client(self) -> S3Client:
        """A boto3 client with the server's own keys."""
        if self._client is None:
            import boto3
            from botocore.config import Config

            self._client = boto3.client(
                "s3",
                endpoint_url=self.url,
                aws_access_key_id=self.access_key,
                aws_secret_access_key=self.secret_key,
                region_name=REGION,
                config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
            )
        return self._client

    def _make_buckets(self) -> None:
        there = {bucket["Name"] for bucket in self.client.list_buckets()["Buckets"]}
        for name in BUCKETS:
            if name not in there:
                self.client.create_bucket(Bucket=name)
