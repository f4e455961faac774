"""Quantizers of activations: the closed form against small steps, and the search against a plain one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrowquant.calibration import histogram
from kernels import histograms
from tests.naive import histograms as naive

EDGES = histogram.edges()


def counted(values):
    """Histogram, smallest and largest, as a calibration file has them."""
    values = np.asarray(values, np.float32)
    return histogram.count(values).astype(np.float64), float(values.min()), float(values.max())


SHAPES = {
    "gaussian": lambda r: r.standard_normal(4000),
    "heavy": lambda r: r.standard_t(3, 4000) * 0.01,
    "positive": lambda r: np.abs(r.standard_normal(4000)) * 30,
    "offset": lambda r: 5 + r.standard_normal(4000) * 0.1,
    "two": lambda r: np.concatenate([np.full(10, -8.0), r.standard_normal(2000) * 0.1]),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_closed_form_equals_small_steps(shape, bits, symmetric):
    counts, low, high = counted(SHAPES[shape](np.random.default_rng(bits)))
    for clip in (False, True):
        scale, zero, error = histograms.quantizer(
            EDGES, counts, low, high, bits=bits, symmetric=symmetric, clip=clip
        )
        plain = naive.squared_error(EDGES, counts, low, high, float(scale), zero, bits)
        assert error == pytest.approx(plain, rel=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_what_the_histogram_says_is_what_the_values_get(shape):
    values = SHAPES[shape](np.random.default_rng(7)).astype(np.float32)
    counts, low, high = counted(values)
    scale, zero, error = histograms.quantizer(EDGES, counts, low, high, bits=4)
    q = np.clip(np.rint(values / scale) + zero, 0, 15)
    real = float(np.sum((values - scale * (q - zero)).astype(np.float64) ** 2))
    # Far from zero a bin of the histogram is as wide as a step: there the density within it matters.
    assert error == pytest.approx(real, rel=0.25 if shape == "offset" else 0.05)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_clipping_is_never_worse_and_near_the_best_of_a_fine_grid(shape, symmetric):
    counts, low, high = counted(SHAPES[shape](np.random.default_rng(3)))
    _, _, wide = histograms.quantizer(
        EDGES, counts, low, high, bits=4, symmetric=symmetric, clip=False
    )
    _, _, found = histograms.quantizer(EDGES, counts, low, high, bits=4, symmetric=symmetric)
    best = wide
    for a in np.geomspace(0.05, 1, 60):
        for b in np.geomspace(0.05, 1, 60) if not symmetric else (a,):
            rule = histograms.rule1(min(low, 0.0) * a, max(high, 0.0) * b, 4, symmetric)
            best = min(best, histograms.squared_error1(EDGES, counts, low, high, *rule))
    assert found <= wide
    assert found <= (1.1 if shape == "offset" else 1.03) * best


@given(st.data())
def test_any_histogram_gives_a_quantizer(data):
    values = data.draw(
        st.lists(
            st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40
        )
    )
    counts, low, high = counted(values)
    bits = data.draw(st.integers(2, 8))
    for symmetric in (False, True):
        for clip in (False, True):
            scale, zero, error = histograms.quantizer(
                EDGES, counts, low, high, bits=bits, symmetric=symmetric, clip=clip
            )
            assert 0 < scale < np.inf
            assert 0 <= zero < 2**bits
            assert 0 <= error < np.inf


def test_a_range_that_fits_loses_at_most_a_step():
    values = np.random.default_rng(1).standard_normal(1000)
    counts, low, high = counted(values)
    scale, zero, _ = histograms.quantizer(EDGES, counts, low, high, bits=8, clip=False)
    q = np.clip(np.rint(values / scale) + zero, 0, 255)
    assert np.max(np.abs(values - scale * (q - zero))) <= 1.001 * scale


def test_runs_of_times_cost_what_their_merged_histogram_costs():
    random = np.random.default_rng(5)
    seen = [counted(random.standard_normal(500) * size) for size in (4, 2, 1, 0.5)]
    counts, lows, highs = (np.array(each) for each in zip(*seen, strict=True))
    errors = histograms.run_errors(EDGES, counts, lows, highs, bits=4, clip=False)
    for i in range(4):
        for j in range(5):
            if j <= i:
                assert errors[i, j] == 0
                continue
            merged = counts[i:j].sum(axis=0)
            _, _, error = histograms.quantizer(
                EDGES, merged, lows[i:j].min(), highs[i:j].max(), bits=4, clip=False
            )
            assert errors[i, j] == pytest.approx(error, rel=1e-12)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", ["gaussian", "heavy", "positive"])
def test_runs_with_clipping_cost_about_what_a_search_finds_and_no_less_than_their_parts(
    shape, symmetric
):
    random = np.random.default_rng(6)
    seen = [counted(SHAPES[shape](random) * size) for size in (8, 4, 2, 1, 0.5)]
    counts, lows, highs = (np.array(each) for each in zip(*seen, strict=True))
    for bits in (4, 8):
        how = {"bits": bits, "symmetric": symmetric}
        errors = histograms.run_errors(EDGES, counts, lows, highs, **how)
        for i in range(5):
            for j in range(i + 1, 6):
                merged = counts[i:j].sum(axis=0)
                low, high = lows[i:j].min(), highs[i:j].max()
                _, _, error = histograms.quantizer(EDGES, merged, low, high, **how)
                assert errors[i, j] == pytest.approx(error, rel=0.2)
                for k in range(i + 1, j):
                    assert errors[i, j] >= (errors[i, k] + errors[k, j]) * (1 - 1e-9)


def test_times_at_which_nothing_was_seen_cost_nothing():
    counts, low, high = counted(np.random.default_rng(2).standard_normal(500))
    none = np.zeros_like(counts)
    errors = histograms.run_errors(
        EDGES,
        np.array([none, counts, none]),
        np.array([np.inf, low, np.inf]),
        np.array([-np.inf, high, -np.inf]),
        bits=4,
    )
    assert errors[0, 1] == errors[2, 3] == 0
    assert errors[0, 2] == errors[1, 2] == errors[1, 3] == errors[0, 3] > 0
    nothing = histograms.run_errors(
        EDGES, none[None], np.array([np.inf]), np.array([-np.inf]), bits=4
    )
    assert not nothing.any()
