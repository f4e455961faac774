"""`activations.arrow`: how the inputs of layers are to be quantized, by diffusion time.

One row for each layer (by its weight's name), branch of guidance and group of times; the schema's metadata
holds a JSON head. The form is in docs/artifact-format.md.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from arrowquant.artifact import schema
from arrowquant.artifact.manifest import activations_name, invalid
from arrowquant.errors import ArtifactError

Mode = Literal["static", "dynamic_per_token"]

KEY: Final = b"arrowquant.activations"
VERSION: Final = 1
MAX_BYTES: Final = 256 * 2**20
MAX_ROWS: Final = 2_000_000
COLUMNS: Final = (
    ("layer", "string"),
    ("branch", "string"),
    ("group", "int32"),
    ("t_lo", "double"),
    ("t_hi", "double"),
    ("bits", "int16"),
    ("symmetric", "bool"),
    ("granularity", "string"),
    ("scale", "float"),
    ("zero_point", "int32"),
    ("count", "int64"),
    ("error", "float"),
)


@dataclass(frozen=True, slots=True)
class Activation:
    """How the input of a layer is quantized: q = clip(round(x / scale) + zero_point, 0, 2^bits - 1).

    mode           static: `scale` and `zero_point` hold for all values, while t_lo <= t < t_hi;
                   dynamic_per_token: each vector along the last axis gets its own from its range,
                   when it is there, and both are None
    granularity    per_tensor or per_token
    expected_error squared error over signal, of what calibration saw in this group of times (static)
    """

    layer: str
    mode: Mode
    bits: int
    symmetric: bool
    granularity: str
    scale: float | None
    zero_point: int | None
    group: int
    t_lo: float
    t_hi: float
    branch: str
    expected_error: float | None

    def quantize(
        self, x: ArrayLike
    ) -> tuple[NDArray[np.uint16], NDArray[np.float32], NDArray[np.int32]]:
        """Codes of x (..., channels), with their scales and zero points, which broadcast against x."""
        values = np.asarray(x, np.float32)
        scale, zero = self._parameters(values)
        top = np.float32((1 << self.bits) - 1)
        codes = np.clip(np.rint(values / scale) + zero, 0, top)
        return codes.astype(np.uint16), scale, zero.astype(np.int32)

    def simulate(self, x: ArrayLike) -> NDArray[np.float32]:
        """x as it is after being quantized and decoded: scale * (q - zero_point), float32."""
        codes, scale, zero = self.quantize(x)
        return scale * (codes.astype(np.float32) - zero.astype(np.float32))

    def _parameters(
        self, values: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        if self.scale is not None and self.zero_point is not None:
            return np.array(self.scale, np.float32), np.array(self.zero_point, np.float32)
        low = np.minimum(values.min(axis=-1, keepdims=True), 0)
        high = np.maximum(values.max(axis=-1, keepdims=True), 0)
        if self.symmetric:
            middle = 1 << (self.bits - 1)
            scale = np.maximum(-low, high) / np.float32(middle - 1)
            zero = np.full_like(scale, middle)
        else:
            scale = (high - low) / np.float32((1 << self.bits) - 1)
            zero = np.rint(-low / np.where(scale > 0, scale, 1))
        return np.where(scale > 0, scale, np.float32(1)), zero


@dataclass(frozen=True, slots=True)
class _Row:
    group: int
    t_lo: float
    t_hi: float
    bits: int
    symmetric: bool
    granularity: str
    scale: float
    zero_point: int
    count: int
    error: float | None


class Activations:
    """The table, checked. `head` is the JSON of the file as it stands."""

    def __init__(self, head: Mapping[str, Any], rows: Mapping[str, Mapping[str, tuple[_Row, ...]]]):
        self.head = head
        self._rows = rows

    @property
    def mode(self) -> Mode:
        """What the maker of the artifact found best, and what `find` gives unless told."""
        return "static" if self.head["mode"] == "static" else "dynamic_per_token"

    @property
    def domain(self) -> str:
        """What times are counted in: timestep, sigma, mask_ratio, or none."""
        return str(self.head["domain"])

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the weights whose inputs the table knows."""
        return tuple(self._rows)

    def find(
        self, layer: str, t: float, *, branch: str | None = None, mode: Mode | None = None
    ) -> Activation:
        """The quantizer of a layer's input at time t, in the table's domain.

        Times before the first group and after the last one are given these. `branch` is asked for where the table
        tells branches of guidance apart. Where the head says `divided_by`, what is quantized is the input over the
        tensor's `col_scale`, if it has one.
        """
        branches = self._rows.get(layer)
        if branches is None:
            raise ArtifactError(
                "no_activations",
                "calibration saw no input of this layer",
                "`layers` of the table lists those that it knows.",
                {"layer": layer},
            )
        found = branches.get(branch or "") or (branches.get("") if branch else None)
        if found is None:
            names = ", ".join(repr(name) for name in branches)
            raise ArtifactError(
                "no_activations",
                f"no branch {branch or ''!r}; there are {names}",
                "Say which with `branch`.",
                {"layer": layer},
            )
        if not math.isfinite(t):
            raise ValueError("t must be a finite number")
        row = found[max(0, bisect_right([each.t_lo for each in found], t) - 1)]
        chosen = mode or self.mode
        if chosen == "static" and "divided_by" in self.head:
            raise ArtifactError(
                "no_activations",
                "its static ranges are of inputs before they are divided by col_scale",
                "Divide the input of a layer by its col_scale, and use dynamic_per_token.",
                {"layer": layer},
            )
        static = chosen == "static"
        return Activation(
            layer,
            chosen,
            row.bits,
            row.symmetric,
            row.granularity if static else "per_token",
            row.scale if static else None,
            row.zero_point if static else None,
            row.group,
            row.t_lo,
            row.t_hi,
            branch or "",
            row.error if static else None,
        )


