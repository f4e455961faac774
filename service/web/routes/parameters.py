"""Parameters that several operations take."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import Depends, Path, Query
from pydantic import AfterValidator, StringConstraints

from service.domain.errors import ArrowQuantError
from service.domain.ordering import parse_order
from service.usecases.paging import MAX_TOKEN_CHARS

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
OutputName = Annotated[
    str | None,
    Query(description="The id of an output, where the job has several.", max_length=32),
]
PageSize = Annotated[
    int | None,
    Query(description="Rows of a page: 50 if not given, at most 1000 (more is cut).", ge=1),
]
PageToken = Annotated[
    str | None,
    Query(
        description="`next_page_token` of the page before, with the same filters.",
        max_length=MAX_TOKEN_CHARS,
    ),
]
_TERM: Final = r" *(create_time|start_time|end_time|name|priority)( +(asc|desc))? *"
_ORDER: Final = rf"^({_TERM}(,{_TERM})*| *)$"  # for the document; `parse_order` says what is wrong
LabelFilter = Annotated[str, StringConstraints(max_length=320, pattern=r"^[^:\x00]+:[^\x00]*$")]


def _is_an_order(text: str | None) -> str | None:
    parse_order(text)
    return text


OrderBy = Annotated[
    str | None,
    Query(
        max_length=128,
        description="Fields separated by commas, each with `asc` (the default) or `desc` after it: "
        "`create_time`, `start_time`, `end_time`, `name`, `priority`. What has not started or "
        "ended comes after what has.",
        examples=["priority desc, create_time"],
        json_schema_extra={"pattern": _ORDER},
    ),
    AfterValidator(_is_an_order),
]
