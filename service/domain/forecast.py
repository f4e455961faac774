"""What a plan says before anything is read: exact bytes, and for every tensor what and why.

The totals are found by building the very documents a job would publish, with metrics of the usual
length in place of the measured ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from service.domain import report
from service.domain.budgeting import byte_limit, told
from service.domain.calibration import FEWEST_SAMPLES
from service.domain.expected import expected_documents, ledger_rows
from service.domain.job import TensorRow
from service.domain.outputs import JobPlan
from service.domain.plan import Plan
from service.domain.profiles import PROFILES, Action

# Warnings that are about one output; the others are about the source.
_OF_OUTPUT = frozenset({"size_limit", "budget_exceeded"})


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
        "budget": None,
        "source": everything[0][1]["source"],
        "tensors": [
            entry | {"output": name} for name, told in everything for entry in told["tensors"]
        ],
        "warnings": job_warnings(job),
        "outputs": [
            {"id": name} | {key: told[key] for key in ("totals", "counts", "recipe", "budget")}
            for name, told in everything
        ],
    }


def _forecast(plan: Plan, requested: dict[str, Any], engine: dict[str, str]) -> dict[str, Any]:
    rows = ledger_rows(plan)
    documents = expected_documents(plan, rows, requested, engine, warnings(plan))
    return {
        "totals": documents.summary["totals"] | {"units": len(plan.units)},
        "counts": documents.summary["counts"],
        "recipe": plan.recipe.model_dump(mode="json"),
        "modality": plan.looks.as_dict(),
        "budget": told(plan),
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
    found += _over_budget(plan)
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
    without = [t.name for t in quantized if not t.treatment.weighed]
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


def _over_budget(plan: Plan) -> list[dict[str, Any]]:
    """Of a budget that is an aim: how far from it the smallest artifact is."""
    made = plan.recipe.allocation
    if plan.recipe.budget is None or made is None or made.nbytes <= byte_limit(plan):
        return []
    parameters = max(1, sum(tensor.source.elements for tensor in plan.tensors))
    return [
        {
            "code": "budget_exceeded",
            "message": f"the smallest artifact that the recipe allows has {made.nbytes} bytes, "
            f"{8 * made.nbytes / parameters:.2f} bits per weight; the aim was {byte_limit(plan)}",
        }
    ]


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
