"""Command-line options to recipes: read as `arrowquant submit` reads them, checked as the API does."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from arrowquant.cli.request import Options
from arrowquant.cli.request import recipe as fields_of
from arrowquant.errors import ArrowQuantError as ClientError
from service.domain.limits import MIN_MEMORY_BYTES, Limits
from service.domain.spec import Recipe
from workers import places

_UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


class UsageError(Exception):
    """What was typed cannot be meant."""


def build(file: Path | None, options: Options, calibration: str | None = None) -> Recipe:
    """The file's recipe, if there is one, with the options on top.

    calibration  where a local command's calibration file is. Raises source_not_found
    """
    if calibration is not None:
        _, key = places.calibration(calibration)
        options = replace(options, calibration={"connection": "calibration", "key": key})
    try:
        return Recipe.model_validate(fields_of(file, options))
    except ClientError as error:
        raise UsageError(". ".join(filter(None, (error.detail, error.hint)))) from None
    except ValidationError as error:
        raise UsageError(_describe(error)) from None


def limits(threads: int | None, max_memory: str | None) -> Limits:
    """Limits from the options."""
    fields: dict[str, Any] = {"threads": threads}
    if max_memory is not None:
        fields["max_memory_bytes"] = _bytes(max_memory)
    try:
        return Limits.model_validate(fields)
    except ValidationError as error:
        raise UsageError(_describe(error)) from None


def _bytes(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?I?)B?\s*", text.upper())
    if match is None:
        raise UsageError(f"--max-memory {text!r}: write for instance 500MiB or 2GB")
    nbytes = int(float(match[1]) * _UNITS[match[2]])
    if nbytes < MIN_MEMORY_BYTES:
        raise UsageError(f"--max-memory {text}: at least {MIN_MEMORY_BYTES // 2**20}MiB are needed")
    return nbytes


def _describe(error: ValidationError) -> str:
    return "; ".join(
        ".".join(str(part) for part in item["loc"] if not isinstance(part, int))
        + (": " if item["loc"] else "")
        + item["msg"].removeprefix("Value error, ")
        for item in error.errors(include_url=False)
    )
