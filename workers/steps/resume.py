"""Going on with what is at the output: the whole artifact as it is, or the parts that were finished.

What is there must have been made from the same source, with the same recipe, by the same version;
anything else is refused, and told.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from service.domain import report
from service.domain.engine import versions
from service.domain.errors import ArrowQuantError
from service.domain.job import PartRow, TensorRow, TensorState
from service.domain.outputs import JobPlan
from service.domain.ports import Ledger
from service.domain.succession import Adoption, Fingerprint, mismatch, other_outputs
from workers import place
from workers.job import JobContext
from workers.place import Standing
from workers.steps.quality import METRICS

_COLUMNS = (
    "name", "dtype", "shape", "role", "codec", "bits", "group_size", "reason", "source_bytes",
    "stored_bytes",
)  # fmt: skip


def complete(
    context: JobContext, plan: JobPlan, standing: Sequence[Standing | None]
) -> tuple[list[TensorRow], dict[str, Any]]:
    """Tensors and summary of the artifacts that are there. Raises output_mismatch if they are not
    what this job would make, or not all of it."""
    rows: list[TensorRow] = []
    each: list[tuple[str, dict[str, Any]]] = []
    for output, found in enumerate(standing):
        _check(context, plan, output, found)
        assert found is not None
        document = _report(context, output, found)
        digest = hashlib.sha256(found.data).hexdigest()
        summary = document["summary"] | {
            "totals": found.manifest["totals"],
            "manifest": {"key": found.key, "sha256": digest},
        }
        each.append((plan.outputs[output].id, summary))
        tied = found.manifest.get("tied") or {}
        rows += [
            _row(number, entry, output, tied) for number, entry in enumerate(document["tensors"])
        ]
    if each[0][0] == "":
        return rows, each[0][1]
    return rows, report.summarize(each, rows)


def unfinished(
    context: JobContext, ledger: Ledger, plan: JobPlan
) -> tuple[Adoption | None, dict[str, Any]]:
    """What an earlier job has finished here, and what to note of it; nothing if there was none.

    Raises output_mismatch if it was to make something else.
    """
    before = ledger.predecessor(context.claim.job_id)
    if before is None:
        return None, {}
    differences = other_outputs(before.resolved, context.claim.resolved)
    for output in range(len(plan.outputs)) if not differences else ():
        then = Fingerprint.of_resolved(before.resolved, output)
        differences += then.differences(Fingerprint.of_plan(plan, output, versions()))
    if differences:
        raise mismatch(differences, {"job": before.id})
    parts = [part for part in ledger.parts(before.id) if _still_there(context, part)]
    noted: dict[str, Any] = {"resumed": {"job": before.id, "parts": len(parts)}}
    if before.resolved.get("first_parts"):
        noted["first_parts"] = before.resolved["first_parts"]
    if before.resolved.get("allocations"):
        noted["allocations"] = before.resolved["allocations"]
    return Adoption(before.id, parts), noted


def _check(context: JobContext, plan: JobPlan, output: int, found: Standing | None) -> None:
    name = plan.outputs[output].id
    if found is None:
        raise mismatch([f"output {name}: none, while others are complete"], {"output": name})
    where = {"object": found.key}
    try:
        then = Fingerprint.of_manifest(found.manifest)
    except (KeyError, TypeError):
        raise mismatch(["the manifest is not one that this version reads"], where) from None
    differences = then.differences(Fingerprint.of_plan(plan, output, versions()))
    sizes = {part["name"]: part["bytes"] for part in found.manifest["parts"]}
    sizes[found.manifest["report"]["name"]] = found.manifest["report"]["bytes"]
    for file, size in sizes.items():
        there = _size(context, context.key(file, output))
        if there != size:
            differences.append(f"{file}: {size} bytes, now {there}")
    if differences:
        raise mismatch(differences, where)


def _report(context: JobContext, output: int, found: Standing) -> dict[str, Any]:
    entry = found.manifest["report"]
    data = place.read_whole(context, context.key(entry["name"], output))
    if data is None or hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise mismatch([f"{entry['name']} is not the one in the manifest"], {"object": found.key})
    loaded: dict[str, Any] = orjson.loads(data)
    return loaded


def _row(number: int, entry: dict[str, Any], output: int, tied: dict[str, str]) -> TensorRow:
    measured = {name: entry[name] for name in METRICS if name in entry}
    return TensorRow(
        index=number,
        state=TensorState(entry["state"]),
        **{name: entry[name] for name in _COLUMNS},
        metrics=measured or None,
        tied_to=tied.get(entry["name"]),
        output=output,
    )


def _still_there(context: JobContext, part: PartRow) -> bool:
    try:
        info = context.output.stat(part.key)
    except ArrowQuantError as error:
        if error.code != "source_not_found":
            raise
        return False
    return (info.size, info.etag) == (part.nbytes, part.etag)


def _size(context: JobContext, key: str) -> int | None:
    try:
        return context.output.stat(key).size
    except ArrowQuantError as error:
        if error.code != "source_not_found":
            raise
        return None
