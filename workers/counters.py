"""What a worker counts about its own work: bytes, tensors, units, and where the time goes.

Imported by the pool process only. Pool processes come and go, and a counter must not fall when one
does, nor when one is killed: with PROMETHEUS_MULTIPROC_DIR set, the numbers live in mapped files
that belong to a place in the pool, not to a process, and the successor in that place counts on.
`workers.exporter` serves them. Without the variable they are plain numbers that nobody asks for.
"""

from __future__ import annotations

import os
from typing import Final

from billiard.process import current_process
from prometheus_client import CollectorRegistry, Counter, values
from prometheus_client.values import MultiProcessValue

FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"


def _place() -> str:
    """Two living processes of one pool never have the same."""
    return f"place{getattr(current_process(), 'index', 0)}"


if FOLDER_VARIABLE in os.environ:
    values.ValueClass = MultiProcessValue(_place)  # type: ignore[no-untyped-call]

REGISTRY: Final = CollectorRegistry()
_bytes = Counter("arrowquant_worker_bytes", "Bytes moved.", ("direction",), registry=REGISTRY)
read_bytes: Final = _bytes.labels("read")
written_bytes: Final = _bytes.labels("written")
tensors: Final = Counter(
    "arrowquant_worker_tensors", "Tensors finished.", ("state",), registry=REGISTRY
)
units: Final = Counter(
    "arrowquant_worker_units", "Units by how they ended.", ("kind", "outcome"), registry=REGISTRY
)
stage_seconds: Final = Counter(
    "arrowquant_worker_stage_seconds",
    "Busy time of the stages of a unit; they overlap.",
    ("stage",),
    registry=REGISTRY,
)
