"""The same bytes on other processors: compiled for them, and run on this one."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

# What is compiled for a lesser x86-64 processor runs on this one only if this one is of the family.
pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="compiles for x86-64")

ROOT = Path(__file__).parents[2]
AVX2 = "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sse4.2"
SCRIPT = """
import hashlib, json, sys
import numpy as np
import kernels
both = np.frombuffer(sys.stdin.buffer.read(), np.uint16).reshape(24, 1024)
x = np.ascontiguousarray(both[:, :1000])
halves = (both.astype(np.uint32) << 16).view(np.float32).astype(np.float16)
found = {}
def keep(name, made):
    parts = [getattr(made, field) for field in ("codes", "scales", "mins") if hasattr(made, field)]
    stored = b"".join(part.tobytes() for part in parts if part is not None)
    errors = made.errors
    sums = [errors.sum_w2, errors.sum_e2, errors.sum_wq, errors.sum_q2, errors.max_abs_error]
    found[name] = (hashlib.sha256(stored).hexdigest(), sums)
options = {"dtype": "BF16", "group_size": 64}
for bits in (2, 3, 4, 8):
    for method in ("minmax", "lsq"):
        for symmetric in (False, True):
            made = kernels.quantize(x, bits=bits, symmetric=symmetric, method=method, **options)
            keep(f"{method} {bits} {symmetric}", made)
    for symmetric in (False, True):
        for kind, whole in (("BF16", both), ("F16", halves)):
            made = kernels.quantize(whole, dtype=kind, bits=bits, symmetric=symmetric,
                                    method="minmax", group_size=64)
            keep(f"{kind} whole {bits} {symmetric}", made)
    keep(f"hqq {bits}", kernels.quantize_hqq(x, bits=bits, **options))
for levels in (kernels.nf4_levels(), kernels.lloyd_max_levels(2)):
    keep(f"codebook {levels.size}", kernels.quantize_codebook(x, levels=levels, **options))
rng = np.random.default_rng(4)
for bits in (2, 3, 4):
    keep(f"trellis {bits}", kernels.quantize_trellis(x[:4], dtype="BF16", bits=bits))
    h = rng.lognormal(0, 1, 1000).astype(np.float32)
    made = kernels.quantize_trellis(x[:4], dtype="BF16", bits=bits, weights=h, unbias=1.0)
    keep(f"trellis {bits} weighted", made)
    v = kernels.dequantize_trellis(made.codes, made.scales, bits=bits, cols=1000)
    found[f"trellis {bits} decoded"] = (hashlib.sha256(v.tobytes()).hexdigest(), [])
inputs = kernels.widen(x, "BF16")
moments = sum(np.outer(row, row) for row in inputs)
for block in (0, 500):
    h = np.stack([moments[:500, :500], moments[500:, 500:]]) if block else moments
    factor = kernels.gptq_factor(h, cols=1000)
    made = kernels.quantize_gptq(x, bits=2, symmetric=False, factor=factor, **options)
    keep(f"gptq {block}", made)
    made = kernels.quantize_gptq_superblock(x, dtype="BF16", bits=2, group_size=16, scale_bits=4,
                                            factor=factor)
    keep(f"gptq superblock {block}", made)
print(json.dumps(found))
"""


def run(**processor: str) -> dict[str, tuple[str, list[float]]]:
    """What the kernels make of one tensor when they are compiled for this processor."""
    rng = np.random.default_rng(3)
    w = (rng.standard_normal((24, 1024)) * 0.02 * rng.lognormal(0, 0.2, 1024)).astype(np.float32)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=(w.view(np.uint32) >> 16).astype(np.uint16).tobytes(),
        env=os.environ | processor,
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def here() -> dict[str, tuple[str, list[float]]]:
    return run()


def test_registers_of_256_bits_give_the_same_bytes_and_sums(here):
    assert run(NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES=AVX2) == here


def test_without_fused_operations_bytes_are_the_same_and_sums_are_near(here):
    plain = run(NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="")
    for name, (digest, sums) in here.items():
        if name.startswith("gptq"):
            # See tiles: products take fused operations, and what is rounded elsewhere goes on.
            np.testing.assert_allclose(plain[name][1][:4], sums[:4], rtol=0.02, err_msg=name)
            continue
        assert plain[name][0] == digest, name
        # See lanes: only sums of squares take fused operations.
        np.testing.assert_allclose(plain[name][1], sums, rtol=2e-6, err_msg=name)