def read_activations(folder: Path, entry: Any) -> Activations:
    """Read and check the file of an artifact; `entry` is what its manifest says of it."""
    name = activations_name(entry)
    path, where = folder / name, {"file": name}
    if entry is None or not path.is_file():
        raise ArtifactError(
            "no_activations",
            "the artifact has no activations.arrow: it was made without calibration",
            "Give a job a calibration file and `activations`.",
        )
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise invalid(f"the file has {size} bytes, at most {MAX_BYTES}", **where)
    data = path.read_bytes()
    if not isinstance(entry, dict) or hashlib.sha256(data).hexdigest() != entry.get("sha256"):
        raise ArtifactError(
            "digest_mismatch",
            "the SHA-256 is not the one in the manifest",
            "The file was altered or damaged; fetch the artifact again.",
            where,
        )
    return parse(data)


def parse(data: bytes) -> Activations:
    """The table from the bytes of its file. Raises invalid_artifact."""
    import pyarrow as pa

    where = {"file": schema.ACTIVATIONS}
    try:
        with pa.ipc.open_file(pa.py_buffer(data)) as reader:
            kinds = tuple((f.name, schema.type_name(f.type)) for f in reader.schema)
            if kinds != COLUMNS:
                raise invalid("its columns are not those of an activation table", **where)
            head = _head((reader.schema.metadata or {}).get(KEY))
            if reader.num_record_batches > 1:
                raise invalid("it has more than one batch", **where)
            table = reader.read_all()
            table.validate(full=True)
    except (pa.ArrowException, OSError) as error:
        raise invalid(f"it is no Arrow file: {str(error)[:200]}", **where) from None
    if table.num_rows > MAX_ROWS:
        raise invalid(f"it has {table.num_rows} rows, at most {MAX_ROWS}", **where)
    return Activations(head, _grouped(table.to_pylist()))


def _head(text: bytes | None) -> dict[str, Any]:
    where = {"file": schema.ACTIVATIONS}
    try:
        head = json.loads(text or b"")
    except (ValueError, RecursionError):
        raise invalid("its head is no JSON", **where) from None
    if not isinstance(head, dict):
        raise invalid("its head is no JSON object", **where)
    if head.get("version") != VERSION:
        raise ArtifactError(
            "unsupported_version",
            f"activations of version {head.get('version')!r:.40}",
            "Install a newer arrowquant.",
            where,
        )
    if head.get("mode") not in ("static", "dynamic_per_token") or not isinstance(
        head.get("domain"), str
    ):
        raise invalid("its head names no mode and domain", **where)
    return head


def _grouped(rows: list[dict[str, Any]]) -> dict[str, dict[str, tuple[_Row, ...]]]:
    found: dict[str, dict[str, list[_Row]]] = {}
    for number, row in enumerate(rows):
        problem = _problem(row)
        if problem:
            raise invalid(problem, file=schema.ACTIVATIONS, row=number)
        layer, branch = row.pop("layer"), row.pop("branch")
        found.setdefault(layer, {}).setdefault(branch, []).append(_Row(**row))
    for layer, branches in found.items():
        for groups in branches.values():
            _check_groups(layer, groups)
    return {
        layer: {branch: tuple(groups) for branch, groups in branches.items()}
        for layer, branches in found.items()
    }


def _problem(row: dict[str, Any]) -> str:
    if any(row[name] is None for name, _ in COLUMNS if name != "error"):
        return "a value is missing"
    if not 2 <= row["bits"] <= 16:
        return f"{row['bits']} bits"
    if not 0 < row["scale"] < math.inf:
        return "the scale is not a positive number"
    if not 0 <= row["zero_point"] < 1 << row["bits"]:
        return "the zero point is no code"
    if not (math.isfinite(row["t_lo"]) and math.isfinite(row["t_hi"])):
        return "a time is not finite"
    return "" if row["t_lo"] <= row["t_hi"] else "the group ends before it begins"


def _check_groups(layer: str, groups: list[_Row]) -> None:
    where = {"file": schema.ACTIVATIONS, "layer": layer[:200]}
    for number, row in enumerate(groups):
        if row.group != number:
            raise invalid("the groups of times are not numbered in order", **where)
        if number and row.t_lo != groups[number - 1].t_hi:
            raise invalid("the groups of times do not adjoin", **where)
