"""Which webhook endpoints a job tells of itself."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints

from service.domain.webhooks import JobEventName
from service.domain.wire import Wire


class Notify(Wire):
    """Tell this webhook endpoint of the job. `events` replaces the endpoint's own filter."""

    webhook_endpoint: Annotated[str, StringConstraints(pattern=r"^wh_[0-9a-z]{1,40}$")]
    events: Annotated[tuple[JobEventName, ...], Field(max_length=16)] = ()


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


_Notifies = Annotated[tuple[Notify, ...], Field(max_length=16)]
# A single one may be written without the brackets.
NotifyList = Annotated[
    _Notifies, BeforeValidator(_listed, json_schema_input_type=_Notifies | Notify)
]
