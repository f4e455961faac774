"""The two JSON files of an artifact, built from ledger rows: the report and the manifest.

Pure and free of clocks and hosts: equal inputs give equal bytes, whoever worked on them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from service.domain.activations import activations_name
from service.domain.job import PartRow, TensorRow, TensorState
from service.domain.plan import Plan
from service.domain.spec import ResolvedRecipe

FORMAT_VERSION = 2
WORST_LISTED = 20
WORST_TOLD = 3
MANIFEST_NAME = "manifest.json"
REPORT_NAME = "report.json"


def part_name(seq: int) -> str:
    """File name of the part a unit writes."""
    return f"part-{seq:05d}.arrow"


def report_name(first_part: int) -> str:
    """File name of the report that goes with parts numbered from there on."""
    return f"report-{first_part:05d}.json" if first_part else REPORT_NAME


@dataclass(frozen=True, slots=True)
class ActivationTable:
    """What the manifest and the report say of `activations.arrow`."""

    nbytes: int
    sha256: str
    summary: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Documents:
    """The rendered files and what the job's summary repeats of them."""

    report: bytes
    manifest: bytes
    summary: dict[str, Any]


def render(
    plan: Plan,
    *,
    name: str,
    requested: dict[str, Any],
    rows: Sequence[TensorRow],
    parts: Sequence[PartRow],
    engine: dict[str, str],
    warnings: Sequence[dict[str, Any]],
    report_sha256: Callable[[bytes], str],
    first_part: int = 0,
    activations: ActivationTable | None = None,
) -> Documents:
    """Both files. `first_part` is the number of the first part. `report_sha256` hashes the report's bytes to hex."""
    totals = _totals(plan, rows, parts)
    summary = {
        "totals": totals,
        "counts": _counts(rows),
        "quality": quality(rows),
        "worst": worst(rows, WORST_TOLD),
        "budget": _budget(plan, totals["parameters"]),
    }
    told = _report(rows, summary) | _candidates(plan.recipe)
    if activations is not None:
        told["activations"] = activations.summary
    report = dump(told)
    manifest = {
        "format": "arrowquant",
        "format_version": FORMAT_VERSION,
        "name": name,
        "source": _source(plan),
        "modality": plan.looks.as_dict(),
        "recipe": {"requested": requested, "resolved": plan.recipe.published()},
        "engine": engine,
        **_calibration(plan),
        "parts": [
            {
                "name": part_name(first_part + p.seq),
                "bytes": p.nbytes,
                "sha256": p.sha256,
                "batches": p.batches,
            }
            for p in parts
        ],
        "tensors": _tensor_entries(plan, rows),
        "tied": {row.name: row.tied_to for row in rows if row.tied_to},
        **_activations(activations, first_part),
        "totals": totals,
        "escalations": escalations(rows),
        "warnings": list(warnings),
        "report": {
            "name": report_name(first_part),
            "bytes": len(report),
            "sha256": report_sha256(report),
        },
    }
    others = sum(part.nbytes for part in parts) + len(report)
    others += activations.nbytes if activations is not None else 0
    rendered = _with_own_size(manifest, totals, others)
    return Documents(report, rendered, summary)


def summarize(
    outputs: Sequence[tuple[str, dict[str, Any]]], rows: Sequence[TensorRow]
) -> dict[str, Any]:
    """The summary of a job from those of its outputs: figures of all, then each by its id."""
    return {
        "totals": sum_totals([summary["totals"] for _, summary in outputs]),
        "counts": sum_counts([summary["counts"] for _, summary in outputs]),
        "quality": quality(rows),
        "outputs": [{"id": name} | summary for name, summary in outputs],
    }


