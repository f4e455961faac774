"""What a plan says before anything is read: exact bytes, and for every tensor what and why.

The totals are found by building the very documents a job would publish, with metrics of the usual
length in place of the measured ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from service.domain import framing, report
from service.domain.job import PartRow, TensorRow, TensorState
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


def forecast(plan: Plan, requested: dict[str, Any], engine: dict[str, str]) -> dict[str, Any]:
    """The JSON of a plan, as `arrowquant plan --json` and `POST /v1/plans` return it."""
    rows = ledger_rows(plan)
    parts = [
        PartRow(u.seq, "", framing.part_bytes(plan, u), _DIGEST, "", sum(1 for _ in plan.tiles(u)))
        for u in plan.units
    ]
    typical = [_with_metrics(row) for row in rows]
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
        "source": [{"key": o.key, "size": o.size, "etag": o.etag} for o in plan.catalog.objects],
        "tensors": [_entry(row) for row in rows],
        "warnings": warnings(plan),
    }


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


def _with_metrics(row: TensorRow) -> TensorRow:
    if row.state is not TensorState.PENDING:
        return row
    return replace(row, state=TensorState.DONE, metrics=dict(_TYPICAL))


def _entry(row: TensorRow) -> dict[str, Any]:
    action = "tie" if row.tied_to else ("keep" if row.codec == "raw" else "quantize")
    return {
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
