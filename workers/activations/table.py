"""`activations.arrow` of an artifact, from a calibration file.

The file is read input by input, twice: once to cut the times, once to fit. What was read first is kept as long as
it is small, so that most files are read once.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from arrowquant.artifact import activations as form
from arrowquant.calibration.reader import CalibrationFile
from arrowquant.calibration.statistics import Weighting
from kernels import histograms
from service.domain.activations import Activations
from workers.activations.choice import Choice, choose, own_cuts
from workers.activations.sampled import Sampled, sampled_errors
from workers.activations.timed import Timed, runs, timed

KEPT_BYTES = 64 * 2**20

_TYPES = {
    "string": pa.string(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bool": pa.bool_(),
}


@dataclass(frozen=True, slots=True)
class Table:
    """The file's bytes, and what the report repeats of it."""

    data: bytes
    summary: dict[str, Any]


class Source:
    """Inputs of a calibration file by time, those that were read first kept in memory: for all tables that
    are made of it."""

    def __init__(self, file: CalibrationFile, weighting: Weighting) -> None:
        self.file, self._weighting = file, weighting
        self._kept: dict[tuple[str, str | None], Timed | None] = {}
        self._held = 0
        self.times = file.index.bins

    def of(
        self, name: str, pause: Callable[[], None], *, per_branch: bool
    ) -> Iterator[tuple[str, Timed]]:
        """An input's branches, or '' for all together."""
        index = self.file.index
        branches: tuple[str | None, ...] = index.branches if per_branch else (None,)
        if (name, branches[0]) in self._kept:
            found = {branch: self._kept[name, branch] for branch in branches}
        else:
            pause()
            stats = self.file.stats(name)
            found = {
                branch: timed(stats, self.times, self._weighting, index.omega, branch)
                for branch in branches
            }
            size = sum(seen.nbytes for seen in found.values() if seen is not None)
            if self._held + size <= KEPT_BYTES:
                self._held += size
                self._kept |= {(name, branch): seen for branch, seen in found.items()}
        yield from ((branch or "", seen) for branch, seen in found.items() if seen is not None)


def make(
    source: Source,
    layers: Sequence[str],
    how: Activations,
    most: int,
    pause: Callable[[], None],
    *,
    divided: bool = False,
) -> Table | None:
    """The table of some layers' inputs; None if the file has histograms of none of them.

    layers  names of weights, in the order of the rows
    most    groups of times, unless the recipe says how many
    pause   called between inputs; may raise to stop
    divided a runtime divides inputs by factors before they are quantized, where a tensor has any: the table
            says so, and its static ranges are those of inputs before that
    """
    file, index = source.file, source.file.index
    inputs = {name: index.weights[name].input for name in layers}
    unique = dict.fromkeys(inputs.values())
    choice = choose(
        (seen for name in unique for _, seen in source.of(name, pause, per_branch=how.per_branch)),
        source.times,
        how,
        most,
    )
    fitted = {
        name: [
            (branch, _fit(seen, choice, how))
            for branch, seen in source.of(name, pause, per_branch=how.per_branch)
        ]
        for name in unique
    }
    if not any(fitted.values()):
        return None
    edges = _edges(index.edges, source.times)
    measured = sampled_errors(file, fitted, how, pause)
    mode = _mode(how, measured)
    rows = [
        _row(layer, branch, number, group, edges, how)
        for layer in layers
        for branch, groups in fitted[inputs[layer]]
        for number, group in enumerate(groups)
    ]
    summary = _summary(
        index.domain, edges, choice, measured, mode, how, len({r["layer"] for r in rows})
    )
    if divided:
        summary["divided_by"] = "col_scale"
    return Table(_file(rows, {"version": form.VERSION, **summary}), summary)


@dataclass(frozen=True, slots=True)
class Group:
    """A quantizer and the run of time bins it is for."""

    start: int
    stop: int
    scale: np.float32
    zero: int
    vectors: int
    error: float


def _fit(seen: Timed, choice: Choice, how: Activations) -> list[Group]:
    cuts = own_cuts(seen, choice.cuts, how) if how.per_layer else choice.cuts
    return [_group(seen, start, stop, how) for start, stop in runs(cuts)]


def _group(seen: Timed, start: int, stop: int, how: Activations) -> Group:
    counts, low, high, vectors = seen.run(start, stop)
    if not vectors:  # nothing was seen then: what fits all times
        counts, low, high, _ = seen.run(0, len(seen.vectors))
    scale, zero, error = histograms.quantizer(
        seen.edges,
        counts,
        low,
        high,
        bits=how.bits,
        symmetric=how.symmetric,
        clip=how.clip == "mse",
    )
    # Against the mean energy of this input, so that groups of little signal do not look bad.
    share = float(counts.sum()) / float(seen.counts.sum())
    energy = seen.energy * share
    return Group(start, stop, scale, zero, vectors, error / energy if energy > 0 else 0.0)


def _edges(edges: Sequence[float], times: int) -> tuple[float, ...]:
    return tuple(edges) if len(edges) == times + 1 else (0.0, 0.0)


def _mode(how: Activations, measured: Sampled | None) -> Literal["static", "dynamic_per_token"]:
    if how.mode in ("static", "dynamic_per_token"):
        return how.mode
    if measured is None or measured.dynamic <= measured.static:
        return "dynamic_per_token"
    return "static"


def _row(
    layer: str, branch: str, number: int, group: Group, edges: tuple[float, ...], how: Activations
) -> dict[str, Any]:
    return {
        "layer": layer,
        "branch": branch,
        "group": number,
        "t_lo": edges[group.start],
        "t_hi": edges[group.stop],
        "bits": how.bits,
        "symmetric": how.symmetric,
        "granularity": "per_tensor",
        "scale": float(group.scale),
        "zero_point": group.zero,
        "count": group.vectors,
        "error": group.error,
    }


def _summary(
    domain: str,
    edges: tuple[float, ...],
    choice: Choice,
    measured: Sampled | None,
    mode: str,
    how: Activations,
    layers: int,
) -> dict[str, Any]:
    """Relative errors are means over layers."""
    told: dict[str, Any] = {
        "domain": domain,
        "mode": mode,
        "bits": how.bits,
        "layers": layers,
        "groups": len(choice.cuts) - 1,
        "boundaries": [edges[cut] for cut in choice.cuts],
        "chosen_by": how.boundaries,
        "clip": how.clip,
        "expected_error": {
            name: [_digits(value) for value in getattr(choice, name)]
            for name in ("optimal", "uniform", "quantile")
        },
    }
    if measured is not None:
        told["sampled_error"] = {
            "static": _digits(measured.static),
            "dynamic_per_token": _digits(measured.dynamic),
            "vectors": measured.vectors,
        }
    return told


def _file(rows: list[dict[str, Any]], head: dict[str, Any]) -> bytes:
    fields = [pa.field(name, _TYPES[kind], nullable=name == "error") for name, kind in form.COLUMNS]
    schema = pa.schema(fields, metadata={form.KEY: json.dumps(head, separators=(",", ":"))})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    return sink.getvalue()


def _digits(value: float) -> float:
    return float(f"{value:.6g}")
