"""An artifact's tensors before anything is read, and the documents that will be published of them.

They are the very documents a job writes, with metrics of the usual length in place of measured ones,
so that their size is known beforehand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from service.domain import framing, report
from service.domain.job import PartRow, TensorRow, TensorState
from service.domain.plan import Plan
from service.domain.profiles import Action
from service.domain.treatment import TensorPlan

# Of the length that measured values have when printed to six digits.
_TYPICAL = {
    "relmse": 0.00512345,
    "sqnr_db": 20.1234,
    "cosine": 0.995123,
    "max_abs_error": 0.0123456,
}
_DIGEST = "0" * 64


def expected_documents(
    plan: Plan,
    rows: Sequence[TensorRow],
    requested: dict[str, Any],
    engine: dict[str, str],
    warnings: Sequence[dict[str, Any]],
) -> report.Documents:
    """Report, manifest and summary as a job is expected to render them."""
    parts = [
        PartRow(u.seq, "", framing.part_bytes(plan, u), _DIGEST, "", sum(1 for _ in plan.tiles(u)))
        for u in plan.units
    ]
    return report.render(
        plan,
        name="",
        requested=requested,
        rows=[_with_metrics(row, plan) for row in rows],
        parts=parts,
        engine=engine,
        warnings=warnings,
        report_sha256=lambda _: _DIGEST,
    )


def ledger_rows(plan: Plan) -> list[TensorRow]:
    """Every tensor as it stands before work begins."""
    stored = [0] * len(plan.tensors)
    for unit in plan.units:
        for tile in plan.tiles(unit):
            stored[tile.tensor] += plan.tensors[tile.tensor].tile_sizes(tile.rows).payload
    return [tensor_row(tensor, stored[tensor.index]) for tensor in plan.tensors]


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


def _with_metrics(row: TensorRow, plan: Plan) -> TensorRow:
    if row.state is not TensorState.PENDING:
        return row
    metrics: dict[str, float | None] = dict(_TYPICAL)
    if plan.tensors[row.index].treatment.calibrated:
        metrics["rho"] = _TYPICAL["relmse"]
        if plan.catalog.calibration is not None and plan.catalog.calibration.tells_times:
            metrics |= {"worst_group": 10, "worst_group_rho": _TYPICAL["relmse"]}
    return replace(row, state=TensorState.DONE, metrics=metrics)
