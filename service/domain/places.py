"""Where a request's weights are, and where its artifact goes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints, field_validator

from service.domain import location
from service.domain.wire import Wire


class Place(Wire):
    """A prefix inside a named connection. Never a URL and never a key."""

    connection: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    prefix: Annotated[str, StringConstraints(max_length=1024)] = ""

    @field_validator("prefix")
    @classmethod
    def _clean(cls, value: str) -> str:
        return location.clean_prefix(value)


class Source(Place):
    """Where the weights are: a folder of safetensors, or one `.safetensors` object."""


class Output(Place):
    """Where the artifact goes, and what to do when one is there already."""

    if_exists: Literal["fail", "replace", "resume"] = "fail"

    @field_validator("prefix")
    @classmethod
    def _is_a_folder(cls, value: str) -> str:
        if value and not value.endswith("/"):
            raise ValueError(
                "an artifact is a prefix with several objects: leave out '.safetensors'"
            )
        return value
