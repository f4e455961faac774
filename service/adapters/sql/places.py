"""The places that a job writes to, as the ledger compares them."""

from __future__ import annotations

import hashlib
from typing import Any

from service.domain.outputs import output_ids
from service.domain.ports import NewJob


def place_of(job: NewJob) -> str | None:
    """The output as one text, the same for all jobs that write there."""
    output = job.request.get("output")
    if not output or "replay" in job.resolved:  # a replay writes nothing
        return None
    return f"{job.output_root or output['connection']}:{output.get('prefix', '')}"


def places_of(output: str | None, resolved: dict[str, Any]) -> list[str]:
    """SHA-256 of the place of each of a job's outputs."""
    if output is None:
        return []
    found = [output + (f"{name}/" if name else "") for name in output_ids(resolved)]
    return [hashlib.sha256(place.encode()).hexdigest() for place in found]
