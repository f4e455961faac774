"""Fetching the files of an artifact: resumable, checked by SHA-256, the manifest last."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx

from arrowquant.errors import ApiError, ArrowQuantError
from arrowquant.http import errors
from arrowquant.http.calls import READ, Call, Open, Script, Sleep, Work, at
from arrowquant.http.core import Core, worth_retrying

PARALLEL: Final = 4
LAST: Final = "manifest.json"
_CHUNK: Final = 2**20
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)
_TIMEOUT: Final = httpx.Timeout(30.0, read=60.0)
_HEADERS: Final = {"Accept": "*/*", "Accept-Encoding": "identity"}

Progress = Callable[[int], object]  #: called with bytes since the last call; negative on a restart


@dataclass(frozen=True, slots=True)
class Download:
    """A file to fetch."""

    name: str
    path: str
    nbytes: int
    sha256: str

    @classmethod
    def of(cls, job_id: str, row: Mapping[str, Any]) -> Download:
        """From the server's list. A name that could leave the folder is refused."""
        name, nbytes, sha256 = row.get("name"), row.get("bytes"), row.get("sha256")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ApiError("invalid_response", f"the file name {name!r:.80} is not a plain name")
        if not isinstance(nbytes, int) or not isinstance(sha256, str):
            raise ApiError("invalid_response", "bytes or sha256 is missing", where={"file": name})
        path = at("/v1/jobs/{}/artifacts/{}/download", job_id, name)
        return cls(name, path, nbytes, sha256.lower())


def in_order(
    job_id: str, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[Download], list[Download]]:
    """The files that may be fetched side by side, and those that come after all of them."""
    files = [Download.of(job_id, row) for row in rows]
    if not files:
        raise ApiError("not_found", "the job has no artifact")
    return [f for f in files if f.name != LAST], [f for f in files if f.name == LAST]


def fetch(core: Core, file: Download, folder: Path, progress: Progress) -> Script[None]:
    """Fetch a file into a folder, going on where an earlier run stopped."""
    try:
        yield Work(lambda: folder.mkdir(parents=True, exist_ok=True))
        yield from _File(core, file, folder, progress).whole()
    except OSError as error:
        raise ArrowQuantError(
            "output_failed",
            f"the files cannot be written: {error.strerror or error}",
            "Check free space and permissions.",
            {"path": str(error.filename or folder)},
        ) from None


class _File:
    """A file that is being fetched."""

    def __init__(self, core: Core, file: Download, folder: Path, progress: Progress) -> None:
        self.core, self.file, self.progress = core, file, progress
        self.target = folder / file.name
        self.partial = folder / f".{file.name}.partial"
        self.counted = 0

    def whole(self) -> Script[None]:
        """Until it is there with the right digest."""
        if (yield Work(self._is_there)):
            self._count(self.file.nbytes)
            return
        failures, damaged = 0, False
        while True:
            before = self._have()
            try:
                found = yield from self._rest()
            except ApiError as error:
                failures = 1 if self._have() > before else failures + 1
                if not worth_retrying(error) or failures > self.core.policy.retries:
                    raise
                self._count(-self.counted)
                yield Sleep(self.core.policy.wait(failures, error))
                continue
            if found == self.file.sha256:
                self.partial.replace(self.target)
                return
            self.partial.unlink(missing_ok=True)
            if damaged:
                raise ApiError(
                    "digest_mismatch",
                    f"the SHA-256 of what arrived is {found}, announced was {self.file.sha256}",
                    "The stored artifact is damaged, or something on the way alters it.",
                    {"file": self.file.name},
                )
            # What an earlier run left may have been another file: once more, from the start.
            damaged = True
            self._count(-self.counted)

    def _rest(self) -> Script[str]:
        """Fetch what is missing of the partial file; the SHA-256 of all of it."""
        have = self._have()
        if have > self.file.nbytes:
            self.partial.unlink()
            have = 0
        digest = (yield Work(lambda: _digest(self.partial))) if have else hashlib.sha256()
        self._count(have)
        if have == self.file.nbytes and have:
            return str(digest.hexdigest())
        headers = _HEADERS | ({"Range": f"bytes={have}-"} if have else {})
        call = Call[None]("GET", self.file.path, headers=headers, answer="text")
        response = yield Open(self.core.request(call, _TIMEOUT, follow_redirects=True))
        if not response.is_success:
            raise errors.from_response(response)
        resumed = response.status_code == 206
        if resumed and not _begins_at(response, have):
            raise ApiError("invalid_response", "not the range that was asked for")
        if not resumed:
            self._count(-have)
            have, digest = 0, hashlib.sha256()
        with self.partial.open("ab" if resumed else "wb") as stream:
            have = yield from self._pour(stream, have, digest)
        if have < self.file.nbytes:
            lost = self.file.nbytes - have
            raise ApiError("server_unreachable", f"the connection ended {lost} bytes early")
        return str(digest.hexdigest())

    def _pour(self, stream: BinaryIO, have: int, digest: Any) -> Script[int]:
        """Write what comes; how many bytes of the file are there then."""
        while piece := (yield READ):
            have += len(piece)
            if have > self.file.nbytes:
                raise ApiError("invalid_response", "more bytes than announced")
            stream.write(piece)
            digest.update(piece)
            self._count(len(piece))
        return have

    def _have(self) -> int:
        return self.partial.stat().st_size if self.partial.exists() else 0

    def _is_there(self) -> bool:
        same_size = self.target.is_file() and self.target.stat().st_size == self.file.nbytes
        return same_size and bool(_digest(self.target).hexdigest() == self.file.sha256)

    def _count(self, size: int) -> None:
        self.counted += size
        self.progress(size)


def _begins_at(response: httpx.Response, start: int) -> bool:
    return bool(response.headers.get("content-range", "").startswith(f"bytes {start}-"))


def _digest(path: Path) -> Any:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest
