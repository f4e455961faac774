"""Fetching the files of an artifact: in parallel, resumable, checked by SHA-256."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from arrowquant.errors import ApiError, ArrowQuantError
from arrowquant.http.transport import Transport, worth_retrying

PARALLEL: Final = 4
_CHUNK: Final = 2**20
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}", re.ASCII)
_LAST: Final = "manifest.json"

Progress = Callable[[int], None]  #: called with bytes since the last call; negative on a restart


@dataclass(frozen=True, slots=True)
class Download:
    """A file to fetch."""

    name: str
    path: str
    nbytes: int
    sha256: str

    @classmethod
    def of(cls, row: Mapping[str, Any], path: str) -> Download:
        """From the server's list. A name that could leave the folder is refused."""
        name, nbytes, sha256 = row.get("name"), row.get("bytes"), row.get("sha256")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ApiError("invalid_response", f"the file name {name!r:.80} is not a plain name")
        if not isinstance(nbytes, int) or not isinstance(sha256, str):
            raise ApiError("invalid_response", "bytes or sha256 is missing", where={"file": name})
        return cls(name, path, nbytes, sha256.lower())


def fetch_all(
    transport: Transport, files: list[Download], folder: Path, progress: Progress
) -> None:
    """Fetch every file; the manifest last."""
    if not files:
        raise ApiError("not_found", "the job has no artifact")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        first = [file for file in files if file.name != _LAST]
        with ThreadPoolExecutor(PARALLEL) as pool:
            tasks = [pool.submit(_fetch, transport, f, folder, progress) for f in first]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        for file in files:
            if file.name == _LAST:
                _fetch(transport, file, folder, progress)
    except OSError as error:
        raise ArrowQuantError(
            "output_failed",
            f"the files cannot be written: {error.strerror or error}",
            "Check free space and permissions.",
            {"path": str(error.filename or folder)},
        ) from None


def _fetch(transport: Transport, file: Download, folder: Path, progress: Progress) -> None:
    target, partial = folder / file.name, folder / f".{file.name}.partial"
    if _is_there(target, file):
        progress(file.nbytes)
        return
    counted = 0

    def count(size: int) -> None:
        nonlocal counted
        counted += size
        progress(size)

    failures, damaged = 0, False
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        try:
            found = _continue(transport, file, partial, count)
        except ApiError as error:
            after = partial.stat().st_size if partial.exists() else 0
            failures = 0 if after > before else failures + 1
            if not worth_retrying(error) or failures > transport.retries:
                raise
            count(-counted)
            transport.pause(failures, error)
            continue
        if found == file.sha256:
            partial.replace(target)
            return
        partial.unlink(missing_ok=True)
        if damaged:
            raise ApiError(
                "digest_mismatch",
                f"the SHA-256 of what arrived is {found}, announced was {file.sha256}",
                "The stored artifact is damaged, or something on the way alters it.",
                {"file": file.name},
            )
        # What was left from an earlier run may have been another file: once more, from the start.
        damaged = True
        count(-counted)


def _continue(transport: Transport, file: Download, partial: Path, count: Progress) -> str:
    """Fetch what is missing of a partial file; the SHA-256 of all of it."""
    have = partial.stat().st_size if partial.exists() else 0
    if have > file.nbytes:
        partial.unlink()
        have = 0
    digest = _digest(partial) if have else hashlib.sha256()
    count(have)
    if have == file.nbytes and have:
        return digest.hexdigest()
    headers = {"Accept": "*/*", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    timeout = httpx.Timeout(30.0, read=60.0)
    with transport.stream(file.path, headers=headers, timeout=timeout, follow=True) as response:
        resumed = response.status_code == 206
        if resumed and not response.headers.get("content-range", "").startswith(f"bytes {have}-"):
            raise ApiError("invalid_response", "not the range that was asked for")
        if not resumed and have:
            count(-have)
            have, digest = 0, hashlib.sha256()
        with partial.open("ab" if resumed else "wb") as stream:
            for chunk in response.iter_bytes():
                have += len(chunk)
                if have > file.nbytes:
                    raise ApiError("invalid_response", "more bytes than announced")
                stream.write(chunk)
                digest.update(chunk)
                count(len(chunk))
    if have < file.nbytes:
        raise ApiError(
            "server_unreachable", f"the connection ended {file.nbytes - have} bytes early"
        )
    return digest.hexdigest()


def _is_there(path: Path, file: Download) -> bool:
    same_size = path.is_file() and path.stat().st_size == file.nbytes
    return same_size and bool(_digest(path).hexdigest() == file.sha256)


def _digest(path: Path) -> Any:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest
