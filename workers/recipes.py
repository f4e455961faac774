"""Command-line options to recipes: the same fields as a request, checked by the same model."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from service.domain.spec import MIN_MEMORY_BYTES, Limits, Recipe

_UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KI": 2**10, "MI": 2**20, "GI": 2**30}


class UsageError(Exception):
    """What was typed cannot be meant."""


@dataclass(frozen=True, slots=True)
class Options:
    """What was given on the command line; None and False mean not given."""

    bits: int | None
    profile: str | None
    method: str | None
    group_size: int | None
    granularity: str | None
    symmetric: bool
    rules: list[str] | None
    no_fallback: bool
    min_sqnr: float | None


def build(file: Path | None, options: Options) -> Recipe:
    """The file's recipe, if there is one, with the options on top."""
    fields = _read(file) if file is not None else {}
    given: dict[str, Any] = {
        "bits": options.bits,
        "profile": options.profile,
        "method": options.method,
        "group_size": options.group_size,
        "granularity": options.granularity,
        "symmetric": options.symmetric or None,
    }
    fields |= {key: value for key, value in given.items() if value is not None}
    if options.rules:
        fields["rules"] = [*(_rule(text) for text in options.rules), *fields.get("rules", [])]
    fallback = dict(fields.get("fallback", {}))
    if options.no_fallback:
        fallback["enabled"] = False
    if options.min_sqnr is not None:
        fallback["min_sqnr_db"] = options.min_sqnr
    if fallback:
        fields["fallback"] = fallback
    try:
        return Recipe.model_validate(fields)
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


def _read(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        fields = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise UsageError(f"--recipe {file}: {error}") from None
    if not isinstance(fields, dict):
        raise UsageError(f"--recipe {file}: a recipe is a table of fields")
    return fields


def _rule(text: str) -> dict[str, Any]:
    pattern, separator, action = text.rpartition("=")
    if not separator or not pattern:
        raise UsageError(f"--rule {text!r}: write GLOB=keep or GLOB=BITS, for instance '*.mlp.*=8'")
    if action == "keep":
        return {"match": pattern, "action": "keep"}
    if not action.isdigit():
        raise UsageError(f"--rule {text!r}: after '=' comes 'keep' or a width in bits")
    return {"match": pattern, "bits": int(action)}


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
