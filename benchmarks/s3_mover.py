"""A bare mover of S3: the least that a job from bucket to bucket must do.

Addresses are signed beforehand and nothing is checked. Ranges come over several connections, each with
a block of its own; parts go out over as many more, as soon as their share of the source has come.
"""

from __future__ import annotations

import http.client
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from benchmarks.mover import BLOCK

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

CONNECTIONS = 4


def fill(answer: http.client.HTTPResponse, view: memoryview) -> None:
    """Receive a body that is as long as the view, and its end."""
    while len(view):
        count = answer.readinto(view)
        if not count:
            raise OSError("the answer broke off")
        view = view[count:]
    answer.read()


def sign(client: S3Client, operation: str, **parameters: Any) -> tuple[str, str]:
    """The host and the rest of an address."""
    url = urlsplit(client.generate_presigned_url(operation, Params=parameters, ExpiresIn=36000))
    return url.netloc, f"{url.path}?{url.query}"


class Mover:
    """Reads all of one object, writes so many bytes to another."""

    def __init__(
        self, client: S3Client, source: tuple[str, str], target: tuple[str, str], written: int
    ) -> None:
        """source, target: bucket and key"""
        self._client = client
        self._source, self._target = source, target
        head = client.head_object(Bucket=source[0], Key=source[1])
        self._total, self._written = head["ContentLength"], written
        self._parts = -(-written // BLOCK)
        self._read = self._begun = self._sent = 0
        self._failed: BaseException | None = None
        self._moved = threading.Condition()

    def run(self) -> int:
        """Move everything; bytes read."""
        bucket, key = self._target
        made = self._client.create_multipart_upload(Bucket=bucket, Key=key)
        self._upload = made["UploadId"]
        with ThreadPoolExecutor(2 * CONNECTIONS) as pool:
            readers = [pool.submit(self._guarded, self._reads) for _ in range(CONNECTIONS)]
            writers = [pool.submit(self._guarded, self._writes) for _ in range(CONNECTIONS)]
            for reader in readers:
                reader.result()
            parts = sorted(part for writer in writers for part in writer.result() or ())
        self._client.complete_multipart_upload(
            Bucket=bucket,
            Key=key,
            UploadId=self._upload,
            MultipartUpload={"Parts": [{"PartNumber": n, "ETag": etag} for n, etag in parts]},
        )
        return self._read

    def _guarded(self, work: Any) -> Any:
        """Who fails frees those that wait for it."""
        try:
            return work()
        except BaseException as error:
            with self._moved:
                self._failed = error
                self._moved.notify_all()
            raise

    def _reads(self) -> None:
        host, path = sign(self._client, "get_object", Bucket=self._source[0], Key=self._source[1])
        connection, buffer = http.client.HTTPConnection(host), memoryview(bytearray(BLOCK))
        while (start := self._next_block()) < self._total and self._failed is None:
            stop = min(start + BLOCK, self._total)
            connection.request("GET", path, headers={"Range": f"bytes={start}-{stop - 1}"})
            fill(connection.getresponse(), buffer[: stop - start])
            with self._moved:
                self._read += stop - start
                self._moved.notify_all()
        connection.close()

    def _next_block(self) -> int:
        with self._moved:
            self._begun += BLOCK
            return self._begun - BLOCK

    def _writes(self) -> list[tuple[int, str]]:
        bucket, key = self._target
        body, done = memoryview(bytearray(BLOCK)), []
        connection: http.client.HTTPConnection | None = None
        while (number := self._next_part()) is not None:
            host, path = sign(
                self._client, "upload_part", Bucket=bucket, Key=key,
                UploadId=self._upload, PartNumber=number,
            )  # fmt: skip
            connection = connection or http.client.HTTPConnection(host)
            nbytes = min(BLOCK, self._written - (number - 1) * BLOCK)
            connection.request("PUT", path, body=body[:nbytes])
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise OSError(f"the server answered {answer.status}")
            done.append((number, answer.headers["ETag"]))
        if connection is not None:
            connection.close()
        return done

    def _next_part(self) -> int | None:
        """The number of a part whose turn has come, from 1; None after the last."""
        with self._moved:
            if self._sent == self._parts:
                return None
            self._sent += 1
            number = self._sent
            stop = min(number * BLOCK, self._written)
            self._moved.wait_for(
                lambda: self._failed is not None or self._written * self._read >= stop * self._total
            )
            return number if self._failed is None else None
