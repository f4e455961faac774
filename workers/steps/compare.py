"""The end of a replay: hold what was made against what is stored, part by part, then by tensor."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from service.domain.activations import ACTIVATIONS_NAME
from service.domain.catalog import ObjectInfo
from service.domain.errors import ArrowQuantError
from service.domain.job import Phase, TensorRow
from service.domain.outputs import JobPlan
from service.domain.ports import Ledger
from service.domain.replay import MAX_MANIFEST_BYTES
from service.domain.report import REPORT_NAME, part_name
from service.domain.treatment import TensorPlan
from service.domain.units import Unit
from workers.job import JobContext
from workers.lease import Lease
from workers.memory import budget
from workers.pipeline import Work, run_pass
from workers.stages.differ import Differ
from workers.steps.activations import activations
from workers.steps.quality import METRICS

MAX_TILES_TOLD = 1000


def run(
    context: JobContext,
    ledger: Ledger,
    lease: Lease,
    plan: JobPlan,
    threads: int,
    memory: int | None,
) -> None:
    """Say `identical`, or what differs."""
    ledger.set_phase(context.claim, Phase.VERIFYING)
    rows = ledger.tensors(context.claim.job_id)
    noted = _replay(context)["parts"]  # entry n is of unit n, whatever its name
    parts: list[dict[str, Any]] = []
    tiles: list[dict[str, Any]] = []
    for made in ledger.parts(context.claim.job_id):
        name, _, noted_sha256 = noted[made.seq] if made.seq < len(noted) else (None, 0, "")
        name = name or part_name(made.seq)
        lease.check()
        info, sha256 = _stored(context, lease, context.key(name))
        problem = _told(info, sha256, noted_sha256, made.sha256)
        if problem:
            parts.append({"part": name, "problem": problem})
        if info is not None and sha256 != made.sha256:
            unit = plan.units[made.seq]
            work = _work(context, plan, unit, rows, threads, memory)
            with context.measured(plan, unit) as measured:
                work = replace(work, measured=measured)
                run_pass(work, {0: Differ(context.output, info, tiles)}, lambda _: lease.check())
    parts += [{"part": entry[0], "problem": "not_made"} for entry in noted[len(plan.units) :]]
    parts += _activations(context, lease, plan, rows)
    ledger.publish_done(context.claim, _verdict(context, parts, tiles, _metrics(context, rows)))


def _activations(
    context: JobContext, lease: Lease, plan: JobPlan, rows: list[TensorRow]
) -> list[dict[str, Any]]:
    """What is wrong with the table of activations, told as of a part."""
    noted = _replay(context).get("activations", "")
    table = activations(context, plan, [rows], lease)[0]
    if table is None and not noted:
        return []
    if table is None:
        return [{"part": ACTIVATIONS_NAME, "problem": "not_made"}]
    info, sha256 = _stored(context, lease, context.key(ACTIVATIONS_NAME))
    made = hashlib.sha256(table.data).hexdigest()
    problem = _told(info, sha256, noted, made)
    return [{"part": ACTIVATIONS_NAME, "problem": problem}] if problem else []


def _replay(context: JobContext) -> dict[str, Any]:
    if context.replay is None:
        raise AssertionError(f"{context.claim.job_id} is no replay")
    return context.replay


def _stored(context: JobContext, lease: Lease, key: str) -> tuple[ObjectInfo | None, str]:
    """The stored part and the digest of its bytes."""
    digest = hashlib.sha256()
    try:
        info = context.output.stat(key)
        for chunk in context.output.stream(key, info.etag):
            lease.check()
            digest.update(chunk)
    except ArrowQuantError as error:
        if error.code != "source_not_found":
            raise
        return None, ""
    return info, digest.hexdigest()


def _told(info: ObjectInfo | None, sha256: str, noted: str, made: str) -> str:
    if info is None:
        return "missing"
    if not noted:
        return "not_in_manifest"
    if sha256 != noted:
        return "stored_part_is_not_the_manifest_s"
    return "" if sha256 == made else "made_otherwise"


def _work(
    context: JobContext,
    plan: JobPlan,
    unit: Unit,
    rows: list[TensorRow],
    threads: int,
    memory: int | None,
) -> Work:
    """The unit's tensors as they were made in the end."""
    tensors = {p.tensor: _as_made(plan.plans[0].tensors[p.tensor], rows) for p in unit.pieces}
    limit = budget(plan, unit, 1, memory, context.source.reads_at_once)
    return Work(plan, unit, {0: tensors}, context.source, limit, threads)


def _as_made(tensor: TensorPlan, rows: list[TensorRow]) -> TensorPlan:
    bits = rows[tensor.index].bits
    return tensor if bits == tensor.treatment.bits else tensor.at_level(bits or None)


def _metrics(context: JobContext, rows: list[TensorRow]) -> list[dict[str, Any]]:
    """Tensors of which the artifact's report says other widths or errors than were found."""
    told = _report(context)
    if told is None:
        return [{"tensor": "", "differs": ["report"]}]
    found = []
    for row in rows:
        mine = {"bits": row.bits, "codec": row.codec, **(row.metrics or {})}
        theirs = told.get(row.name, {})
        differs = [k for k in ("bits", "codec", *METRICS) if mine.get(k) != theirs.get(k)]
        if differs:
            found.append({"tensor": row.name, "differs": differs})
    return found


def _report(context: JobContext) -> dict[str, dict[str, Any]] | None:
    """Entries of the artifact's report by tensor; None where there is no such report."""
    try:
        info = context.output.stat(context.key(REPORT_NAME))
        if info.size > MAX_MANIFEST_BYTES:
            return None
        data = json.loads(context.output.read(info.key, 0, info.size, info.etag))
        return {str(entry["name"]): dict(entry) for entry in data["tensors"]}
    except ArrowQuantError as error:
        if error.code != "source_not_found":
            raise
        return None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _verdict(
    context: JobContext,
    parts: list[dict[str, Any]],
    tiles: list[dict[str, Any]],
    metrics: list[dict[str, Any]],
) -> dict[str, Any]:
    then, now = _replay(context)["engine"], context.claim.resolved["engine"]
    engine = [
        {"name": name, "then": then.get(name), "now": now.get(name)}
        for name in sorted(then.keys() | now.keys())
        if then.get(name) != now.get(name)
    ]
    by_tensor: dict[str, list[dict[str, Any]]] = {}
    for tile in tiles[:MAX_TILES_TOLD]:
        by_tensor.setdefault(tile["tensor"], []).append(
            {k: v for k, v in tile.items() if k != "tensor"}
        )
    differs = bool(parts or tiles or metrics)
    return {
        "verdict": "differs" if differs else "identical",
        "engine": engine,
        "parts": parts,
        "tensors": [{"tensor": name, "tiles": some} for name, some in by_tensor.items()],
        "metrics": metrics[:MAX_TILES_TOLD],
        "tiles_differing": len(tiles),
    }
