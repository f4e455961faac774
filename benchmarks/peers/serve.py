"""The peer's side of the protocol: runs in the peer's own environment, which has NumPy and the peer.

    python -I serve.py MODULE.py

One JSON object a line, both ways; the first line out says whether the module could be imported.

    {"verb": "prepare", "file": F, "rows": R, "threads": T, "options": {...}}
        -> {"input_bytes": N, "input": "f32"}  the first R rows of the BF16 patterns in F (.npy)
    {"verb": "run"}      -> {"seconds": S}     one quantization, nothing else in it
    {"verb": "measure"}  -> {"bytes": N, "sqnr_db": D, "cosine": C, "peak_bytes": P}
    {"verb": "versions"} -> {"name": "version", ...}
    anything that fails  -> {"error": "..."}

A module offers `prepare(weights, threads, **options) -> Job` and, if it likes, PACKAGES. `weights` has
the patterns, and the same as float32 beforehand for peers that start from that.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import platform
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt


class Job(Protocol):
    """A matrix to be quantized again and again."""

    input: str  # what it starts from: "bf16" or "f32"

    def run(self) -> None:
        """Quantize, and keep the result until the next run."""

    def nbytes(self) -> int:
        """What the result needs: codes, scales and zero points as this peer stores them."""

    def decode(self) -> npt.NDArray[np.float32] | None:
        """The result as float32 (rows, cols); None where there is no decoder."""


@dataclass(frozen=True)
class Weights:
    """The matrix in both forms."""

    bf16: npt.NDArray[np.uint16]
    f32: npt.NDArray[np.float32]


class Session:
    """The state between two lines."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.weights: Weights | None = None
        self.job: Any = None
        self.before = 0

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        self.job = self.weights = None
        patterns = np.load(request["file"], mmap_mode="r")[: request["rows"]].copy()
        self.weights = Weights(patterns, (patterns.astype(np.uint32) << 16).view(np.float32))
        self.job = self.module.prepare(self.weights, request["threads"], **request["options"])
        self.before = _status("VmRSS")
        _reset_peak()
        nbytes = patterns.nbytes if self.job.input == "bf16" else self.weights.f32.nbytes
        return {"input": self.job.input, "input_bytes": nbytes}

    def run(self, _: dict[str, Any]) -> dict[str, Any]:
        began = time.perf_counter()
        self.job.run()
        return {"seconds": time.perf_counter() - began}

    def measure(self, _: dict[str, Any]) -> dict[str, Any]:
        peak = max(0, _status("VmHWM") - self.before)
        measured = {"bytes": int(self.job.nbytes()), "peak_bytes": peak}
        decoded = self.job.decode()
        assert self.weights is not None
        return measured | ({} if decoded is None else fidelity(self.weights.f32, decoded))

    def versions(self, _: dict[str, Any]) -> dict[str, Any]:
        names = ("numpy", *getattr(self.module, "PACKAGES", ()))
        return {"python": platform.python_version()} | {name: version(name) for name in names}


def fidelity(w: npt.NDArray[np.float32], v: npt.NDArray[np.float32]) -> dict[str, float]:
    """SQNR in dB and cosine, summed in float64."""
    a, b = w.astype(np.float64).ravel(), np.asarray(v, np.float64).ravel()
    energy, error = float(a @ a), float((a - b) @ (a - b))
    cosine = float(a @ b) / math.sqrt(energy * float(b @ b))
    return {"sqnr_db": 10 * math.log10(energy / error) if error else math.inf, "cosine": cosine}


def _status(field: str) -> int:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), 0)


def _reset_peak() -> None:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("peer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Answer lines until there are no more."""
    # What the peer prints must not come between the lines.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def answer(content: dict[str, Any]) -> None:
        out.write(json.dumps(content) + "\n")

    try:
        session = Session(_load(sys.argv[1]))
    except BaseException as error:  # noqa: BLE001 - reported to the other side
        answer({"error": f"{type(error).__name__}: {error}"})
        return
    answer({"ready": True})
    verbs = {name: getattr(session, name) for name in ("prepare", "run", "measure", "versions")}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(verbs[request["verb"]](request))
        except Exception as error:  # noqa: BLE001 - reported to the other side
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
