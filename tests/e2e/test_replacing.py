"""An artifact is replaced under the eyes of its readers, by a worker that is killed on the way."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import weights
from tests.e2e.deployment import Deployment, Worker
from tests.servers import S3Server

# Longer than a reader takes from the manifest to the last part, also on a busy machine.
KEEP_S = 8
PREFIX = "out/"


class Reader:
    """Reads what the manifest lists, over and over, by S3 alone."""

    def __init__(self, s3: Any, bucket: str) -> None:
        self._s3, self._bucket = s3, bucket
        self.seen: list[dict[str, str]] = []
        self.errors: list[Exception] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def artifact(self) -> dict[str, str]:
        """Digest by name, each checked against the manifest."""
        data = self._read("manifest.json")
        manifest = json.loads(data)
        listed = {file["name"]: file for file in (manifest["report"], *manifest["parts"])}
        for name, file in listed.items():
            part = self._read(name)
            assert len(part) == file["bytes"], name
            assert hashlib.sha256(part).hexdigest() == file["sha256"], name
        digests = {name: str(file["sha256"]) for name, file in listed.items()}
        return digests | {"manifest.json": hashlib.sha256(data).hexdigest()}

    def names(self) -> set[str]:
        """Everything below the prefix."""
        found = self._s3.list_objects_v2(Bucket=self._bucket, Prefix=PREFIX).get("Contents", [])
        return {entry["Key"].removeprefix(PREFIX) for entry in found}

    def _read(self, name: str) -> bytes:
        body = self._s3.get_object(Bucket=self._bucket, Key=PREFIX + name)["Body"]
        return bytes(body.read())

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                found = self.artifact()
            except Exception as error:
                self.errors.append(error)
                return
            if not self.seen or self.seen[-1] != found:
                self.seen.append(found)
            self._stop.wait(0.02)


@pytest.fixture
def uploaded(s3_server: S3Server, s3_bucket: str, tmp_path: Path) -> None:
    """32 MiB in two units."""
    one = weights.gaussian((2048, 4096), 1)
    tensors = {f"blocks.{n}.weight": weights.bfloat16(one * (1 + n)) for n in range(2)}
    path = weights.write(tmp_path / "model.safetensors", tensors)
    s3_server.client().upload_file(str(path), s3_bucket, "in/model.safetensors")


def _kill_in(worker: Worker, unit: str, than: int) -> None:
    """As soon as the worker has begun another unit of this kind."""
    end = time.monotonic() + 60
    while worker.events(unit).count("unit_claimed") <= than:
        assert time.monotonic() < end, worker.output.read_text()[-3000:]
        time.sleep(0.005)
    worker.kill()


@pytest.mark.usefixtures("uploaded")
def test_readers_see_the_old_or_the_new_though_the_worker_is_killed(
    deploy: Callable[..., Deployment], s3_server: S3Server, s3_bucket: str
) -> None:
    deployment = deploy(ARROWQUANT_REPLACED_KEEP_S=str(KEEP_S))
    [worker] = deployment.workers
    body: dict[str, Any] = {
        "source": {"connection": "models", "prefix": "in/"},
        "output": {"connection": "artifacts", "prefix": PREFIX},
        "recipe": {"bits": 4, "method": "minmax", "fallback": {"enabled": False}},
        "limits": {"threads": 1},
    }
    s3 = s3_server.client()
    with deployment.client() as client:
        assert client.wait(client.submit(body)["id"], timeout=120)["state"] == "SUCCEEDED"
        reader = Reader(s3, s3_bucket)
        old = reader.artifact()
        begun = worker.events("quantize:").count("unit_claimed")
        published = worker.events("publish:").count("unit_claimed")
        again = {"output": body["output"] | {"if_exists": "replace"}}
        with reader:
            job = client.submit(body | again | {"recipe": body["recipe"] | {"bits": 2}})
            _kill_in(worker, "quantize:", begun)
            assert client.get(job["id"])["state"] == "RUNNING"
            worker.start()
            _kill_in(worker, "publish:", published)
            worker.start()
            assert client.wait(job["id"], timeout=120)["state"] == "SUCCEEDED"
            new = reader.artifact()
            end = time.monotonic() + 60
            while reader.names() != new.keys():  # what was replaced goes, and nothing else
                assert time.monotonic() < end, reader.names()
                time.sleep(0.1)
    assert reader.errors == []
    assert reader.seen == [old, new]
    assert set(old) & set(new) == {"manifest.json"}
    assert reader.artifact() == new
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=s3_bucket)
