"""Opaque page tokens: where a page ended, bound to the filters it was asked with."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any, Final

import orjson

from service.domain.errors import ArrowQuantError
from service.domain.ordering import After, By
from service.domain.spec import canonical_json

DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 1000
MAX_TOKEN_CHARS: Final = 2048


def page_size(asked: int | None) -> int:
    """What is too large is cut, not refused."""
    return DEFAULT_PAGE if asked is None else max(1, min(MAX_PAGE, asked))


def page_token(position: str | int | list[str | int | None], filters: dict[str, Any]) -> str:
    """A token from which `page_position` reads the position back."""
    data = orjson.dumps([position, _bound_to(filters)])
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def page_position(token: str, filters: dict[str, Any], kind: type[Any]) -> Any:
    """Where the page before ended. Raises invalid_page_token, also for other filters."""
    position = _read(token, filters)
    if type(position) is not kind or not _plausible(position):
        raise _invalid("the page token belongs to another list")
    return position


def page_after(token: str, filters: dict[str, Any], order: tuple[By, ...]) -> After:
    """Where a page of jobs ended. Raises invalid_page_token, also for another order."""
    position = _read(token, filters)
    try:
        return After.parse(order, position if isinstance(position, list) else [])
    except ValueError:
        raise _invalid("the page token belongs to another list") from None


def _read(token: str, filters: dict[str, Any]) -> Any:
    try:
        if len(token) > MAX_TOKEN_CHARS:
            raise ValueError
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        position, bound = orjson.loads(data)
    except (ValueError, TypeError, binascii.Error):
        raise _invalid("the page token was not made by this service") from None
    if bound != _bound_to(filters):
        raise _invalid("the page token was made with other filters")
    return position


def _plausible(position: Any) -> bool:
    """Tokens are not signed: a forged one may skip rows of its owner, but never reach the database
    with what that cannot store."""
    if isinstance(position, int):
        return 0 <= position < 2**31
    return isinstance(position, str) and position.isascii() and position.isprintable()


def _bound_to(filters: dict[str, Any]) -> str:
    return hashlib.sha256(canonical_json(filters)).hexdigest()[:16]


def _invalid(detail: str) -> ArrowQuantError:
    return ArrowQuantError(
        "invalid_page_token", detail, "Repeat the first request without page_token."
    )
