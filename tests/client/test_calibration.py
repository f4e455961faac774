"""Calibration files: what is written is read back, shards add up, and strangers' files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrowquant.calibration import histogram, layout
from arrowquant.calibration.accumulate import Accumulator
from arrowquant.calibration.bins import bin_of, edges_between
from arrowquant.calibration.checking import describe
from arrowquant.calibration.digests import Checker, digests
from arrowquant.calibration.index import Index, Input, Sensitivity, Weight, parse
from arrowquant.calibration.merge import merge
from arrowquant.calibration.reader import CalibrationFile
from arrowquant.calibration.statistics import Samples, Stats, add_samples, add_stats
from arrowquant.errors import CalibrationError
from tests.client import calibrations

BRANCHES = ("", "cond")


def rows(seed: int, count: int = 200, n: int = 40) -> np.ndarray[Any, np.dtype[np.float32]]:
    return calibrations.activations(np.random.default_rng(seed), count, n)


def test_what_was_captured_is_read_back(tmp_path: Path) -> None:
    x = rows(1)
    times = np.linspace(0, 999, len(x))
    calibrations.write(
        tmp_path / "c.arrow",
        {"a.weight": x},
        shared={"a.weight": ["b.weight"]},
        times=times,
        keep=30,
    )
    with CalibrationFile.open(tmp_path / "c.arrow") as file:
        entry = file.index.by_id[file.index.weights["b.weight"].input]
        assert (entry.id, entry.n, entry.moment, entry.block) == ("a.weight#in", 40, "block", 16)
        stats = file.stats(entry.id)
        assert stats.bins.tolist() == [0, 1, 2]
        assert stats.count.tolist() == [50, 50, 100]
        wide = x.astype(np.float64)
        np.testing.assert_allclose(stats.mean_square(), (wide**2).mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(stats.mean(), wide.mean(axis=0), atol=1e-9)
        assert stats.abs_max is not None
        assert stats.low is not None
        assert stats.hist is not None
        np.testing.assert_array_equal(stats.abs_max.max(axis=0), np.abs(x).max(axis=0))
        assert stats.low.min() == x.min()
        assert stats.hist.sum() == x.size
        for panel in file.panels(entry.id):
            place = slice(panel.row_start, panel.row_start + len(panel.data))
            np.testing.assert_allclose(
                panel.data, x[:, place].T @ x[:, place], rtol=1e-4, atol=1e-3
            )
        samples = file.samples(entry.id)
        assert samples is not None
        assert samples.data.shape == (30, 40)
        known = {row.tobytes() for row in x.astype(np.float16)}
        assert all(row.tobytes() in known for row in samples.data)
        # A bin that was seen as often as another counts as much, whatever its share.
        groups = [wide[:50], wide[50:100], wide[100:]]
        uniform = np.mean([(g**2).mean(axis=0) for g in groups], axis=0)
        np.testing.assert_allclose(stats.mean_square("uniform"), uniform, rtol=1e-12)
        omega = (
            np.average([(g**2).sum(axis=0) for g in groups], axis=0, weights=[4, 1, 0]) * 5 / 250
        )
        np.testing.assert_allclose(stats.mean_square(omega=(4, 1, 0)), omega, rtol=1e-12)


def test_a_full_matrix_is_cut_into_runs_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "PANEL_BYTES", 4 * 40 * 7)
    x = rows(2)
    calibrations.write(tmp_path / "c.arrow", {"a.weight": x}, moment="full")
    with CalibrationFile.open(tmp_path / "c.arrow") as file:
        panels = list(file.panels("a.weight#in"))
    assert [len(panel.data) for panel in panels] == [7, 7, 7, 7, 7, 5]
    whole = np.concatenate([panel.data for panel in panels])
    np.testing.assert_array_equal(whole, whole.T)
    np.testing.assert_allclose(whole, x.T @ x, rtol=1e-4, atol=1e-3)
    assert "full second moments" in describe(tmp_path / "c.arrow", None)["holds"]


def test_shards_add_up_to_one_capture(tmp_path: Path) -> None:
    x = rows(3, 300)
    times = np.linspace(0, 999, 300)
    parts = [slice(0, 90), slice(90, 160), slice(160, 300)]
    for number, part in enumerate(parts):
        calibrations.write(
            tmp_path / f"{number}.arrow",
            {"a.weight": x[part]},
            times=times[part],
            keep=50,
            seed=number,
        )
    calibrations.write(tmp_path / "whole.arrow", {"a.weight": x}, times=times, keep=50)
    files = [tmp_path / f"{number}.arrow" for number in range(3)]
    merge(files, tmp_path / "abc.arrow")
    merge(files[::-1], tmp_path / "cba.arrow")
    merge(files[:2], tmp_path / "ab.arrow")
    merge([tmp_path / "ab.arrow", files[2]], tmp_path / "ab-c.arrow")
    found = {}
    for name in ("whole", "abc", "cba", "ab-c"):
        with CalibrationFile.open(tmp_path / f"{name}.arrow") as file:
            panels = [panel.data for panel in file.panels("a.weight#in")]
            found[name] = (file.stats("a.weight#in"), panels, file.samples("a.weight#in"))
            assert describe(tmp_path / f"{name}.arrow", None)["samples"] == (
                64 if name == "whole" else 192
            )
    whole, _, _ = found["whole"]
    one, squares, kept = found["abc"]
    assert kept is not None
    for name in ("abc", "cba", "ab-c"):
        stats, panels, samples = found[name]
        assert samples is not None
        np.testing.assert_array_equal(stats.count, whole.count)
        np.testing.assert_array_equal(stats.hist, whole.hist)
        np.testing.assert_array_equal(stats.abs_max, whole.abs_max)
        np.testing.assert_allclose(stats.sum_sq, whole.sum_sq, rtol=1e-12)
        np.testing.assert_array_equal(samples.data, kept.data)
        np.testing.assert_array_equal(samples.keys, kept.keys)
        for a, b in zip(panels, squares, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-3)
    assert np.all(np.diff(one.bins) > 0)


@st.composite
def some_stats(draw: st.DrawFn) -> Stats:
    """Integers below 2^40: their sums in float64 are exact, so that equal means equal."""
    keys = draw(
        st.lists(
            st.tuples(st.integers(0, 3), st.sampled_from(BRANCHES)),
            min_size=1,
            max_size=4,
            unique=True,
        )
    )
    keys.sort()
    whole = st.integers(0, 2**40)
    n, count = 3, len(keys)

    def matrix(values: st.SearchStrategy[int]) -> np.ndarray[Any, np.dtype[np.float64]]:
        return (
            np.array(draw(st.lists(values, min_size=n * count, max_size=n * count)))
            .reshape(count, n)
            .astype(float)
        )

    ends = np.sort(
        np.array(
            draw(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2 * count, max_size=2 * count))
        ).reshape(2, count),
        axis=0,
    )
    return Stats(
        bins=np.array([k[0] for k in keys], np.int32),
        branches=tuple(k[1] for k in keys),
        count=np.array(draw(st.lists(whole, min_size=count, max_size=count))),
        sum_sq=matrix(whole),
        sum=matrix(st.integers(-(2**40), 2**40)),
        abs_max=matrix(st.integers(0, 2**20)).astype(np.float32),
        low=ends[0].astype(np.float32),
        high=ends[1].astype(np.float32),
        hist=None,
    )  # fmt: skip


def same(one: Stats, other: Stats) -> bool:
    names = ("bins", "count", "sum_sq", "sum", "abs_max", "low", "high")
    return one.branches == other.branches and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in names
    )


@settings(deadline=None)
@given(some_stats(), some_stats(), some_stats())
def test_adding_is_associative_and_commutative(a: Stats, b: Stats, c: Stats) -> None:
    def add(one: Stats, other: Stats) -> Stats:
        return add_stats(one, other, BRANCHES)

    assert same(add(a, b), add(b, a))
    assert same(add(add(a, b), c), add(a, add(b, c)))


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 40), max_size=12), min_size=3, max_size=3), st.integers(1, 12)
)
def test_the_smallest_keys_stay_however_shards_are_merged(keys: list[list[int]], most: int) -> None:
    """Also with equal keys, of which the values decide."""
    rng = np.random.default_rng(7)
    shards = [
        Samples(
            rng.normal(size=(len(k), 2)).astype(np.float16),
            np.zeros(len(k), np.int32),
            np.array(k, np.uint64),
        ).smallest(most)
        for k in keys
    ]
    a, b, c = shards
    left = add_samples(add_samples(a, b, most), c, most)
    right = add_samples(a, add_samples(c, b, most), most)
    np.testing.assert_array_equal(left.keys, right.keys)
    np.testing.assert_array_equal(left.data, right.data)


def test_samples_are_a_uniform_draw() -> None:
    """Each of 60 rows is kept 10 times in 60, whether it came early or late."""
    x = np.arange(60, dtype=np.float32)[:, None]
    kept = np.zeros(60)
    for seed in range(600):
        held = Accumulator("a", 1, keep=10, seed=seed)
        for start in range(0, 60, 15):
            held.add(x[start : start + 15], np.zeros(15, np.int32), "")
        kept[held.samples().data[:, 0].astype(int)] += 1
    assert kept.sum() == 6000
    # Binomial with mean 100 and deviation 9.1; five of them.
    assert np.all(np.abs(kept - 100) < 46)
    assert abs(kept[:30].mean() - kept[30:].mean()) < 6


@given(st.lists(st.floats(-(2.0**40), 2.0**40, width=32), min_size=1, max_size=60))
def test_histograms_count_every_value_between_its_edges(values: list[float]) -> None:
    x = np.array(values, np.float32)
    edges = histogram.edges()
    assert len(edges) == histogram.BINS + 1
    counts = histogram.count(x)
    assert counts.sum() == len(x)
    for value in x:
        number = int(np.flatnonzero(histogram.count(np.array([value])))[0])
        inside = min(max(float(value), edges[0]), edges[-1])
        slack = 1e-6 * abs(inside)
        assert edges[number] - slack <= inside <= edges[number + 1] + slack


def test_bins() -> None:
    edges = (0.0, 10.0, 20.0)
    times = np.array([-5.0, 0, 9.9, 10, 19, 20, 99])
    assert bin_of(times, edges).tolist() == [0, 0, 0, 1, 1, 1, 1]
    between = edges_between([900, 100, 500, 100])
    assert bin_of(np.array([100.0, 500, 900]), between).tolist() == [0, 1, 2]
    assert edges_between([5.0]) == ()


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_digests_are_checked_from_anywhere(data: st.DataObject) -> None:
    """Whatever rows are read in whatever pieces, each 4 MiB is checked by who reads its first byte."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("arrowquant.calibration.digests.CHUNK_BYTES", 16)
        nbytes = data.draw(st.integers(1, 90))
        whole = np.random.default_rng(nbytes).integers(0, 256, nbytes).astype(np.uint8).tobytes()
        expected = digests(memoryview(whole))
        cuts = sorted(data.draw(st.lists(st.integers(0, nbytes), max_size=5)))
        spoilt = bytearray(whole)
        where = data.draw(st.integers(0, nbytes - 1))
        spoilt[where] ^= 1

        def passes(content: bytes) -> bool:
            ok = True
            for start, stop in zip([0, *cuts], [*cuts, nbytes], strict=True):
                checker = Checker(expected, nbytes, start)
                assert checker.fits()
                ok = checker.feed(memoryview(content)[start:stop]) and ok
                first, last = checker.rest()
                assert last - first < 16
                ok = checker.feed(memoryview(content)[first:last]) and ok
            return ok

        assert passes(whole)
        assert not passes(bytes(spoilt))
        assert not Checker(expected, nbytes + 32, 0).fits()


