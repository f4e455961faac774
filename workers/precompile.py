"""Compiling kernels in a process of its own, before a job's memory is counted.

Numba and LLVM take some hundred MB while they compile, and keep much of it. In the process that
quantizes this would count against the job's limit for as long as the process lives; a child that
compiles the same kernels into the same cache takes it along when it ends. What was compiled is noted
in the cache, so that a child is started once on a machine for each way to quantize.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import psutil
import structlog
from pydantic import TypeAdapter

import kernels
from service.domain.profiles import Action
from service.domain.treatment import TensorPlan
from service.domain.units import Tile
from workers.kernel_cache import VARIABLE
from workers.stages.calibrated import Inputs
from workers.stages.encode import encode_tile, tile_range
from workers.stages.gptq import Moments

log = structlog.get_logger(__name__)

# Below a limit that leaves this much there is no need: it is what compiling everything takes.
COMPILING_BYTES: Final = 512 * 2**20
_PATIENCE_S: Final = 600.0
_ROWS: Final = 4
_GPTQ_COLS: Final = 256

_TENSORS: Final = TypeAdapter(list[TensorPlan])

_one_at_a_time = threading.Lock()
_known: set[str] = set()


def beforehand(tensors: Iterable[TensorPlan], max_memory_bytes: int | None) -> None:
    """See to it that what quantizes these tensors is in the cache. If that fails, this process
    compiles when it comes to it."""
    folder = os.environ.get(VARIABLE)
    if max_memory_bytes is None or not folder:
        return
    if max_memory_bytes - psutil.Process().memory_info().rss >= COMPILING_BYTES:
        return
    with _one_at_a_time:
        missing = {
            mark: tensor
            for mark, tensor in _by_mark(tensors).items()
            if mark not in _known and not Path(folder, mark).exists()
        }
        if missing:
            _compile(missing, Path(folder))
            _known.update(missing)


def _compile(missing: dict[str, TensorPlan], folder: Path) -> None:
    log.info("compiling", ways=len(missing))
    try:
        subprocess.run(
            [sys.executable, "-m", "workers.precompile"],
            input=_TENSORS.dump_json(list(missing.values())),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            check=True,
            timeout=_PATIENCE_S,
        )
        folder.mkdir(parents=True, exist_ok=True)
        for mark in missing:
            Path(folder, mark).touch()
    except subprocess.CalledProcessError as error:
        log.warning("not_compiled", error=error.stderr.decode(errors="replace")[-500:])
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("not_compiled", error=str(error))


def _by_mark(tensors: Iterable[TensorPlan]) -> dict[str, TensorPlan]:
    """One tensor for each way; the name of the file that notes that it was compiled."""
    found: dict[str, TensorPlan] = {}
    for tensor in tensors:
        how = tensor.treatment
        if how.action is not Action.QUANTIZE:
            continue
        whole = how.group_size == 0 or tensor.cols % how.group_size == 0
        way = (
            *(how.method, tensor.source.dtype, how.symmetric, whole),
            *(how.per_tensor, how.codebook, bool(how.unbias), tensor.rotated),
            *(how.calibrated, how.col_scale, how.bias_correction, how.gptq_block is None),
            how.smoothing is None,
        )
        digest = hashlib.sha256(repr(way).encode()).hexdigest()[:16]
        found.setdefault(f"compiled-{digest}", tensor)
    return found


def exercise(tensor: TensorPlan) -> None:
    """Quantize a few rows that are like the tensor's in all that kernels are compiled for."""
    how = tensor.treatment
    cols = tensor.cols
    inputs: Inputs | None = None
    if how.calibrated:
        moments: Moments | None = None
        if how.gptq_block is not None:
            cols = min(cols, how.gptq_block or _GPTQ_COLS)
            matrix = np.eye(cols, dtype=np.float32)
            matrix = matrix[None] if how.gptq_block else matrix
            moments = Moments(matrix, kernels.gptq_factor(matrix, cols=cols))
        ones = np.ones(cols, np.float32)
        mean = ones if how.bias_correction else None
        factors = None if how.smoothing is None else ones
        inputs = Inputs(ones, mean, moments, factors)
    w = np.random.default_rng(0).standard_normal((_ROWS, cols)).astype(np.float32)
    x: np.ndarray[tuple[int, ...], np.dtype[np.generic]] = w
    if tensor.source.dtype == "F16":
        x = w.astype(np.float16).view(np.uint16)
    elif tensor.source.dtype == "BF16":
        x = (w.view(np.uint32) >> 16).astype(np.uint16)
    few = replace(tensor, rows=_ROWS, cols=cols)
    tile = Tile(tensor.index, 0, 0, _ROWS)
    one_scale = tile_range(few, tile, x, 1) if how.per_tensor else None
    encode_tile(few, tile, x, one_scale, 1, inputs)


def main() -> None:
    """Compile for the tensors that come in, from the process that started this one."""
    for tensor in _TENSORS.validate_json(sys.stdin.buffer.read()):
        exercise(tensor)


if __name__ == "__main__":
    main()
