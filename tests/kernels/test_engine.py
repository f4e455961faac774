"""What holds for whole tensors: threads, refusals, quality, and the compile cache."""

import dataclasses
import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import kernels
from kernels.blocks import BLOCK_WEIGHTS, blocks, over_rows
from tests.kernels.strategies import BITS, DTYPES, llm_like

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("method", ["minmax", "lsq"])
@pytest.mark.parametrize("n_bits", BITS)
def test_bytes_and_sums_do_not_depend_on_threads(method, n_bits):
    x = llm_like(220, 3003, 1)
    assert len(blocks(*x.shape)) > 4
    options = {"dtype": "BF16", "bits": n_bits, "group_size": 64, "method": method}
    for symmetric in (False, True):
        first = kernels.quantize(x, symmetric=symmetric, threads=1, **options)
        for threads in (2, 3, 8):
            other = kernels.quantize(x, symmetric=symmetric, threads=threads, **options)
            assert other.codes.tobytes() == first.codes.tobytes()
            assert other.scales.tobytes() == first.scales.tobytes()
            assert symmetric or other.mins.tobytes() == first.mins.tobytes()
            assert other.errors == first.errors
    lo, hi = kernels.value_range(x, dtype="BF16", threads=3)
    fixed = [
        kernels.quantize_fixed(
            x, dtype="BF16", bits=n_bits, lo=lo, hi=hi, symmetric=False, threads=threads
        )
        for threads in (1, 3)
    ]
    assert fixed[0].codes.tobytes() == fixed[1].codes.tobytes()
    assert fixed[0].errors == fixed[1].errors


def test_a_tensor_quantized_in_parts_gives_the_same_rows():
    x = llm_like(100, 640, 2)
    options = {
        "dtype": "BF16", "bits": 4, "group_size": 64, "symmetric": False, "method": "lsq"
    }  # fmt: skip
    whole = kernels.quantize(x, **options)
    parts = [kernels.quantize(x[rows], **options) for rows in (slice(0, 33), slice(33, 100))]
    np.testing.assert_array_equal(np.vstack([part.codes for part in parts]), whole.codes)
    merged = parts[0].errors + parts[1].errors
    assert merged.count == whole.errors.count
    assert merged.max_abs_error == whole.errors.max_abs_error
    np.testing.assert_allclose(merged.sum_e2, whole.errors.sum_e2, rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_read_only_input_and_given_output(dtype):
    x = llm_like(5, 100, 4, dtype)
    frozen = np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape)
    assert not frozen.flags.writeable
    options = {"dtype": dtype, "bits": 3, "group_size": 32, "symmetric": False, "method": "lsq"}
    encoded = kernels.quantize(frozen, **options)
    assert encoded.codes.tobytes() == kernels.quantize(x, **options).codes.tobytes()
    assert x.flags.writeable
    out = np.full((5, 100), np.nan, np.float32)
    stored = [np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape) for a in
              (encoded.codes, encoded.scales, encoded.mins)]  # fmt: skip
    result = kernels.dequantize(*stored, bits=3, cols=100, group_size=32, threads=2, out=out)
    assert result is out
    assert np.isfinite(out).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_non_finite_weight_is_named(dtype, value):
    x = llm_like(90, 5001, 6, dtype)
    bad = np.array([value], np.float32)
    if dtype != "F32":
        bad = bad.view(np.uint16)[1:] if dtype == "BF16" else bad.astype(np.float16).view(np.uint16)
    for row, col in ((88, 1), (61, 5000), (61, 77)):
        x[row, col] = bad[0]
    grouped = {"bits": 4, "group_size": 64, "symmetric": True, "method": "lsq"}
    calls = (
        kernels.value_range,
        partial(kernels.quantize, **grouped),
        partial(kernels.quantize_fixed, bits=4, lo=-1.0, hi=1.0, symmetric=False),
    )
    for threads in (1, 2, 8):
        for call in calls:
            with pytest.raises(kernels.NonFiniteWeights) as caught:
                call(x, dtype=dtype, threads=threads)
            assert (caught.value.row, caught.value.col) == (61, 77)
            assert str(caught.value.value) == str(float(value))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert str(copy) == str(caught.value) == f"weight [61, 77] is {float(value)}"


def test_values_beyond_float16_saturate_and_show_as_error():
    w = np.linspace(-3e38, 3e38, 64, dtype=np.float32)[None]
    for symmetric in (False, True):
        encoded = kernels.quantize(
            w, dtype="F32", bits=4, group_size=64, symmetric=symmetric, method="lsq"
        )
        assert np.isfinite(encoded.scales).all()
        assert 0.99 < encoded.errors.rel_mse <= 1.01


