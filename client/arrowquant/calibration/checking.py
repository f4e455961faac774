"""Reading all of a calibration file, to say what is in it and that it is sound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from arrowquant.calibration import digests
from arrowquant.calibration.index import Index, Input, invalid
from arrowquant.calibration.reader import CalibrationFile
from arrowquant.calibration.statistics import Stats

#: The diagonal of the second moments is summed in float32, the squares in float64.
DIAGONAL_TOLERANCE = 1e-3


def describe(
    path: str | os.PathLike[str], weights: str | os.PathLike[str] | None
) -> dict[str, Any]:
    """What a file holds; every number in it is checked. Raises invalid_calibration.

    weights  safetensors whose digests are compared: `mismatches` names the weights that differ
    """
    vectors, holds = 0, {"diagonal second moments"}
    with CalibrationFile.open(path) as file:
        index = file.index
        for entry in index.inputs:
            stats = check_input(file, entry)
            vectors += stats.total()
            holds |= _holds(entry, stats)
        mismatches = [] if weights is None else list(_mismatches(index, weights))
    return {
        "file": Path(path).name,
        "bytes": Path(path).stat().st_size,
        "model": index.model,
        "revision": index.revision,
        "tool": index.tool,
        "domain": index.domain,
        "bins": index.bins,
        "branches": list(index.branches),
        "samples": index.samples,
        "vectors": vectors,
        "privacy": index.privacy,
        "meta": dict(index.meta),
        "weights": len(index.weights),
        "bound": sum(bool(weight.sha256) for weight in index.weights.values()),
        "holds": sorted(holds),
        "sensitivities": sum(w.sensitivity is not None for w in index.weights.values()),
        "inputs": [
            {"id": i.id, "n": i.n, "moment": i.moment, "block": i.block, "kept": i.kept}
            for i in index.inputs
        ],
        "mismatches": mismatches,
    }


def check_input(file: CalibrationFile, entry: Input) -> Stats:
    """Read everything of an input; its sums. Raises invalid_calibration."""
    stats = file.stats(entry.id)
    squares = stats.sum_sq.sum(axis=0)
    for panel in file.panels(entry.id):
        rows, cols = panel.data.shape
        offset = panel.row_start - panel.col_start
        diagonal = np.diagonal(panel.data, offset)
        check_diagonal(diagonal, squares[panel.row_start : panel.row_start + rows], entry.id)
        if rows == cols and not np.array_equal(panel.data, panel.data.T):
            raise invalid("its second moments are not symmetric", input=entry.id[:200])
    file.samples(entry.id)
    return stats


def check_diagonal(diagonal: Any, squares: Any, name: str) -> None:
    """Raise invalid_calibration unless second moments and sums of squares tell the same."""
    limit = DIAGONAL_TOLERANCE * squares + 1e-30
    if np.any(np.abs(diagonal.astype(np.float64) - squares) > limit):
        raise invalid("the diagonal of its second moments is not its squares", input=name[:200])


def _holds(entry: Input, stats: Stats) -> set[str]:
    found: set[str] = set()
    if entry.moment == "block":
        found.add(f"second moments in blocks of {entry.block}")
    elif entry.moment == "full":
        found.add("full second moments")
    if entry.kept:
        found.add("activation samples")
    if stats.sum is not None:
        found.add("means")
    if stats.hist is not None:
        found.add("ranges and histograms")
    return found


def _mismatches(index: Index, weights: str | os.PathLike[str]) -> Iterator[str]:
    found = digests.of_source(weights, index.weights)
    for name, weight in index.weights.items():
        if name not in found:
            yield f"{name} is not in the source"
        elif not weight.sha256:
            yield f"{name} has no digest"
        elif weight.sha256 != found[name]:
            yield f"{name} has other bytes"
