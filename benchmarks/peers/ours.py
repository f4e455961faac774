"""Our own kernels as a peer: for runs under other settings of the compiler, in a process apart."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.methods import BY_NAME, Setting, stored_bytes

PACKAGES = ("numba", "llvmlite")


class Job:
    """One setting."""

    input = "bf16"

    def __init__(self, weights: Any, threads: int, setting: Setting, *, afresh: bool) -> None:
        self._weights, self._threads, self._setting = weights, threads, setting
        self._afresh = afresh
        self._encoded: Any = None

    def run(self) -> None:
        earlier = None if self._afresh else self._encoded
        self._encoded = self._setting.run(self._weights.bf16, "BF16", self._threads, earlier)

    def nbytes(self) -> int:
        return stored_bytes(self._encoded)

    def decode(self) -> npt.NDArray[np.float32]:
        return self._setting.decode(self._encoded, self._weights.bf16.shape[1])


def prepare(weights: Any, threads: int, **options: Any) -> Job:
    """A method at a width and a group size.

    afresh    whether every run writes to new memory; else to that of the run before
    prefetch  whether the kernels ask for memory before they need it
    cores     threads of the kernels, in place of those of the whole benchmark
    """
    if not options.get("prefetch", True):
        _no_prefetch()
    setting = BY_NAME[options["method"]].usual(options["bits"], options["group"])
    afresh = options.get("afresh", True)
    return Job(weights, options.get("cores") or threads, setting, afresh=afresh)


def _no_prefetch() -> None:
    """Compile the kernels without; they must not have been called before, nor share their cache."""
    import numba

    from kernels import encode, spans

    parts: tuple[Any, Any] = encode, spans
    parts[0].prefetch = numba.njit(lambda data, index: None)
    parts[1]._fetch = lambda builder, data, index: None