def test_nan_is_refused_where_it_is_captured() -> None:
    held = Accumulator("layer", 4)
    with pytest.raises(CalibrationError, match="NaN or Inf") as failure:
        held.add(np.full((2, 4), np.nan, np.float32), np.zeros(2, np.int32), "")
    assert failure.value.where == {"input": "layer"}


def test_an_unfinished_file_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was not written"):
        _write_none(tmp_path)
    assert list(tmp_path.iterdir()) == []


def _write_none(folder: Path) -> None:
    from arrowquant.calibration.index import Index, Input
    from arrowquant.calibration.writer import CalibrationWriter

    with CalibrationWriter(folder / "c.arrow", Index((Input("a", 4),), {})):
        pass


@pytest.mark.parametrize("what", ["edges", "weights", "moment", "keep"])
def test_what_cannot_be_merged(tmp_path: Path, what: str) -> None:
    x, other = rows(5), rows(6)
    wide: dict[str, Any] = {"weights": {"a.weight": b"1"}}
    calibrations.write(tmp_path / "a.arrow", {"a.weight": x}, **wide)
    changed: dict[str, Any] = {
        "edges": {"times": np.linspace(0, 999, len(x))},
        "weights": {"weights": {"a.weight": b"2"}},
        "moment": {"moment": "full"},
        "keep": {"keep": 3},
    }[what]
    calibrations.write(tmp_path / "b.arrow", {"a.weight": other}, **wide | changed)
    with pytest.raises(CalibrationError) as failure:
        merge([tmp_path / "a.arrow", tmp_path / "b.arrow"], tmp_path / "c.arrow")
    assert failure.value.code == "calibration_mismatch"
    assert not (tmp_path / "c.arrow").exists()


