"""What is the matter with a job beside its state, told from the ledger alone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum


class ConditionType(StrEnum):
    """What can be said of a job."""

    WORKER_RESPONDING = "WORKER_RESPONDING"  #: while it runs: whether a worker holds a lease on it
    THROTTLED = "THROTTLED"  #: held up by a store that fails, or by the tenant's quota
    DEGRADED_QUALITY = "DEGRADED_QUALITY"  #: tensors missed the gate and fell back to more bits


class ConditionStatus(StrEnum):
    """Whether it is so. UNKNOWN: nobody holds a lease and nobody lost one."""

    TRUE = "TRUE"
    FALSE = "FALSE"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class Condition:
    """One of them. `reason` is a stable word, `since` when it became so."""

    type: ConditionType
    status: ConditionStatus
    reason: str
    since: datetime
