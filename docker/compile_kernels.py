"""Compile every kernel once, in a build, into a folder that workers start from.

    PYTHONPATH=/app python compile_kernels.py FOLDER

Machine code is made for a named processor, not for the one that happens to build: Numba finds it
again only where the same name is asked for, which is what start_worker.py does on every host that
has the named processor's instructions. FOLDER/target.json says which those are.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Collection
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, cast

# x86-64-v3 is every server since Haswell (2013) and Zen (2017).
TARGETS: dict[str, dict[str, Any]] = {
    "x86_64": {
        "cpu": "x86-64-v3",
        "flags": ["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"],
    },
}
GENERIC: dict[str, Any] = {"cpu": "generic", "flags": []}


def main(folder: Path) -> None:
    """Choose the processor, then import Numba: it reads its variables only once."""
    target = {"machine": platform.machine(), **TARGETS.get(platform.machine(), GENERIC)}
    os.environ["NUMBA_CPU_NAME"] = target["cpu"]
    os.environ["NUMBA_CPU_FEATURES"] = ""  # those that the name implies
    os.environ["NUMBA_CACHE_DIR"] = str(folder)
    from workers import kernel_cache

    chosen = kernel_cache.choose(folder)
    started = time.monotonic()
    compile_all()
    files = [path for path in chosen.rglob("*") if path.is_file()]
    (folder / "target.json").write_text(json.dumps(target) + "\n", encoding="utf-8")
    size = sum(path.stat().st_size for path in files)
    seconds = time.monotonic() - started
    sys.stdout.write(f"{len(files)} files, {size} bytes, {target['cpu']}, {seconds:.1f} s\n")


def compile_all(
    methods: Collection[str] | None = None, importances: Collection[bool] = (False, True)
) -> None:
    """Call what a pipeline calls, with each kind of stored weights.

    methods      those to compile for, None: all there are
    importances  whether errors count by them: without, with
    """
    import numpy as np

    import kernels

    weights = np.linspace(-1, 1, 2 * 192, dtype=np.float32).reshape(2, 192)
    stored: dict[Any, Any] = {
        "F32": weights,
        "F16": weights.astype(np.float16).view(np.uint16),
        "BF16": (weights.view(np.uint32) >> 16).astype(np.uint16),
    }
    for (dtype, matrix), symmetric, bits in product(stored.items(), (False, True), (2, 3, 4, 8)):
        how: dict[str, Any] = {"dtype": dtype, "bits": bits, "symmetric": symmetric, "threads": 1}
        kernels.value_range(matrix, dtype=dtype, threads=1)
        kernels.quantize_fixed(matrix, lo=-1.0, hi=1.0, **how)
        for method in ("minmax", "lsq"):
            made = kernels.quantize(matrix, group_size=64, method=method, **how)
        shape: dict[str, Any] = {"bits": bits, "cols": 192, "group_size": 64, "threads": 1}
        kernels.dequantize(made.codes, made.scales, made.mins, **shape)
    for dtype, matrix in stored.items():
        _compile_methods(dtype, matrix, methods, importances)
        if True in importances:
            _compile_calibrated(dtype, matrix)
    if True in importances:
        _compile_activations()


def _compile_methods(
    dtype: str, matrix: Any, methods: Collection[str] | None, importances: Collection[bool]
) -> None:
    """Every method as a job calls it: plain and rotated, with importances and without."""
    import numpy as np

    from service.domain.catalog import SourceTensor
    from service.domain.methods import METHODS
    from service.domain.profiles import Action, Role
    from service.domain.treatment import TensorPlan, Treatment
    from service.domain.units import Tile
    from workers.stages.calibrated import Inputs
    from workers.stages.encode import encode_tile

    rows, cols = matrix.shape
    source = SourceTensor("w", 0, dtype, (rows, cols), 0, matrix.nbytes)
    tried = [(name, facts) for name, facts in METHODS.items() if methods is None or name in methods]
    for (method, facts), weighted, rotation in product(tried, importances, ("none", "hadamard")):
        how = Treatment(
            Action.QUANTIZE,
            "",
            facts.bits[0],
            group_size=facts.group_sizes[0] if facts.group_sizes else 0,
            method=method,
            scale_bits=facts.scale_bits[0] if facts.scale_bits else 0,
            codebook=next(iter(facts.codebooks), None),
            rotation=rotation,
        )
        tensor = TensorPlan(0, source, Role.LINEAR, rows, cols, how)
        inputs = Inputs(np.ones(cols, np.float32)) if weighted else None
        encode_tile(tensor, Tile(0, 0, 0, rows), matrix, None, 1, inputs)


def _compile_calibrated(dtype: str, matrix: Any) -> None:
    """What second moments and means of inputs are for: GPTQ, AWQ, bias correction."""
    import numpy as np

    import kernels
    from service.domain.catalog import SourceTensor
    from service.domain.profiles import Action, Role
    from service.domain.treatment import TensorPlan, Treatment
    from service.domain.units import Tile
    from workers.stages.calibrated import Inputs
    from workers.stages.encode import encode_tile
    from workers.stages.gptq import Moments
    from workers.stages.methods import Dtype

    rows, cols = matrix.shape
    ones, eye = np.ones(cols, np.float32), np.eye(cols, dtype=np.float32)
    source = SourceTensor("w", 0, dtype, (rows, cols), 0, matrix.nbytes)
    plain = Treatment(Action.QUANTIZE, "", 4, group_size=64, method="lsq")
    blocks = np.stack([eye[:64, :64]] * (cols // 64))
    kind = cast(Dtype, dtype)
    kernels.column_largest(matrix, dtype=kind)
    kernels.squared_ranges(kernels.widen(matrix, kind), ones, 64)
    tried = [
        (replace(plain, col_scale=True), Inputs(ones, ones)),
        (plain, Inputs(ones, factors=ones)),
    ]
    for (moments, act_order), symmetric in product(((eye, True), (blocks, False)), (False, True)):
        factor = kernels.gptq_factor(moments, cols=cols, damp=0.01, act_order=act_order, threads=1)
        inputs = Inputs(ones, ones, Moments(moments, factor))
        tried.append((replace(plain, symmetric=symmetric), inputs))
        two_levels = replace(plain, method="superblock", group_size=32, scale_bits=6, unbias=1.0)
        tried.append((replace(two_levels, col_scale=True), inputs))
    for how, inputs in tried:
        tensor = TensorPlan(0, source, Role.LINEAR, rows, cols, how)
        encode_tile(tensor, Tile(0, 0, 0, rows), matrix, None, 1, inputs)


def _compile_activations() -> None:
    """The fit of quantizers of activations."""
    import numpy as np

    from kernels import histograms

    edges, counts = np.linspace(-1.0, 1.0, 9), np.ones((2, 8))
    lows, highs = np.full(2, -1.0), np.full(2, 1.0)
    for clip in (True, False):
        histograms.run_errors(edges, counts, lows, highs, bits=8, clip=clip)
    histograms.quantizer(edges, counts[0], -1.0, 1.0, bits=8)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
