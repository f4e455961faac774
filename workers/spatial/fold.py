"""`arrowquant fold`: a model whose channels are evened out, function-preserving, safetensors to safetensors.

Three passes, each a few MiB at a time: the weights of a group are read for the largest magnitudes of their
channels and held against the calibration's digests, the scales are chosen on some of their rows, and what
changes is rewritten in a copy of the files.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from arrowquant.calibration.reader import CalibrationFile
from service.domain.errors import ArrowQuantError
from service.domain.folding import Folds, Group, find
from service.domain.smoothing import Aggregate
from workers.spatial import files, scales
from workers.spatial.apply import Change, Changes
from workers.spatial.estimate import Target
from workers.spatial.files import Stored
from workers.spatial.groups import Seen, look
from workers.spatial.scales import Vector

Told = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """alpha      strength; None: the one of least estimated error for each group, or none at all
    aggregate  see scales.largest
    exact      powers of two alone
    target     how the result will be quantized, for the estimate
    """

    alpha: float | None = None
    aggregate: Aggregate = Aggregate.MEAN
    exact: bool = True
    target: Target = field(default_factory=Target)


@dataclass(frozen=True, slots=True)
class Folded:
    """A group as it was folded: `alpha` None where the estimate was best without.

    before, after  estimated squared error of the outputs over their square
    """

    group: Group
    s: Vector
    alpha: float | None
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done. `left`: why groups, by name, and matrices are as they were."""

    folded: tuple[Folded, ...]
    left: dict[str, str]

    def summary(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "groups": [
                {
                    "group": each.group.name,
                    "family": each.group.family,
                    "kind": each.group.kind,
                    "channels": each.group.channels,
                    "alpha": each.alpha,
                    "smallest": float(each.s.min()),
                    "largest": float(each.s.max()),
                    "error_before": each.before,
                    "error_after": each.after,
                }
                for each in self.folded
            ],
            "left": self.left,
        }


def plan(place: Path, calibration: Path, options: Options, told: Told = lambda _: None) -> Plan:
    """Choose the scales of every group.

    told  called with the name of each group that is looked at

    Raises source_not_found, invalid_safetensors_header, invalid_calibration, calibration_mismatch, and
    unsupported_format where no group is known
    """
    tensors = {n: t for n, t in files.tensors(place).items() if files.rewritable(t)}
    config = files.configuration(place)
    folds = find(
        {name: tensor.shape for name, tensor in tensors.items()},
        head_dim=config.head_dim,
        model_class=config.model_class,
    )
    if not folds.groups:
        raise ArrowQuantError(
            "unsupported_format",
            "nothing can be folded: no map of this architecture",
            "Quantize it with a calibration file instead: factors of columns are then stored beside the weights.",
            {"path": str(place), "model": config.model_class or ""},
        )
    with CalibrationFile.open(calibration) as file:
        return _planned(folds, tensors, file, options, told)


def _planned(
    folds: Folds, tensors: dict[str, Stored], file: CalibrationFile, options: Options, told: Told
) -> Plan:
    left, folded = dict(folds.explicit), []
    for group in folds.groups:
        told(group.name)
        seen = look(group, tensors, file, options.aggregate)
        if isinstance(seen, str):
            left[group.name] = seen
        else:
            folded.append(_chosen(seen, options))
    return Plan(tuple(folded), left)


def _chosen(seen: Seen, how: Options) -> Folded:
    """The scales of least estimated error, or those of the strength that was asked for."""

    def error(s: Vector) -> float:
        return seen.error(s, how.target)

    nothing: tuple[float | None, Vector] = (None, np.ones(seen.group.channels))
    before = error(nothing[1])
    asked = scales.ALPHAS if how.alpha is None else (how.alpha,)
    candidates: list[tuple[float | None, Vector]] = [
        (alpha, seen.scales(alpha, exact=how.exact)) for alpha in asked
    ]
    if how.alpha is None:
        candidates.insert(0, nothing)
    alpha, s, after = scales.choose(candidates, error)
    return Folded(seen.group, s, alpha, before, after)


def check_output(place: Path, out: Path, *, replace: bool) -> dict[Path, Path]:
    """The file that each file of the model becomes. Raises output_exists, source_not_found."""
    sources = files.files(place)
    targets = {file: _target(file, place, out) for file in sources}
    for file in targets.values():
        if file.exists() and (not replace or any(file.samefile(each) for each in sources)):
            raise ArrowQuantError(
                "output_exists",
                "the file is there already",
                "Choose another folder than the source's; --replace overwrites what another run wrote.",
                {"path": str(file)},
            )
    return targets


def write(place: Path, out: Path, plan: Plan, *, replace: bool = False) -> list[Path]:
    """The model with the plan's groups folded, in files of the same names; small files beside them are
    copied. They appear when all are complete. Raises output_exists."""
    target = check_output(place, out, replace=replace)
    beside = sorted(place.glob("*.json")) if place.is_dir() else []
    tensors = {n: t for n, t in files.tensors(place).items() if files.rewritable(t)}
    changes = _changes(tensors, plan)
    partial = {file: end.with_name(f".{end.name}.partial") for file, end in target.items()}
    try:
        for file, copy in partial.items():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            own = {n: c for n, c in changes.by_name.items() if tensors[n].file == file}
            _rewrite(copy, tensors, own)
        for file, end in target.items():
            partial[file].replace(end)
        for file in beside:
            shutil.copyfile(file, out / file.name)
    finally:
        for copy in partial.values():
            copy.unlink(missing_ok=True)
    return list(target.values())


def columns(place: Path, plan: Plan) -> dict[str, Vector]:
    """What the columns of weights are multiplied by, float64 (cols,), by name."""
    tensors = {n: t for n, t in files.tensors(place).items() if files.rewritable(t)}
    found = _changes(tensors, plan).by_name
    return {name: change.columns for name, change in found.items() if change.columns is not None}


def _changes(tensors: dict[str, Stored], plan: Plan) -> Changes:
    changes = Changes({name: (t.rows, t.cols) for name, t in tensors.items()})
    for folded in plan.folded:
        if folded.alpha is not None:
            changes.fold(folded.group, folded.s)
    return changes


def _rewrite(copy: Path, tensors: dict[str, Stored], changes: dict[str, Change]) -> None:
    """Write what changes over a copy of a file; the original is read."""
    with copy.open("r+b") as stream:
        for name, change in changes.items():
            tensor = tensors[name]
            stream.seek(tensor.head.start)
            for row, data in tensor.pieces():
                stream.write(tensor.stored(change.apply(tensor.values(data), row)))
        stream.flush()
        os.fsync(stream.fileno())


def _target(file: Path, place: Path, out: Path) -> Path:
    return out if place.is_file() and out.suffix == ".safetensors" else out / file.name