def sum_totals(each: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Totals over artifacts of one source: what is stored is added up, the source counts once."""
    total = dict(each[0])
    for name in ("payload_bytes", "parts_bytes", "artifact_bytes"):
        total[name] = sum(totals[name] for totals in each)
    bits = 8 * total["artifact_bytes"] / max(1, total["parameters"])
    return total | {"bits_per_weight": _digits(bits)}


def sum_counts(each: Sequence[dict[str, int]]) -> dict[str, int]:
    """Counts of tensors over artifacts: a tensor counts in each of them."""
    total: Counter[str] = Counter()
    for counts in each:
        total.update(counts)
    return dict(total)


def quality(rows: Sequence[TensorRow]) -> dict[str, float | None]:
    """Means over quantized tensors, and the whole model's error weighted by weight energy."""
    measured = [row.metrics for row in rows if row.metrics]
    sqnr = [m["sqnr_db"] for m in measured if m.get("sqnr_db") is not None]
    cosine = [m["cosine"] for m in measured if m.get("cosine") is not None]
    return {
        "mean_sqnr_db": _mean(sqnr),
        "min_sqnr_db": _digits(min((s for s in sqnr if s is not None), default=None)),
        "mean_cosine": _mean(cosine),
        "min_cosine": _digits(min((c for c in cosine if c is not None), default=None)),
    }


def escalations(rows: Sequence[TensorRow]) -> list[dict[str, Any]]:
    """Every tensor that was stored wider than planned, with what was tried before."""
    return [
        {
            "tensor": row.name,
            "tried": row.history,
            "stored_bits": row.bits,
            "codec": row.codec,
            "reason": row.reason,
            "metrics": row.metrics,
        }
        for row in rows
        if row.state is TensorState.FALLBACK
    ]


def dump(value: Any) -> bytes:
    """The JSON form of a published document: indented, keys in our order, one newline."""
    return orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _report(rows: Sequence[TensorRow], summary: dict[str, Any]) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "summary": summary,
        "worst": worst(rows, WORST_LISTED),
        **_worst_groups(rows),
        "escalations": escalations(rows),
        "tensors": [_report_entry(row) for row in rows],
    }


def worst(rows: Sequence[TensorRow], count: int) -> list[str]:
    """Names of the quantized tensors with the largest error of the layer's output, where all of
    them have one that was measured, else with the least SQNR, worst first."""

    def value(row: TensorRow, name: str) -> float | None:
        return (row.metrics or {}).get(name)

    scored = [row for row in rows if value(row, "sqnr_db") is not None]
    if scored and all(value(row, "rho") is not None for row in scored):
        scored.sort(key=lambda row: -(value(row, "rho") or 0.0))
    else:
        scored.sort(key=lambda row: value(row, "sqnr_db") or 0.0)
    return [row.name for row in scored[:count]]


def _worst_groups(rows: Sequence[TensorRow]) -> dict[str, Any]:
    """The time groups in which a layer's output suffers most, worst first; nothing where no
    calibration tells times apart."""
    found = [
        (rho, row.name, row.metrics["worst_group"])
        for row in rows
        if row.metrics and (rho := row.metrics.get("worst_group_rho")) is not None
    ]
    found.sort(key=lambda entry: -entry[0])
    told = [
        {"tensor": name, "group": group, "rho": rho} for rho, name, group in found[:WORST_LISTED]
    ]
    return {"worst_groups": told} if told else {}


def _budget(plan: Plan, parameters: int) -> dict[str, Any] | None:
    """What was to be kept to, by how many measured sensitivities, and what the choice of widths was worth."""
    recipe = plan.recipe
    if recipe.budget is None or recipe.allocation is None:
        return None
    made = recipe.allocation
    return {
        "bytes": recipe.budget.limit(parameters),
        "measured_sensitivities": len(plan.measured_sensitivities()),
        "loss": _digits(made.loss),
        "price": _digits(made.price),
    }


def _candidates(recipe: ResolvedRecipe) -> dict[str, Any]:
    """The errors from which the widths were chosen: relative squared error of each candidate."""
    if recipe.budget is None or recipe.allocation is None or not recipe.allocation.errors:
        return {}
    told = [c.model_dump(mode="json", exclude_none=True) for c in recipe.budget.candidates]
    errors = {name: list(values) for name, values in recipe.allocation.errors.items()}
    return {"candidates": {"ways": told, "relmse": errors}}


