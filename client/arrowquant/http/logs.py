"""Reading the log of a job, to where it is or to where it ends."""

from __future__ import annotations

from typing import Any

from arrowquant.http.calls import Call, Emit, Script, Sleep, at
from arrowquant.http.core import Core, rows_of
from arrowquant.http.follow import POLL_S, TERMINAL, get_job


def lines(
    core: Core, job_id: str, after: int, level: str | None, tensor: str | None, *, follow: bool
) -> Script[None]:
    """Emit the lines after `after`; with `follow` go on until the job has ended."""
    path = at("/v1/jobs/{}/logs", job_id)
    ended = not follow
    while True:
        params = {"after": after, "level": level, "tensor": tensor}
        page = yield from core.send(Call[Any]("GET", path, params))
        for line in rows_of(page, "logs"):
            yield Emit(line)
        reached = int(page.get("next_after", after))
        if reached > after:
            after = reached
        elif ended:
            return
        else:
            # What was written before it ended is read once more after it has.
            job = yield from get_job(core, job_id)
            ended = job.get("state") in TERMINAL
            yield Sleep(0.0 if ended else POLL_S)