QUALITY = {  # dB on llm-like weights, groups of 64: (asymmetric, symmetric)
    ("minmax", 8): (44.7, 43.3), ("minmax", 4): (20.1, 19.1), ("minmax", 3): (13.4, 12.9),
    ("minmax", 2): (6.0, 6.6), ("lsq", 8): (44.8, 43.6), ("lsq", 4): (20.5, 19.5),
    ("lsq", 3): (14.5, 13.8), ("lsq", 2): (9.0, 8.5),
}  # fmt: skip


@pytest.mark.parametrize(("method", "n_bits"), QUALITY)
def test_quality_on_weights_like_those_of_language_models(method, n_bits):
    x = llm_like(128, 11008, 0)
    for symmetric, bar in zip((False, True), QUALITY[method, n_bits], strict=True):
        encoded = kernels.quantize(
            x,
            dtype="BF16",
            bits=n_bits,
            group_size=64,
            symmetric=symmetric,
            method=method,
            threads=2,
        )
        assert encoded.errors.sqnr_db >= bar
        assert encoded.errors.cosine > 0.8


def test_error_sums_of_exact_and_hopeless_cases():
    exact = kernels.ErrorSums(sum_w2=2.0, sum_wq=2.0, sum_q2=2.0, count=2)
    nothing = kernels.ErrorSums(count=3)
    lost = kernels.ErrorSums(sum_w2=1.0, sum_e2=1.0, max_abs_error=1.0, count=1)
    assert (exact.rel_mse, exact.sqnr_db, exact.cosine) == (0.0, np.inf, 1.0)
    assert (nothing.rel_mse, nothing.sqnr_db, nothing.cosine) == (0.0, np.inf, 1.0)
    assert (lost.rel_mse, lost.sqnr_db, lost.cosine) == (1.0, 0.0, 0.0)
    assert dataclasses.astuple(exact + lost) == (3.0, 1.0, 2.0, 2.0, 1.0, 3)
    invented = kernels.ErrorSums(sum_e2=1.0, sum_q2=1.0, max_abs_error=1.0, count=1)
    assert (invented.rel_mse, invented.sqnr_db, invented.cosine) == (np.inf, -np.inf, 0.0)


def test_blocks_cover_the_rows_and_depend_on_columns_only():
    assert blocks(0, 10) == []
    assert blocks(3, 10 * BLOCK_WEIGHTS) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    rows = [r for part in blocks(1000, 999) for r in range(part.start, part.stop)]
    assert rows == list(range(1000))


def test_an_error_in_a_helper_reaches_the_caller():
    def work(part):
        raise MemoryError(f"row {part.start}")

    with pytest.raises(MemoryError):
        over_rows(work, 10, BLOCK_WEIGHTS, 2)


FORKED = """
import os, threading
from kernels.blocks import BLOCK_WEIGHTS, over_rows

def both_at_once():
    met = threading.Barrier(2)

    def work(part):
        met.wait(60)
        return -1

    over_rows(work, 2, BLOCK_WEIGHTS, 2)

both_at_once()
child = os.fork()
if child == 0:
    both_at_once()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""


def test_a_forked_child_has_helpers_of_its_own():
    subprocess.run(
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", FORKED],
        check=True,
        cwd=ROOT,
        timeout=120,
    )


def test_no_rows():
    empty = np.empty((0, 7), np.float32)
    encoded = kernels.quantize(
        empty, dtype="F32", bits=4, group_size=32, symmetric=False, method="lsq"
    )
    assert encoded.codes.shape == (0, 4)
    assert encoded.errors == kernels.ErrorSums()


CHILD = """
import numpy as np, kernels, os, sys
from kernels import affine, rows
x = np.ones((600, 999), np.uint16)
def run():
    e = kernels.quantize(
        x, dtype="BF16", bits=4, group_size=64, symmetric=False, method="lsq", threads=2
    )
    kernels.dequantize(e.codes, e.scales, e.mins, bits=4, cols=999, group_size=64, threads=2)
run()
for kernel in (rows.quantize_rows, affine.dequantize_rows):
    stats = kernel.stats
    sys.stdout.write(f"{sum(stats.cache_hits.values())} {sum(stats.cache_misses.values())} ")
child = os.fork()  # the parent has run kernels on threads; the child must be able to
if child == 0:
    run()
    os._exit(7)
sys.stdout.write(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""


def test_a_second_process_loads_machine_code_and_a_forked_one_works(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    expected = ["0 1 0 1 7", "1 0 1 0 7"]
    for line in expected:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", CHILD],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert (done.stdout, done.stderr) == (line, "")
