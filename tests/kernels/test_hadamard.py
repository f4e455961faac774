"""The rotation against its naive twin."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels
from kernels.hadamard import signs_for
from tests.kernels.strategies import llm_like, matrices
from tests.naive import affine, hadamard

seeds = st.integers(0, 2**64 - 1)
shapes = st.tuples(st.integers(1, 3), st.sampled_from((1, 2, 4, 8, 16, 64)), st.integers(1, 5))


def rotated(x, seed, block, threads=1, back=False):
    y = x.copy()
    (kernels.unrotate if back else kernels.rotate)(y, seed, block, threads)
    return y


@given(st.data(), seeds, shapes)
def test_rotation_equals_its_twin_and_is_undone(data, seed, shape):
    rows, block, count = shape
    cols = block * count
    x = data.draw(matrices("F32", max_rows=rows, max_cols=cols))
    x = np.resize(x, (rows, cols)) * np.float32(1 / 64)
    twin = hadamard.matrix(cols, seed, block)
    y = rotated(x, seed, block)
    length = np.sqrt(np.square(x.astype(float)).sum(1, keepdims=True))
    room = 1e-6 * length + 1e-41  # the last bits of subnormal numbers
    assert (np.abs(y - x.astype(float) @ twin) <= room).all()
    assert (np.abs(rotated(y, seed, block, back=True) - x.astype(float)) <= room).all()
    np.testing.assert_allclose(np.sqrt(np.square(y.astype(float)).sum(1)), length[:, 0], rtol=1e-5,
                               atol=1e-41)  # fmt: skip


@given(seeds, st.integers(1, 50))
def test_signs_are_those_of_the_written_hash(seed, cols):
    assert signs_for(seed, cols).tolist() == [hadamard.sign(seed, c) for c in range(cols)]


def test_signs_are_balanced_and_differ_by_seed():
    first, second = signs_for(0, 10_000), signs_for(1, 10_000)
    assert abs(first.mean()) < 0.05
    assert abs((first * second).mean()) < 0.05
    assert signs_for(-1, 9).tolist() == signs_for(2**64 - 1, 9).tolist()


def test_blocks_are_the_largest_powers_of_two_that_divide():
    expected = {1: 1, 7: 1, 1152: 128, 3584: 512, 18944: 512, 4096: 4096, 12288: 4096, 65536: 4096}
    assert {cols: kernels.rotation_block(cols) for cols in expected} == expected


def test_bytes_do_not_depend_on_threads():
    x = affine.widen(llm_like(150, 3072, 1), "BF16")
    first = rotated(x, 5, 1024)
    for threads in (2, 3, 8):
        assert rotated(x, 5, 1024, threads).tobytes() == first.tobytes()
    back = [rotated(first, 5, 1024, threads, back=True).tobytes() for threads in (1, 3)]
    assert back[0] == back[1]


def test_heavy_tails_become_cheap_to_quantize():
    random = np.random.default_rng(3)
    x = (random.standard_t(3, (64, 4096)) * 0.02).astype(np.float32)
    options = {"dtype": "F32", "bits": 2, "group_size": 64, "symmetric": False, "method": "lsq"}
    plain = kernels.quantize(x, **options)
    spread = kernels.quantize(rotated(x, 7, 4096), **options)
    assert spread.errors.sqnr_db > plain.errors.sqnr_db + 2.0
    v = kernels.dequantize(
        spread.codes, spread.scales, spread.mins, bits=2, cols=4096, group_size=64
    )
    kernels.unrotate(v, 7, 4096)
    error = np.square(x.astype(float) - v).sum()
    np.testing.assert_allclose(error, spread.errors.sum_e2, rtol=1e-4)


@pytest.mark.parametrize("block", [0, -8, 3, 24, 128])
def test_blocks_that_do_not_fit_are_refused(block):
    with pytest.raises(ValueError, match="do not divide"):
        kernels.rotate(np.ones((1, 192), np.float32), 0, block)
