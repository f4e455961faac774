"""Where in a JSON document something is wrong, and what, in words for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def pointer(loc: Sequence[Any]) -> str:
    """An RFC 6901 pointer. Pydantic's own marks, such as `[key]`, are not part of the body."""
    steps = [str(step) for step in loc if step != "[key]"]
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)


def reason(item: Mapping[str, Any]) -> str:
    """What one of pydantic's errors says."""
    if item["type"] == "extra_forbidden":
        return "unknown field"
    if item["type"] == "json_invalid":
        return f"not JSON: {item.get('ctx', {}).get('error', '')}"
    return str(item["msg"]).removeprefix("Value error, ")
