"""Cutting times into runs: the recurrence against every possible cut."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kernels import partition
from tests.naive import histograms as naive


@given(st.data())
def test_no_cut_is_cheaper(data):
    times = data.draw(st.integers(1, 7))
    costs = data.draw(arrays.arrays(np.float64, (times, times + 1), elements=st.floats(0, 100)))
    found = partition.best_cuts(costs, times + 2)
    assert len(found) == times
    for runs, (cost, cut) in enumerate(found, start=1):
        totals = {
            every: sum(costs[i, j] for i, j in itertools.pairwise(every))
            for every in naive.cuts(times, runs)
        }
        assert cost == pytest.approx(min(totals.values()), abs=1e-9)
        assert totals[cut] == pytest.approx(cost, abs=1e-9)


@given(st.integers(1, 40), st.integers(1, 50), st.data())
def test_plain_cuts_have_no_empty_run(times, runs, data):
    counts = data.draw(arrays.arrays(np.int64, times, elements=st.integers(0, 100)))
    for cut in (partition.even_cuts(times, runs), partition.quantile_cuts(counts, runs)):
        assert len(cut) == min(times, runs) + 1
        assert (cut[0], cut[-1]) == (0, times)
        assert all(a < b for a, b in itertools.pairwise(cut))


def test_quantiles_follow_the_observations():
    counts = np.array([100, 100, 10, 10, 10, 10, 10, 50])
    assert partition.quantile_cuts(counts, 3) == (0, 1, 2, 8)


def test_further_runs_must_be_worth_it():
    assert partition.enough([100.0, 50.0, 49.0, 48.5], 0.05) == 2
    assert partition.enough([100.0, 99.0, 50.0], 0.05) == 3
    assert partition.enough([0.0, 0.0], 0.05) == 1
    assert partition.enough([10.0], 0.05) == 1
    assert partition.enough([10.0, 9.0, 8.0, 7.0], 0.0) == 4
