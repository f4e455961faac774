"""From a new process to the first quantized tile, with and without compiled kernels on disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.context import Context, scratch
from benchmarks.methods import CORE
from benchmarks.results import Result
from benchmarks.timing import Run, interleave, timed

ROOT = Path(__file__).parents[1]
ROWS, COLS = 64, 4096

_CHILD = """
import json, sys, time
began = time.perf_counter()
import numpy as np
numpy = time.perf_counter()
import kernels
imported = time.perf_counter()
method, bits, rows, cols = sys.argv[1], *map(int, sys.argv[2:])
x = np.full((rows, cols), 0x3C00, np.uint16)
x[:, ::2] = 0xBC01
def tile():
    if method == "superblock":
        kernels.quantize_superblock(x, dtype="BF16", bits=bits, group_size=32, scale_bits=6)
    else:
        kernels.quantize(x, dtype="BF16", bits=bits, group_size=64, symmetric=False, method=method)
tile()
first = time.perf_counter()
tile()
second = time.perf_counter()
print(json.dumps({"numpy": numpy - began, "kernels": imported - numpy,
                  "first_tile": first - imported, "second_tile": second - first}))
"""


class _Start:
    """A new process that quantizes a tile with the kernels compiled in a folder, or a new folder."""

    def __init__(self, method: str, cache: Path, *, keep: bool) -> None:
        self._method, self._cache, self._keep = method, cache, keep
        self.parts: list[dict[str, float]] = []

    def __call__(self) -> float:
        cache = self._cache if self._keep else self._cache / str(len(self.parts))
        arguments = [self._method, "4", str(ROWS), str(COLS)]
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, *arguments],
            cwd=ROOT,
            env=os.environ | {"NUMBA_CACHE_DIR": str(cache)},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(done.stderr.strip().splitlines()[-1])
        self.parts.append(json.loads(done.stdout))
        return seconds


def _imports() -> None:
    subprocess.run([sys.executable, "-c", "import numpy, numba"], check=True)


def run(context: Context) -> Result:
    """Every method, cold and warm; wall time of the whole process, and its parts by its own clock."""
    result = context.result("cold_start")
    with scratch("cold") as folder:
        for method in CORE:
            name = f"{method.name} 4 bits"
            cold = _Start(method.name, folder / f"{method.name}-cold", keep=False)
            warm = _Start(method.name, folder / f"{method.name}-warm", keep=True)
            runs: dict[str, Run] = {"cold": cold, "warm": warm, "imports": timed(_imports)}
            done = interleave(runs, context.rounds)
            for contestant, error in done.errors.items():
                result.fail(f"{name}: {contestant}", error)
            # The first round, which filled the caches, is not among the seconds.
            result.add(
                name,
                {"method": method.name, "bits": 4},
                tile=[ROWS, COLS],
                parts={"cold": cold.parts[1:], "warm": warm.parts[1:]},
                seconds=done.seconds,
            )
            print(f"  {name}", flush=True)
    return result
