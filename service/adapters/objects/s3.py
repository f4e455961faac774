"""S3, and what speaks its protocol.

boto3 retries what fails before the first byte of an answer; a body that breaks off is continued
here, from where it broke. Reads name the ETag, so that a changed object is an error, never a mix.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from service.adapters.objects import keys
from service.adapters.objects.pace import Pace
from service.adapters.objects.process import ContextPool, PerProcess
from service.adapters.objects.s3_errors import changed, translated, unavailable
from service.adapters.objects.s3_signed import CONTENT_RANGE, SignedReads
from service.adapters.objects.s3_upload import S3Upload
from service.domain.catalog import ObjectInfo
from service.domain.errors import ArrowQuantError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

# Of one process to one store: into as many ranges a read may be cut, for each of the reads that are
# under way at once.
RANGES = 8
FIRST_RANGES = 4
READS_AT_ONCE = 2
CONNECTIONS = READS_AT_ONCE * RANGES
WRITE_CONNECTIONS = 4
STREAM_CHUNK = 8 * 2**20
BODY_ATTEMPTS = 4
MAX_UPLOADS = 100_000


class S3Store:
    """A bucket, or a prefix of it. `make_client` is called once in every process that uses it."""

    def __init__(
        self,
        make_client: Callable[[], S3Client],
        bucket: str,
        prefix: str = "",
        name: str = "",
        *,
        within: Sequence[str] = ("",),
    ) -> None:
        """within: what keys must begin with, one of these."""
        self._bucket, self._prefix, self._name = bucket, prefix, name
        self._within = tuple(within)
        self._clients = PerProcess(make_client)
        self._signed = PerProcess(lambda: SignedReads(self._clients.get(), bucket))
        self._pace = Pace(RANGES, FIRST_RANGES)
        self._readers = PerProcess(lambda: ContextPool(CONNECTIONS - READS_AT_ONCE, "s3-read"))
        self._writers = PerProcess(lambda: ContextPool(WRITE_CONNECTIONS, "s3-write"))

    @property
    def reads_at_once(self) -> int:
        return READS_AT_ONCE

    def __repr__(self) -> str:
        return f"S3Store({self._bucket!r}, {self._prefix!r})"

    def close(self) -> None:
        """Close this process's sockets and end its threads; the next call opens new ones."""
        for pool in (self._readers.pop(), self._writers.pop()):
            if pool is not None:
                pool.shutdown(wait=True, cancel_futures=True)
        self._signed.pop()
        client = self._clients.pop()
        if client is not None:
            client.close()

    def stat(self, key: str) -> ObjectInfo:
        full = self._full(key)
        with translated(self._where(key)):
            head = self._clients.get().head_object(Bucket=self._bucket, Key=full)
            return ObjectInfo(key, head["ContentLength"], head["ETag"].strip('"'))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """In the server's order: S3 sorts by key, some others by folder."""
        full = self._prefix + self._granted(keys.check_prefix(prefix))
        with translated(self._where(prefix)):
            pages = self._clients.get().get_paginator("list_objects_v2")
            for page in pages.paginate(Bucket=self._bucket, Prefix=full):
                for item in page.get("Contents", []):
                    key = item["Key"][len(self._prefix) :]
                    if key and not key.endswith("/"):
                        yield ObjectInfo(key, item["Size"], item["ETag"].strip('"'))

    def read(self, key: str, start: int, stop: int, etag: str | None = None) -> bytes:
        buffer = bytearray(stop - start)
        self._fill(key, start, memoryview(buffer), etag)
        return bytes(buffer)

    def readinto(self, key: str, start: int, buffer: memoryview, etag: str) -> None:
        buffer = buffer.cast("B")
        parts, began = self._pace.ranges(len(buffer)), time.monotonic()
        borders = [len(buffer) * number // parts for number in range(parts + 1)]
        jobs = [(start + begin, buffer[begin:end]) for begin, end in pairwise(borders)]
        running: list[Future[None]] = [
            self._readers.get().submit(self._fill, key, offset, piece, etag)
            for offset, piece in jobs[1:]
        ]
        try:
            self._fill(key, *jobs[0], etag)
        finally:
            wait(running)  # nobody may write to the caller's buffer after this call
        for future in running:
            future.result()
        self._pace.took(parts, len(buffer), time.monotonic() - began)

    def put(self, key: str, data: bytes, *, if_absent: bool = False) -> ObjectInfo:
        from botocore.exceptions import ClientError

        full = self._full(key)
        condition: Any = {"IfNoneMatch": "*"} if if_absent else {}
        with translated(self._where(key), writing=True):
            client = self._clients.get()
            try:
                done = client.put_object(Bucket=self._bucket, Key=full, Body=data, **condition)
            except ClientError as error:
                # An answer may be lost and the request repeated: then it is our own object.
                if not (_repeated(error) and if_absent and self._holds(key, data)):
                    raise
                return self.stat(key)
            return ObjectInfo(key, len(data), done["ETag"].strip('"'))

    def create(self, key: str) -> S3Upload:
        return S3Upload(
            self._clients.get(), self._writers.get(), key, self._target(key), self._where(key)
        )

    def uploads(self, prefix: str) -> Sequence[str]:
        return sorted(key for key, _ in self._unfinished(prefix))

    def abort_uploads(self, prefix: str) -> int:
        found = self._unfinished(prefix)
        client = self._clients.get()
        for key, upload_id in found:
            with translated(self._where(key), writing=True):
                try:
                    target = self._target(key)
                    client.abort_multipart_upload(**target, UploadId=upload_id)
                except client.exceptions.NoSuchUpload:
                    pass  # it ended meanwhile
        return len(found)

    def delete(self, key: str) -> None:
        with translated(self._where(key), writing=True):
            self._clients.get().delete_object(Bucket=self._bucket, Key=self._full(key))

    def presign(self, key: str, seconds: int) -> str | None:
        with translated(self._where(key)):
            return self._clients.get().generate_presigned_url(
                "get_object",
                Params={"Bucket": self._bucket, "Key": self._full(key)},
                ExpiresIn=seconds,
            )

    def stream(self, key: str, etag: str | None = None) -> Iterator[bytes]:
        info = self.stat(key)
        if etag is not None and info.etag != etag:
            raise changed("its ETag differs", self._where(key))
        for start in range(0, info.size, STREAM_CHUNK):
            yield self.read(key, start, min(start + STREAM_CHUNK, info.size), info.etag)

    def _where(self, key: str) -> dict[str, Any]:
        named = {"connection": self._name} if self._name else {}
        return named | {"object": key, "bucket": self._bucket}

    def _full(self, key: str) -> str:
        return self._prefix + self._granted(keys.check_key(key))

    def _granted(self, key: str) -> str:
        if not key.startswith(self._within):
            raise keys.refused(key, "the key lies outside the prefixes of the connection")
        return key

    def _target(self, key: str) -> Any:
        return {"Bucket": self._bucket, "Key": self._full(key)}

    def _fill(self, key: str, start: int, buffer: memoryview, etag: str | None) -> None:
        """Fill the buffer, going on where a body broke off."""
        filled = 0
        for attempt in range(BODY_ATTEMPTS):
            if filled == len(buffer):
                return
            if attempt:
                time.sleep(0.1 * 2**attempt)
            with translated(self._where(key)):
                filled += self._get(key, start + filled, buffer[filled:], etag)
        if filled < len(buffer):
            what = f"the body broke off {BODY_ATTEMPTS} times"
            raise unavailable(what, self._where(key))

    def _get(self, key: str, start: int, buffer: memoryview, etag: str | None) -> int:
        """One ranged GET into the buffer; how many bytes came."""
        stop = start + len(buffer)
        body = self._signed.get().open(self._full(key), start, stop, etag)
        if body is None:
            body = self._ask(key, start, stop, etag)
        try:
            return _receive(body, buffer)
        finally:
            body.close()

    def _ask(self, key: str, start: int, stop: int, etag: str | None) -> Any:
        """The body of a range as boto3 gets it: with retries, and errors that say what is wrong."""
        condition: Any = {"IfMatch": f'"{etag}"'} if etag is not None else {}
        response = self._clients.get().get_object(
            Bucket=self._bucket,
            Key=self._full(key),
            Range=f"bytes={start}-{stop - 1}",
            **condition,
        )
        body: Any = response["Body"]
        try:
            self._check_answer(key, start, stop, etag, response)
        except BaseException:
            body.close()
            raise
        return body

    def _check_answer(self, key: str, start: int, stop: int, etag: str | None, answer: Any) -> None:
        where = self._where(key)
        if etag is not None and answer["ETag"].strip('"') != etag:
            raise changed("its ETag differs", where)
        match = CONTENT_RANGE.fullmatch(answer.get("ContentRange", ""))
        status = answer["ResponseMetadata"]["HTTPStatusCode"]
        if status != 206 or match is None or int(match[1]) != start:
            raise unavailable("it does not answer ranged requests as S3 does", where)
        if int(match[2]) != stop - 1:
            raise changed("it is shorter than it was", where)

    def _holds(self, key: str, data: bytes) -> bool:
        try:
            return b"".join(self.stream(key)) == data
        except ArrowQuantError:
            return False

    def _unfinished(self, prefix: str) -> Sequence[tuple[str, str]]:
        full = self._prefix + self._granted(keys.check_prefix(prefix))
        found: list[tuple[str, str]] = []
        with translated(self._where(prefix), writing=True):
            pages = self._clients.get().get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=full):
                found += [
                    (item["Key"][len(self._prefix) :], item["UploadId"])
                    for item in page.get("Uploads", [])
                    if item["Key"].startswith(full)
                ]
                if len(found) > MAX_UPLOADS:
                    break  # a list without end; what is left is for the next time
        return found


def _receive(body: Any, buffer: memoryview) -> int:
    """Read a body into the buffer until it is full or the body ends, well or badly."""
    from urllib3.exceptions import HTTPError

    # The response of http.client reads from the socket straight into our memory; the layers above
    # it would copy every byte twice more.
    raw = getattr(body, "_raw_stream", body)
    reader = getattr(raw, "_fp", None)
    if not isinstance(reader, http.client.HTTPResponse):
        reader = raw
    filled = 0
    try:
        while filled < len(buffer):
            count = reader.readinto(buffer[filled:])
            if not count:
                break
            filled += count
    except (OSError, HTTPError, http.client.HTTPException):
        return filled
    if filled == len(buffer):
        raw.release_conn()  # the connection is clean: keep it for the next request
    return filled


def _repeated(error: Any) -> bool:
    metadata = error.response.get("ResponseMetadata", {})
    return bool(metadata.get("HTTPStatusCode") == 412 and metadata.get("RetryAttempts", 0))
