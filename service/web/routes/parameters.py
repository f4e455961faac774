"""Parameters that several operations take."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import Depends, Path, Query

from service.domain.errors import ArrowQuantError

_JOB_ID: Final = re.compile(r"job_[0-9a-z]{1,40}")


async def _job_id(
    job_id: Annotated[
        str, Path(description="The job's `id`.", examples=["job_01kayq3zj6c8x4t1m2n5p7r9sv"])
    ],
) -> str:
    """What cannot be an id is not found: no different from one that is nobody's."""
    if not _JOB_ID.fullmatch(job_id):
        raise ArrowQuantError("not_found", "there is no such job")
    return job_id


JobId = Annotated[str, Depends(_job_id)]
PageSize = Annotated[
    int | None,
    Query(description="Rows of a page: 50 if not given, at most 1000 (more is cut).", ge=1),
]
PageToken = Annotated[
    str | None,
    Query(
        description="`next_page_token` of the page before, with the same filters.", max_length=512
    ),
]
