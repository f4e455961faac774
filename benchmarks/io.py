"""Our stores against the barest way to move the same bytes, in the same rounds.

folder   readinto a buffer used again / preadv;  an upload / write, fsync, rename
s3       the same over HTTP from a server on this machine: ranges into a buffer over four
         connections; a multipart upload of the same parts. The bare mover signs beforehand and
         uses http.client. Client, server and neighbours share the processors here, so
         processor seconds of the client are kept beside wall time.

    python -m benchmarks.io [--s3]
"""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from benchmarks.context import Context, scratch
from benchmarks.results import Result
from benchmarks.s3_mover import CONNECTIONS, fill
from benchmarks.timing import interleave
from service.adapters.objects.connections import open_connection
from service.adapters.objects.folder import FolderStore
from service.domain.ports import ObjectStore
from service.settings import S3Connection

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

BLOCK = 8 * 2**20
Work = Callable[[], None]


class _Timed:
    """Wall and processor seconds of each run."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.cpu: list[float] = []

    def __call__(self) -> float:
        wall, cpu = time.perf_counter(), time.process_time()
        self._work()
        self.cpu.append(time.process_time() - cpu)
        return time.perf_counter() - wall


def run(context: Context) -> Result:
    """Folder, then S3."""
    result = context.result("io")
    nbytes = (8 if context.quick else 32) * BLOCK
    with scratch("io") as folder:
        _folder(context, result, folder, nbytes)
    if context.s3:
        try:
            _s3(context, result, nbytes)
        except Exception as error:  # noqa: BLE001 - kept and printed
            result.fail("s3", f"{type(error).__name__}: {error}")
    return result


def _race(context: Context, result: Result, name: str, nbytes: int, ours: Work, bare: Work) -> None:
    runs = {"ours": _Timed(ours), "move": _Timed(bare)}
    done = interleave(runs, context.rounds)
    for contestant, error in done.errors.items():
        result.fail(f"{name}: {contestant}", error)
    store, _, direction = name.partition(" ")
    result.add(
        name,
        {"store": store, "direction": direction},
        bytes=nbytes,
        seconds=done.seconds,
        cpu_seconds={key: timed.cpu[1:] for key, timed in runs.items()},
    )
    print(f"  {name}", flush=True)


def _read_all(store: ObjectStore, key: str, nbytes: int, buffer: memoryview) -> None:
    etag = store.stat(key).etag
    for start in range(0, nbytes, BLOCK):
        store.readinto(key, start, buffer, etag)


def _write_all(store: ObjectStore, key: str, nbytes: int, buffer: memoryview) -> None:
    upload = store.create(key)
    try:
        for _ in range(0, nbytes, BLOCK):
            upload.write(buffer)
        upload.complete()
    except BaseException:
        upload.abort()
        raise


def _folder(context: Context, result: Result, folder: Path, nbytes: int) -> None:
    store, buffer = FolderStore(folder), memoryview(bytearray(os.urandom(BLOCK)))
    source, target = folder / "source", folder / "bare"
    _write_all(store, "source", nbytes, buffer)

    def read() -> None:
        fd = os.open(source, os.O_RDONLY)
        for start in range(0, nbytes, BLOCK):
            os.preadv(fd, [buffer], start)
        os.close(fd)

    def write() -> None:
        with target.with_suffix(".new").open("wb", buffering=0) as file:
            for _ in range(0, nbytes, BLOCK):
                file.write(buffer)
            os.fsync(file.fileno())
        target.with_suffix(".new").rename(target)

    def ours_read() -> None:
        _read_all(store, "source", nbytes, buffer)

    def ours_write() -> None:
        _write_all(store, "ours", nbytes, buffer)

    _race(context, result, "folder read", nbytes, ours_read, read)
    _race(context, result, "folder write", nbytes, ours_write, write)


def _s3(context: Context, result: Result, nbytes: int) -> None:
    # The tests' server: real, and started and stopped here.
    from tests.servers import S3Server

    with S3Server() as server:
        bucket = server.make_bucket()
        os.environ |= {"BENCH_S3_KEY": server.access_key, "BENCH_S3_SECRET": server.secret_key}
        connection = S3Connection(
            kind="s3",
            bucket=bucket,
            endpoint_url=server.endpoint_url,
            region=server.region,
            access_key_id_env="BENCH_S3_KEY",
            secret_access_key_env="BENCH_S3_SECRET",
        )
        store, buffer = open_connection(connection), memoryview(bytearray(os.urandom(BLOCK)))
        _write_all(store, "source", nbytes, buffer)
        client = server.client()
        bare = _Bare(client, bucket, nbytes)

        def ours_read() -> None:
            _read_all(store, "source", nbytes, buffer)

        def ours_write() -> None:
            _write_all(store, "ours", nbytes, buffer)

        _race(context, result, "s3 read", nbytes, ours_read, lambda: bare.read("source", buffer))
        _race(context, result, "s3 write", nbytes, ours_write, lambda: bare.write("bare", buffer))
        client.close()


class _Bare:
    """Presigned requests over http.client, on as many connections as our own store uses."""

    def __init__(self, client: S3Client, bucket: str, nbytes: int) -> None:
        self._client, self._bucket, self._nbytes = client, bucket, nbytes

    def _sign(self, operation: str, **parameters: Any) -> str:
        url = self._client.generate_presigned_url(
            operation, Params={"Bucket": self._bucket, **parameters}
        )
        parts = urlsplit(url)
        self._host = parts.netloc
        return f"{parts.path}?{parts.query}"

    def read(self, key: str, buffer: memoryview) -> None:
        path = self._sign("get_object", Key=key)
        share = BLOCK // CONNECTIONS

        def work(number: int) -> None:
            connection = http.client.HTTPConnection(self._host)
            for first in range(0, self._nbytes, BLOCK):
                start = first + number * share
                headers = {"Range": f"bytes={start}-{start + share - 1}"}
                connection.request("GET", path, headers=headers)
                answer = connection.getresponse()
                fill(answer, buffer[number * share : (number + 1) * share])
            connection.close()

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(work, range(CONNECTIONS)))

    def write(self, key: str, buffer: memoryview) -> None:
        made = self._client.create_multipart_upload(Bucket=self._bucket, Key=key)
        upload = made["UploadId"]
        numbers = range(1, self._nbytes // BLOCK + 1)
        paths = [
            self._sign("upload_part", Key=key, UploadId=upload, PartNumber=number)
            for number in numbers
        ]

        def work(turn: int) -> list[tuple[int, str]]:
            connection = http.client.HTTPConnection(self._host)
            done = []
            for number in numbers[turn::CONNECTIONS]:
                connection.request("PUT", paths[number - 1], body=buffer)
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    raise OSError(f"the server answered {answer.status}")
                done.append((number, answer.headers["ETag"]))
            connection.close()
            return done

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            parts = sorted(part for found in pool.map(work, range(CONNECTIONS)) for part in found)
        self._client.complete_multipart_upload(
            Bucket=self._bucket,
            Key=key,
            UploadId=upload,
            MultipartUpload={"Parts": [{"PartNumber": n, "ETag": etag} for n, etag in parts]},
        )


if __name__ == "__main__":
    from benchmarks.__main__ import alone

    alone("io")