def test_sensitivities_are_read_back_and_merged_by_their_runs(tmp_path: Path) -> None:
    """A shard without them takes nothing away; the order does not matter."""
    known = [{"a.weight": (2.0, 1)}, {"a.weight": (8.0, 2), "b.weight": (0.5, 4)}, None]
    paths = []
    for seed, told in enumerate(known):
        paths.append(tmp_path / f"{seed}.arrow")
        calibrations.write(
            paths[-1],
            {"a.weight": rows(seed)},
            shared={"a.weight": ["b.weight"]},
            seed=seed,
            sensitive=told,
        )
    for order in (paths, paths[::-1]):
        merged = merge(order, tmp_path / "sum.arrow")
        with CalibrationFile.open(tmp_path / "sum.arrow") as file:
            assert file.index.weights == merged.weights
            found = {name: w.sensitivity for name, w in file.index.weights.items()}
        assert found == {"a.weight": Sensitivity(6.0, 3), "b.weight": Sensitivity(0.5, 4)}
    assert describe(tmp_path / "sum.arrow", None)["sensitivities"] == 2
    assert describe(paths[2], None)["sensitivities"] == 0


@pytest.mark.parametrize(
    "told", [3.0, [1.0], [0.0, 1], [-1.0, 1], [float("inf"), 1], [1.0, 0], [1.0, True], ["1", 1]]
)
def test_a_sensitivity_that_cannot_be(told: Any) -> None:
    index = Index((Input("x", 8),), {"a": Weight("a", "x")})
    value = json.loads(index.dump())
    parse(json.dumps(value).encode())
    value["weights"]["a"]["sensitivity"] = told
    with pytest.raises(CalibrationError, match="sensitivity") as failure:
        parse(json.dumps(value).encode())
    assert failure.value.code == "invalid_calibration"
