"""From rows to the domain's values and back."""

from __future__ import annotations

import math
from dataclasses import asdict, fields
from typing import Any

from sqlalchemy import RowMapping

from service.domain.access import ApiKey, Scope
from service.domain.conditions import Condition
from service.domain.job import (
    Event,
    EventType,
    JobRecord,
    JobState,
    PartRow,
    Phase,
    PieceError,
    Progress,
    TensorRow,
    TensorState,
    Usage,
)

# These stand in columns of their own; the others make up the JSON of a tensor's row.
_TENSOR_COLUMNS = ("index", "state", "history", "output")
_SAME_NAME = (
    "id", "tenant", "name", "labels", "attempt", "priority", "request", "resolved", "error",
    "warnings", "summary", "create_time", "start_time", "end_time", "update_time", "event_seq",
    "batch_id", "trace", "queue_time", "expire_time", "delete_time", "delete_artifacts", "leftovers",
)  # fmt: skip


def to_job(row: RowMapping, max_attempts: int, conditions: tuple[Condition, ...] = ()) -> JobRecord:
    return JobRecord(
        state=JobState(row["state"]),
        phase=Phase(row["phase"]) if row["phase"] else None,
        progress=to_progress(row),
        max_attempts=max_attempts,
        conditions=conditions,
        usage=Usage(**{f.name: row[f.name] for f in fields(Usage)}),
        **{name: row[name] for name in _SAME_NAME},
    )


_RATES = ("bytes_per_s", "bytes_written_per_s", "eta_s")


def to_progress(row: RowMapping | dict[str, Any]) -> Progress:
    """The counters, with the rate over the seconds in which someone was at work."""
    gained = row["bytes_done"] - row["bytes_before"]
    rate = gained / row["active_s"] if gained > 0 and row["active_s"] > 0 else None
    left = row["bytes_total"] - row["bytes_done"]
    running = row["state"] == JobState.RUNNING
    return Progress(
        **{f.name: row[f.name] for f in fields(Progress) if f.name not in _RATES},
        bytes_per_s=rate,
        # Finished parts count only: as much for each source byte as there is of them so far.
        bytes_written_per_s=rate * row["bytes_written"] / row["bytes_done"]
        if rate and row["bytes_written"]
        else None,
        eta_s=left / rate if rate and running else None,
    )


def progress_data(progress: Progress) -> dict[str, Any]:
    """The data of a progress event."""
    return asdict(progress) | {"percent": progress.percent}


def to_event(row: RowMapping) -> Event:
    return Event(row["job_id"], row["seq"], EventType(row["type"]), row["time"], row["data"])


def to_tensor(row: RowMapping) -> TensorRow:
    return TensorRow(
        index=row["idx"],
        state=TensorState(row["state"]),
        history=row["history"],
        output=row["output"],
        **row["row"],
    )


def tensor_values(tensor: TensorRow) -> dict[str, Any]:
    """Column values of a tensor, without its job and its level."""
    values = asdict(tensor)
    return {
        "output": tensor.output,
        "idx": values["index"],
        "state": tensor.state.value,
        "history": values["history"],
        "row": {name: value for name, value in values.items() if name not in _TENSOR_COLUMNS},
    }


def to_part(row: RowMapping) -> PartRow:
    return PartRow(**{f.name: row[f.name] for f in fields(PartRow)})


def to_piece(row: RowMapping) -> PieceError:
    # SQLite keeps a NaN as NULL.
    values: dict[str, Any] = {f.name: row[f.name] for f in fields(PieceError)}
    values |= {name: math.nan for name, value in values.items() if value is None}
    return PieceError(**values)


def to_key(row: RowMapping) -> ApiKey:
    return ApiKey(
        id=row["id"],
        tenant=row["tenant"],
        name=row["name"],
        # A scope of a newer version means nothing to this one.
        scopes=frozenset(Scope(scope) for scope in row["scopes"] if scope in set(Scope)),
        create_time=row["create_time"],
        expire_time=row["expire_time"],
        last_use_time=row["last_use_time"],
        revoke_time=row["revoke_time"],
        grace_time=row["previous_until"],
    )
