"""Codes that stand for levels, against their naive twin."""

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kernels
from kernels import codebook as fast_codebook
from kernels.codebookrows import REFITS
from kernels.codebooks import code_bits
from tests.kernels.strategies import dtypes, group_sizes, llm_like, matrices
from tests.naive import affine, bitstream, codebook

BYTES = np.linspace(-1, 1, 256).astype(np.float32)
TABLES = {
    "nf4": kernels.nf4_levels(),
    **{f"lloyd_max {n}": kernels.lloyd_max_levels(n) for n in (2, 3, 4)},
    "signs": np.array([-1, 1], np.float32),
    "one-sided": np.array([0, 0.25, 0.5, 3], np.float32),
    "bytes": BYTES,
}
tables = st.sampled_from(sorted(TABLES))


def decoded(encoded, cols, group_size):
    return kernels.dequantize_codebook(
        encoded.codes, encoded.scales, encoded.levels, cols=cols, group_size=group_size
    )


def test_nf4_is_the_table_that_others_use():
    np.testing.assert_array_equal(kernels.nf4_levels(), np.array(codebook.NF4, np.float32))


@pytest.mark.parametrize(("n_bits", "error"), [(2, 0.1175), (3, 0.03454), (4, 0.009497)])
def test_lloyd_max_levels_are_the_means_of_their_cells(n_bits, error):
    """Every level is the mean of its cell, and the error is that of Max's table."""
    table = kernels.lloyd_max_levels(n_bits).astype(float)
    grid = np.linspace(-8, 8, 1_600_001)
    density = np.exp(-grid * grid / 2) / math.sqrt(2 * math.pi) * (grid[1] - grid[0])
    largest = {2: 1.5104, 3: 2.1520, 4: 2.7326}[n_bits]  # Max, 1960, table 1
    levels = table * largest
    edges = [-np.inf, *((a + b) / 2 for a, b in itertools.pairwise(levels)), np.inf]
    cell = np.searchsorted(edges, grid) - 1
    means = [np.average(grid[cell == k], weights=density[cell == k]) for k in range(levels.size)]
    np.testing.assert_allclose(levels, means, atol=1e-4)
    assert abs((density * np.square(grid - levels[cell])).sum() - error) < 2e-5
    assert (table == -table[::-1]).all()
    assert NormalDist().cdf(levels[-1]) < 1


@given(st.data(), dtypes, tables, group_sizes, st.sampled_from(("absmax", "search", "weights")))
def test_codes_are_those_of_the_nearest_levels(data, dtype, name, group_size, kind):
    levels = TABLES[name]
    x = data.draw(matrices(dtype, max_rows=2, max_cols=70))
    w = affine.widen(x, dtype)
    cols = w.shape[1]
    element = st.one_of(st.just(0.0), st.floats(0.5, 2.0**90, width=32))
    h = np.array(data.draw(st.lists(element, min_size=cols, max_size=cols)), np.float32)
    given_weights = h if kind == "weights" else None
    encoded = kernels.quantize_codebook(
        x, dtype=dtype, levels=levels, group_size=group_size, search=kind != "absmax",
        weights=given_weights,
    )  # fmt: skip
    assert np.isfinite(encoded.scales).all()
    u = bitstream.unpack(encoded.codes, code_bits(levels.size), cols)
    np.testing.assert_array_equal(encoded.codes, bitstream.pack(u, code_bits(levels.size)))
    weights = np.ones(cols) if given_weights is None else h.astype(float)
    for r in range(w.shape[0]):
        for g, part in enumerate(affine.groups(cols, group_size)):
            scale, plain = encoded.scales[r, g], codebook.absmax(w[r, part], levels)
            np.testing.assert_array_equal(u[r, part], codebook.encode(w[r, part], scale, levels))
            if kind == "absmax":
                assert scale == plain
            least = codebook.error(w[r, part], weights[part], plain, levels)
            assert codebook.error(w[r, part], weights[part], scale, levels) <= least * (1 + 1e-9)
    v = codebook.decode_rows(u, encoded.scales, levels, group_size)
    np.testing.assert_array_equal(decoded(encoded, cols, group_size), v)
    np.testing.assert_allclose(encoded.errors.sum_e2, affine.error_sums(w, v)[1], rtol=1e-9)
    if given_weights is not None:
        e = (weights * np.square(w.astype(float) - v)).sum()
        np.testing.assert_allclose(encoded.weighted.sum_e2, e, rtol=1e-9)
    assert (encoded.weighted is None) == (given_weights is None)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("group_size", [64, 0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_search_agrees_with_its_twin(name, group_size, weighted):
    levels, x = TABLES[name], llm_like(4, 1000, 11)
    w = affine.widen(x, "BF16")
    h = np.random.default_rng(4).lognormal(0.0, 1.5, 1000).astype(np.float32)
    encoded = kernels.quantize_codebook(
        x, dtype="BF16", levels=levels, group_size=group_size, weights=h if weighted else None
    )
    weights = h.astype(float) if weighted else np.ones(1000)
    found, bar = 0.0, 0.0
    for r in range(4):
        for g, part in enumerate(affine.groups(1000, group_size)):
            scale = codebook.search(w[r, part], weights[part], levels, fast_codebook.RATIOS, REFITS)
            found += codebook.error(w[r, part], weights[part], encoded.scales[r, g], levels)
            bar += codebook.error(w[r, part], weights[part], scale, levels)
    np.testing.assert_allclose(found, bar, rtol=1e-3)


def test_the_search_pays():
    x = llm_like(64, 2048, 5)
    bars = {"nf4": (20.2, 0.6), "lloyd_max 2": (4.8, 3.5), "lloyd_max 4": (20.2, 0.4)}
    for name, (bar, gain) in bars.items():
        plain, searched = (
            kernels.quantize_codebook(
                x, dtype="BF16", levels=TABLES[name], group_size=64, search=search
            ).errors.sqnr_db
            for search in (False, True)
        )
        assert plain > bar
        assert searched > plain + gain


@given(st.floats(-65504, 65504, width=16))
def test_constant_groups_are_exact(value):
    w = np.full((2, 96), value, np.float32)
    encoded = kernels.quantize_codebook(w, dtype="F32", levels=TABLES["signs"], group_size=32)
    np.testing.assert_array_equal(decoded(encoded, 96, 32), w)


def test_bytes_and_sums_do_not_depend_on_threads():
    x = llm_like(160, 3003, 1)
    h = np.random.default_rng(8).random(3003, np.float32)
    first, *others = (
        kernels.quantize_codebook(
            x, dtype="BF16", levels=kernels.nf4_levels(), group_size=64, weights=h, threads=threads
        )
        for threads in (1, 2, 8)
    )
    for other in others:
        assert other.codes.tobytes() == first.codes.tobytes()
        assert other.scales.tobytes() == first.scales.tobytes()
        assert (other.errors, other.weighted) == (first.errors, first.weighted)


@pytest.mark.parametrize(
    "levels", [[1.0], np.zeros(4), [0.0, np.nan], [1.0, 0.5], np.arange(257.0), [0, np.inf]]
)
def test_what_is_no_codebook_is_refused(levels):
    with pytest.raises(ValueError, match="codebook"):
        kernels.quantize_codebook(
            np.ones((1, 8), np.float32), dtype="F32", levels=np.array(levels, np.float32),
            group_size=0,
        )  # fmt: skip
