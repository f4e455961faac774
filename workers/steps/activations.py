"""The table of activations of each output, from the job's calibration file."""

from __future__ import annotations

from collections.abc import Sequence

from service import tracing
from service.domain.job import TensorRow
from service.domain.outputs import JobPlan
from service.domain.profiles import PROFILES
from workers.activations.table import Table
from workers.job import JobContext
from workers.lease import Lease


def activations(
    context: JobContext, plan: JobPlan, rows: Sequence[Sequence[TensorRow]], lease: Lease
) -> list[Table | None]:
    """For each output the table of the inputs of its quantized weights; None where the recipe wants none, or
    the file has no histograms of them.

    rows  of each output, as stored
    """
    with context.calibrated(plan) as measured:
        if measured is None:
            return [None] * len(plan.outputs)
        found: list[Table | None] = []
        for number, alone in enumerate(plan.plans):
            how = alone.recipe.activations
            layers = [row.name for row in rows[number] if row.bits]
            if how is None or not layers:
                found.append(None)
                continue
            most = PROFILES[alone.recipe.profile].time_groups
            with tracing.span("activations", attributes={"layers": len(layers)}):
                divided = alone.recipe.smoothing is not None
                table = measured.activations(layers, how, most, lease.check, divided=divided)
                found.append(table)
        return found