def _report_entry(row: TensorRow) -> dict[str, Any]:
    return {
        "name": row.name,
        "state": row.state.value,
        "shape": row.shape,
        "dtype": row.dtype,
        "role": row.role,
        "codec": row.codec,
        "bits": row.bits,
        "group_size": row.group_size,
        "reason": row.reason,
        "source_bytes": row.source_bytes,
        "stored_bytes": row.stored_bytes,
        **(row.metrics or {}),
    }


def _totals(plan: Plan, rows: Sequence[TensorRow], parts: Sequence[PartRow]) -> dict[str, Any]:
    return {
        "parameters": sum(tensor.source.elements for tensor in plan.tensors),
        "source_bytes": plan.catalog.nbytes,
        "payload_bytes": sum(row.stored_bytes for row in rows),
        "parts_bytes": sum(part.nbytes for part in parts),
    }


def _counts(rows: Sequence[TensorRow]) -> dict[str, int]:
    states = Counter(row.state.value.lower() for row in rows)
    widths = Counter(f"bits_{row.bits}" for row in rows if row.bits)
    return {"tensors": len(rows), **dict(sorted(states.items())), **dict(sorted(widths.items()))}


def _source(plan: Plan) -> dict[str, Any]:
    return {
        "objects": [
            {"key": info.key, "size": info.size, "etag": info.etag} for info in plan.catalog.objects
        ],
        "tensors": len(plan.tensors),
        "parameters": sum(tensor.source.elements for tensor in plan.tensors),
        "bytes": plan.catalog.nbytes,
    }


def _calibration(plan: Plan) -> dict[str, Any]:
    """The calibration file that was used, as the source's objects are told."""
    index = plan.catalog.calibration
    if plan.recipe.calibration is None or index is None:
        return {}
    return {
        "calibration": {
            "connection": plan.recipe.calibration.connection,
            "key": index.key,
            "size": index.size,
            "etag": index.etag,
            "samples": index.samples,
            **({"domain": index.domain, "edges": index.edges} if index.tells_times else {}),
        }
    }


def _activations(table: ActivationTable | None, first_part: int) -> dict[str, Any]:
    if table is None:
        return {}
    name = activations_name(first_part)
    kept = {key: table.summary[key] for key in ("mode", "bits", "groups", "domain")}
    return {"activations": {"name": name, "bytes": table.nbytes, "sha256": table.sha256, **kept}}


def _tensor_entries(plan: Plan, rows: Sequence[TensorRow]) -> list[dict[str, Any]]:
    tiles: dict[int, list[tuple[int, int, int]]] = {}
    for unit in plan.units:
        for batch, tile in enumerate(plan.tiles(unit)):
            tiles.setdefault(tile.tensor, []).append((tile.tile_index, unit.seq, batch))
    return [
        {
            "name": row.name,
            "shape": row.shape,
            "dtype": row.dtype,
            "role": row.role,
            "codec": row.codec,
            "bits": row.bits,
            "group_size": row.group_size,
            "state": row.state.value,
            "reason": row.reason,
            "part_tiles": [[part, batch] for _, part, batch in sorted(tiles.get(row.index, []))],
        }
        for row in rows
    ]


def _with_own_size(manifest: dict[str, Any], totals: dict[str, Any], others: int) -> bytes:
    """Render with `artifact_bytes` counting the manifest itself.

    A digit more in a total can make the text a byte shorter or longer than the total says, back and
    forth; newlines at the end settle it.
    """
    size = 0
    while True:
        totals["artifact_bytes"] = others + size
        totals["bits_per_weight"] = _digits(8 * (others + size) / max(1, totals["parameters"]))
        rendered = dump(manifest)
        if len(rendered) <= size:
            return rendered + b"\n" * (size - len(rendered))
        size = len(rendered)


def _mean(values: Sequence[float | None]) -> float | None:
    finite = [v for v in values if v is not None and math.isfinite(v)]
    return _digits(math.fsum(finite) / len(finite)) if finite else None


def _digits(value: float | None, digits: int = 6) -> float | None:
    """To a fixed number of significant digits: readable, and the same everywhere."""
    return None if value is None else float(f"{value:.{digits}g}")
