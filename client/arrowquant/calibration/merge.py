"""Merging shards of one capture: sums and counts add, ranges widen, the smallest sample keys stay.

Merging is associative and commutative: exactly so for counts, ranges, histograms and samples, up to
the last digits of float64 for sums and of float32 for second moments.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arrowquant.calibration import layout
from arrowquant.calibration.index import Index, Input, Weight
from arrowquant.calibration.reader import CalibrationFile
from arrowquant.calibration.statistics import Samples, Stats, add_samples, add_stats
from arrowquant.calibration.writer import CalibrationWriter
from arrowquant.errors import CalibrationError


def merge(paths: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]) -> Index:
    """Write the sum of some files to another one, and return its index.

    Inputs are read one at a time. Raises calibration_mismatch where the files are not of the same
    weights and time bins, and invalid_calibration.
    """
    with ExitStack() as stack:
        files = [stack.enter_context(CalibrationFile.open(path)) for path in paths]
        names = [Path(path).name for path in paths]
        index = _add_indexes([file.index for file in files], names)
        rows = {entry.id: _rows(files, entry.id) for entry in index.inputs}
        inputs = tuple(replace(entry, rows=rows[entry.id]) for entry in index.inputs)
        index = replace(index, inputs=inputs)
        with CalibrationWriter(out, index) as writer:
            for entry in index.inputs:
                having = [file for file in files if entry.id in file.index.by_id]
                writer.write(
                    _stats(having, entry.id, index.branches),
                    _panels(having, entry),
                    _samples(having, entry),
                )
    return index


def _stats(files: Sequence[CalibrationFile], name: str, branches: Sequence[str]) -> Stats:
    return reduce(
        lambda one, other: add_stats(one, other, branches), (file.stats(name) for file in files)
    )


def _rows(files: Sequence[CalibrationFile], name: str) -> int:
    """Pairs of bin and branch that any of them has seen."""
    seen = set()
    for file in files:
        if name in file.index.by_id:
            stats = file.stats(name)
            seen |= {*zip(stats.bins.tolist(), stats.branches, strict=True)}
    return len(seen)


def _panels(files: Sequence[CalibrationFile], entry: Input) -> Iterator[NDArray[np.float32]]:
    for number in range(len(layout.panels(entry.n, entry.moment, entry.block))):
        total = files[0].panel(entry.id, number).data.astype(np.float64)
        for file in files[1:]:
            total += file.panel(entry.id, number).data
        yield total.astype(np.float32)


def _samples(files: Sequence[CalibrationFile], entry: Input) -> Samples | None:
    if not entry.kept:
        return None
    found = [samples for file in files if (samples := file.samples(entry.id)) is not None]
    keys = np.concatenate([samples.keys for samples in found])
    if len(np.unique(keys)) < len(keys):
        raise CalibrationError(
            "calibration_mismatch",
            "the files cannot be merged: they drew their samples with one seed",
            "Merge each shard once, and capture shards with seeds of their own.",
            {"input": entry.id[:200]},
        )
    return reduce(lambda one, other: add_samples(one, other, entry.kept), found).smallest(
        entry.kept
    )


def _add_indexes(indexes: Sequence[Index], names: Sequence[str]) -> Index:
    first = indexes[0]
    for index, name in zip(indexes[1:], names[1:], strict=True):
        for what in ("model", "revision", "domain", "edges", "omega", "keep"):
            if getattr(index, what) != getattr(first, what):
                raise _mismatch(f"{what} is not that of {names[0]}", file=name)
    inputs: dict[str, Input] = {}
    weights: dict[str, Weight] = {}
    for index, name in zip(indexes, names, strict=True):
        for entry in index.inputs:
            inputs[entry.id] = _add_inputs(inputs.get(entry.id), entry, first.keep, name)
        for weight in index.weights.values():
            known = weights.setdefault(weight.name, replace(weight, sensitivity=None))
            if known != replace(weight, sensitivity=known.sensitivity):
                raise _mismatch("it has another digest or input", file=name, tensor=weight.name)
            if weight.sensitivity is not None:
                mean = weight.sensitivity
                mean = mean if known.sensitivity is None else known.sensitivity + mean
                weights[weight.name] = replace(known, sensitivity=mean)
    shared = {
        key: value
        for key, value in first.meta.items()
        if all(index.meta.get(key) == value for index in indexes)
    }
    return replace(
        first,
        inputs=tuple(inputs[name] for name in sorted(inputs)),
        weights=weights,
        branches=tuple(sorted({b for index in indexes for b in index.branches})),
        samples=sum(index.samples for index in indexes),
        privacy="samples" if any(i.privacy == "samples" for i in indexes) else "aggregate",
        meta=shared,
    )


def _add_inputs(one: Input | None, other: Input, keep: int, file: str) -> Input:
    if one is None:
        return other
    if (one.n, one.moment, one.block) != (other.n, other.moment, other.block):
        raise _mismatch("it has other channels or second moments", file=file, input=other.id)
    # A shard that kept fewer rows than it might had seen no more of them.
    kept = min(keep, one.kept + other.kept)
    return replace(one, kept=kept, means=one.means and other.means)


def _mismatch(detail: str, **where: str) -> CalibrationError:
    return CalibrationError(
        "calibration_mismatch",
        f"the files cannot be merged: {detail}",
        "Merge shards of one capture: the same weights, time bins and second moments.",
        where,
    )
