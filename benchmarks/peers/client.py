"""Our side of the protocol: a peer as a process that is told to prepare, run and measure."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.peers.environments import PeerFailed
from benchmarks.timing import clean

SERVE = Path(__file__).with_name("serve.py")
START_SECONDS = 300.0
ANSWER_SECONDS = 600.0


class Peer:
    """A running peer. Every method raises PeerFailed with the peer's own words."""

    def __init__(
        self, python: Path, module: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [str(python), "-I", str(SERVE), str(module)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=os.environ | dict(environment or {}),
        )
        self._pending = b""
        try:
            self._read(START_SECONDS)
        except PeerFailed:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def prepare(
        self, file: Path, rows: int, threads: int, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Hand it the first rows of a matrix."""
        given = {"file": str(file), "rows": rows, "threads": threads, "options": dict(options)}
        return self._ask({"verb": "prepare", **given})

    def run(self) -> float:
        """Quantize once; the seconds it took, by its own clock."""
        return float(self._ask({"verb": "run"})["seconds"])

    def measure(self) -> dict[str, Any]:
        """Bytes, SQNR, cosine and peak memory of the last run."""
        return self._ask({"verb": "measure"})

    def versions(self) -> dict[str, Any]:
        """Of what it runs on."""
        return self._ask({"verb": "versions"})

    def close(self) -> None:
        """End it."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None
        return self._read(ANSWER_SECONDS)

    def _read(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdout
        end = time.monotonic() + seconds
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._process.stdout], [], [], end - time.monotonic())
            if not ready:
                self._process.kill()
                raise PeerFailed(f"no answer in {seconds:.0f} s")
            part = os.read(self._process.stdout.fileno(), 65536)
            if not part:
                raise self._ended()
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise PeerFailed(clean(answer["error"]))
        return answer

    def _ended(self) -> PeerFailed:
        status = self._process.wait()
        self._log.seek(0)
        last = self._log.read().decode(errors="replace").strip().splitlines()[-1:]
        return PeerFailed(clean(f"ended with status {status}: {' '.join(last)}"))
