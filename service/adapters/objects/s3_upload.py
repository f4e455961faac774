"""An S3 object being written, its parts sent in the background."""

from __future__ import annotations

import hashlib
from collections import deque
from concurrent.futures import Executor, Future, wait
from typing import TYPE_CHECKING, Any

import structlog

from service.adapters.objects.s3_errors import translated
from service.domain.catalog import ObjectInfo
from service.domain.errors import ArrowQuantError

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

PART_BYTES = 8 * 2**20
IN_FLIGHT = 2
# A store takes 10,000 parts. They double in size every 2,500, which is enough for 300 GB; until
# then all are equal, which some stores ask for.
PARTS_OF_ONE_SIZE = 2500

_log = structlog.get_logger(__name__)


def part_bytes(number: int) -> int:
    """Size of part `number`, from 0."""
    return PART_BYTES << (number // PARTS_OF_ONE_SIZE)


class S3Upload:
    """Holds one part being filled and at most IN_FLIGHT being sent: `write` waits for the oldest.

    An object smaller than one part is put at once when it is complete, so nothing is begun for it.
    """

    def __init__(
        self, client: S3Client, pool: Executor, key: str, target: Any, where: dict[str, Any]
    ) -> None:
        self._client, self._pool = client, pool
        self._key, self._target, self._where = key, target, where
        self._upload_id = ""
        self._sending: deque[Future[bytearray]] = deque()
        self._etags: dict[int, str] = {}
        self._parts = 0
        self._size = 0
        self._buffer = bytearray()
        self._filled = 0
        self._ended = False

    def write(self, data: bytes | memoryview) -> int:
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            if self._filled == part_bytes(self._parts):
                self._send()
            self._reserve(len(view) - done)
            count = min(len(view) - done, len(self._buffer) - self._filled)
            self._buffer[self._filled : self._filled + count] = view[done : done + count]
            self._filled += count
            done += count
        self._size += done
        return done

    def complete(self) -> ObjectInfo:
        if not self._upload_id:
            etag = self._put()
        else:
            if self._filled:
                self._send()
            while self._sending:
                self._sending.popleft().result()
            etag = self._finish()
        self._ended = True
        self._buffer = bytearray()
        return ObjectInfo(self._key, self._size, etag)

    def abort(self) -> None:
        for future in self._sending:
            future.cancel()
        wait(self._sending)
        self._sending.clear()
        self._buffer, self._filled = bytearray(), 0
        if not self._upload_id or self._ended:
            return
        try:
            with translated(self._where, writing=True):
                self._client.abort_multipart_upload(**self._target, UploadId=self._upload_id)
        except ArrowQuantError as error:
            if error.code != "multipart_failed":  # else it is gone already
                # It stays listed by `uploads`, for whoever cleans up next.
                _log.warning("upload_not_aborted", object=self._key, code=error.code)
                return
        self._ended = True

    def _reserve(self, wanted: int) -> None:
        """Let the buffer grow with small objects, and be a whole part for large ones."""
        limit = part_bytes(self._parts)
        needed = limit if self._parts else min(self._filled + wanted, limit)
        if needed <= len(self._buffer):
            return
        if self._filled == 0:
            self._buffer = bytearray(needed)
        else:
            grown = min(limit, 2 * needed)
            self._buffer.extend(bytes(grown - len(self._buffer)))

    def _send(self) -> None:
        """Hand the filled part to the background and go on with a buffer that is free."""
        if not self._upload_id:
            with translated(self._where, writing=True):
                begun = self._client.create_multipart_upload(**self._target)
                self._upload_id = begun["UploadId"]
        spare = bytearray()
        if len(self._sending) >= IN_FLIGHT:
            spare = self._sending.popleft().result()
        del self._buffer[self._filled :]
        self._parts += 1
        future = self._pool.submit(self._send_part, self._parts, self._buffer)
        self._sending.append(future)
        self._buffer, self._filled = spare, 0

    def _send_part(self, number: int, buffer: bytearray) -> bytearray:
        body: Any = buffer  # boto3 takes bytearrays, its stubs do not say so
        with translated(self._where, writing=True):
            part = self._client.upload_part(
                **self._target, UploadId=self._upload_id, PartNumber=number, Body=body
            )
            self._etags[number] = part["ETag"]
        return buffer

    def _put(self) -> str:
        del self._buffer[self._filled :]
        body: Any = self._buffer
        with translated(self._where, writing=True):
            done = self._client.put_object(**self._target, Body=body)
            return done["ETag"].strip('"')

    def _finish(self) -> str:
        parts: Any = [{"PartNumber": n, "ETag": tag} for n, tag in sorted(self._etags.items())]
        try:
            with translated(self._where, writing=True):
                done = self._client.complete_multipart_upload(
                    **self._target, UploadId=self._upload_id, MultipartUpload={"Parts": parts}
                )
                return done["ETag"].strip('"')
        except ArrowQuantError as error:
            if error.code != "multipart_failed":
                raise
            # Or the answer to our first try was lost, and it was done.
            etag = self._expected_etag()
            if etag is None or self._present_etag() != etag:
                raise
            return etag

    def _present_etag(self) -> str | None:
        try:
            with translated(self._where):
                return self._client.head_object(**self._target)["ETag"].strip('"')
        except ArrowQuantError:
            return None

    def _expected_etag(self) -> str | None:
        """What S3 makes of the parts' MD5s; None where the store's tags are something else."""
        try:
            digests = [bytes.fromhex(tag.strip('"')) for _, tag in sorted(self._etags.items())]
        except ValueError:
            return None
        joined = hashlib.md5(b"".join(digests), usedforsecurity=False).hexdigest()
        return f"{joined}-{len(digests)}"
