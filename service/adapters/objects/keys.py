"""Object keys, checked once for every store."""

from __future__ import annotations

import re

from service.domain.errors import ArrowQuantError

MAX_KEY_BYTES = 1024
_BAD = re.compile(r"[\x00-\x1f\x7f\\]|(^|/)\.{1,2}(/|$)|//|^/")


def check_key(key: str) -> str:
    """Refuse a key that is empty, too long, or that names another place when read as a path."""
    if not key or key.endswith("/"):
        raise refused(key, "the key names no object")
    return check_prefix(key)


def check_prefix(prefix: str) -> str:
    """Refuse a prefix that could leave its connection."""
    if _BAD.search(prefix):
        raise refused(prefix, "the key has an empty, '.' or '..' segment or a control character")
    try:
        size = len(prefix.encode())
    except UnicodeEncodeError:
        raise refused(ascii(prefix), "the key is not valid Unicode") from None
    if size > MAX_KEY_BYTES:
        raise refused(prefix[:100], f"the key has {size} bytes (at most {MAX_KEY_BYTES})")
    return prefix


def refused(key: str, detail: str) -> ArrowQuantError:
    """A location_not_allowed error."""
    hint = "Name an object inside the connection."
    return ArrowQuantError("location_not_allowed", detail, hint, {"object": key})
