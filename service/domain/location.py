"""Object keys and prefixes that cannot leave the place they were granted."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")


def clean_prefix(value: str) -> str:
    """Normalise a prefix to `a/b/` (or empty); refuse what could climb out of it.

    Raises ValueError, saying which part is wrong.
    """
    if _CONTROL.search(value):
        raise ValueError(
            "control characters, backslashes and broken Unicode are not allowed in a prefix"
        )
    if value.startswith("/"):
        raise ValueError("a prefix is relative: remove the leading '/'")
    parts = value.removesuffix("/").split("/") if value else []
    for part in parts:
        if part in ("", ".", ".."):
            raise ValueError(f"{value!r} has an empty, '.' or '..' segment")
    if not parts:
        return ""
    joined = "/".join(parts)
    return joined if joined.endswith(".safetensors") else joined + "/"


def plain_name(value: str) -> bool:
    """Whether a file name taken from untrusted JSON is one plain name inside its prefix."""
    return (
        bool(value)
        and len(value) <= 255
        and "/" not in value
        and value not in (".", "..")
        and not _CONTROL.search(value)
    )
