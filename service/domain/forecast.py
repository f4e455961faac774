"""What a plan says before anything is read: exact bytes, and for every tensor what and why.

The totals are found by building the very documents a job would publish, with metrics of the usual
length in place of the measured ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from service.domain import framing, report
from service.domain.calibration import FEWEST_SAMPLES
from service.domain.job import PartRow, TensorRow, TensorState
from service.domain.outputs import JobPlan
from service.domain.plan import Plan
from service.domain.profiles import PROFILES, Action
from service.domain.treatment import TensorPlan

# Of the length that measured values have when printed to six digits.
_TYPICAL = {
    "relmse": 0.00512345,
    "sqnr_db": 20.1234,
    "cosine": 0.995123,
    "max_abs_error": 0.0123456,
}
_DIGEST = "0" * 64
# Warnings that are about one output; the others are about the source.
_OF_OUTPUT = frozenset({"size_limit"})


def forecast(
    job: JobPlan, requested: dict[str, dict[str, Any]], engine: dict[str, str]
) -> dict[str, Any]:
    """The JSON of a plan, as `arrowquant plan --json` and `POST /v1/plans` return it.

    With several outputs the figures at the top are of all of them, as in a job's summary.

    requested  the recipe as asked for, by id of the output
    """
    found = [(spec, _forecast(plan, requested[spec.id], engine)) for spec, plan in job]
    if len(found) == 1 and not job.outputs[0].id:
        return found[0][1] | {"outputs": []}
    everything = [(spec.id, told) for spec, told in found]
    return {
        "totals": report.sum_totals([told["totals"] for _, told in everything])
        | {"units": len(job.units)},
        "counts": report.sum_counts([told["counts"] for _, told in everything]),
        "recipe": None,
        "modality": everything[0][1]["modality"],
        "source": everything[0][1]["source"],
        "tensors": [
            entry | {"output": name} for name, told in everything for entry in told["tensors"]
        ],
        "warnings": job_warnings(job),
        "outputs": [
            {"id": name} | {key: told[key] for key in ("totals", "counts", "recipe")}
            for name, told in everything
        ],
    }


def _forecast(plan: Plan, requested: dict[str, Any], engine: dict[str, str]) -> dict[str, Any]:
    rows = ledger_rows(plan)
    parts = [
        PartRow(u.seq, "", framing.part_bytes(plan, u), _DIGEST, "", sum(1 for _ in plan.tiles(u)))
        for u in plan.units
    ]
    typical = [_with_metrics(row, plan.tensors[row.index]) for row in rows]
    documents = report.render(
        plan,
        name="",
        requested=requested,
        rows=typical,
        parts=parts,
        engine=engine,
        warnings=warnings(plan),
        report_sha256=lambda _: _DIGEST,
    )
    return {
        "totals": documents.summary["totals"] | {"units": len(plan.units)},
        "counts": documents.summary["counts"],
        "recipe": plan.recipe.model_dump(mode="json"),
        "modality": plan.looks.as_dict(),
        "source": [{"key": o.key, "size": o.size, "etag": o.etag} for o in plan.catalog.objects],
        "tensors": [_entry(row) for row in rows],
        "warnings": warnings(plan),
    }


def job_rows(job: JobPlan) -> list[TensorRow]:
    """Every tensor of every output as it stands before work begins."""
    return [
        replace(row, output=number)
        for number, plan in enumerate(job.plans)
        for row in ledger_rows(plan)
    ]


def job_warnings(job: JobPlan) -> list[dict[str, Any]]:
    """What a person should know of each output; what is true of all is said once."""
    found: list[dict[str, Any]] = []
    for spec, plan in job:
        for warning in warnings(plan):
            mine = warning["code"] in _OF_OUTPUT and spec.id
            told = warning | {"output": spec.id} if mine else warning
            found += [] if told in found else [told]
    return found


def ledger_rows(plan: Plan) -> list[TensorRow]:
    """Every tensor as it stands before work begins."""
    stored = [0] * len(plan.tensors)
    for unit in plan.units:
        for tile in plan.tiles(unit):
            stored[tile.tensor] += plan.tensors[tile.tensor].tile_sizes(tile.rows).payload
    return [tensor_row(tensor, stored[tensor.index]) for tensor in plan.tensors]


def warnings(plan: Plan) -> list[dict[str, Any]]:
    """What a person should know before submitting."""
    found: list[dict[str, Any]] = []
    ignored = plan.catalog.ignored
    if ignored:
        more = f" and {len(ignored) - 3} more" if len(ignored) > 3 else ""
        found.append(
            {
                "code": "objects_ignored",
                "message": f"the index does not name {', '.join(ignored[:3])}{more}, "
                "which therefore is no part of the model",
            }
        )
    found += _calibration_warnings(plan)
    limit = PROFILES[plan.recipe.profile].size_limit_bytes
    total = plan.payload_bytes()
    if total > limit:
        parameters = sum(tensor.source.elements for tensor in plan.tensors)
        found.append(
            {
                "code": "size_limit",
                "message": f"the artifact will have {total} bytes; the {plan.recipe.profile} "
                f"profile is meant for at most {limit}, which for these {parameters} "
                f"parameters is {8 * limit / max(1, parameters):.2f} bits per weight",
            }
        )
    return found


def _calibration_warnings(plan: Plan) -> list[dict[str, Any]]:
    index = plan.catalog.calibration
    if plan.recipe.calibration is None or index is None:
        return []
    found = []
    quantized = [t for t in plan.tensors if t.treatment.action is Action.QUANTIZE and not t.tied_to]
    without = [t.name for t in quantized if not t.treatment.calibrated]
    if without:
        more = f" and {len(without) - 3} more" if len(without) > 3 else ""
        message = f"{len(without)} of {len(quantized)} tensors are quantized without calibration: "
        found.append(
            {"code": "not_calibrated", "message": f"{message}{', '.join(without[:3])}{more}"}
        )
    if 0 < index.samples < FEWEST_SAMPLES:
        message = f"the calibration file is of {index.samples} model inputs; {FEWEST_SAMPLES} to 1024 are meant"
        found.append({"code": "few_calibration_samples", "message": message})
    return found


def tensor_row(tensor: TensorPlan, stored: int) -> TensorRow:
    """A tensor before it was worked on, as its treatment has it."""
    how = tensor.treatment
    state = TensorState.PENDING
    reason = how.reason
    if tensor.tied_to is not None:
        state, reason = TensorState.TIED, f"the same bytes as {tensor.tied_to}"
    elif how.action is Action.KEEP:
        state = TensorState.KEPT
    return TensorRow(
        index=tensor.index,
        name=tensor.name,
        state=state,
        dtype=tensor.source.dtype,
        shape=list(tensor.source.shape),
        role=tensor.role.value,
        codec=how.codec,
        bits=how.bits,
        group_size=-1 if how.per_tensor else how.group_size,
        reason=reason,
        source_bytes=tensor.source.nbytes,
        stored_bytes=stored,
        tied_to=tensor.tied_to,
    )


def _with_metrics(row: TensorRow, tensor: TensorPlan) -> TensorRow:
    if row.state is not TensorState.PENDING:
        return row
    metrics: dict[str, float | None] = dict(_TYPICAL)
    if tensor.treatment.calibrated:
        metrics["rho"] = _TYPICAL["relmse"]
    return replace(row, state=TensorState.DONE, metrics=metrics)


def _entry(row: TensorRow) -> dict[str, Any]:
    action = "tie" if row.tied_to else ("keep" if row.codec == "raw" else "quantize")
    return {
        "output": "",
        "name": row.name,
        "dtype": row.dtype,
        "shape": row.shape,
        "role": row.role,
        "action": action,
        "codec": row.codec,
        "bits": row.bits,
        "group_size": row.group_size,
        "reason": row.reason,
        "source_bytes": row.source_bytes,
        "stored_bytes": row.stored_bytes,
        **({"tied_to": row.tied_to} if row.tied_to else {}),
    }
