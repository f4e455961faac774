"""Every failure the product can name: a stable code, whose fault it is, where it happened, what to do.

The web layer maps these to HTTP, the workers write them into `job.error`, the command line prints
them. No class here knows any of the three.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Fault(StrEnum):
    """Who has to act."""

    USER = "user"
    STORAGE = "storage"
    LIMIT = "limit"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class Code:
    """A stable error code and what is always true of it."""

    name: str
    fault: Fault
    retryable: bool = False


# The closed list. A code is never renamed or reused; docs/errors.md is checked against this table.
CODES: dict[str, Code] = {
    c.name: c
    for c in (
        Code("invalid_spec", Fault.USER),
        Code("invalid_page_token", Fault.USER),
        Code("unauthorized", Fault.USER),
        Code("forbidden", Fault.USER),
        Code("not_found", Fault.USER),
        Code("job_terminal", Fault.USER),
        Code("job_active", Fault.USER),
        Code("not_ready", Fault.USER),
        Code("invalid_batch", Fault.USER),
        Code("batch_terminal", Fault.USER),
        Code("batch_active", Fault.USER),
        Code("batch_expired", Fault.LIMIT),
        Code("job_cancelled", Fault.USER),
        Code("upload_timeout", Fault.USER, retryable=True),
        Code("too_many_uploads", Fault.LIMIT, retryable=True),
        Code("name_in_use", Fault.USER),
        Code("idempotency_key_reused", Fault.USER),
        Code("idempotency_in_flight", Fault.USER, retryable=True),
        Code("webhook_disabled", Fault.USER),
        Code("webhook_limit", Fault.LIMIT),
        Code("quota_exceeded", Fault.LIMIT, retryable=True),
        Code("rate_limited", Fault.LIMIT, retryable=True),
        Code("payload_too_large", Fault.USER),
        Code("unsupported_media_type", Fault.USER),
        Code("request_timeout", Fault.USER, retryable=True),
        Code("too_many_streams", Fault.LIMIT, retryable=True),
        Code("connection_not_found", Fault.USER),
        Code("location_not_allowed", Fault.USER),
        Code("connection_in_use", Fault.USER),
        Code("secrets_not_configured", Fault.USER),
        Code("secret_unreadable", Fault.SYSTEM, retryable=True),
        Code("endpoint_not_allowed", Fault.USER),
        Code("source_not_found", Fault.USER),
        Code("source_access_denied", Fault.USER),
        Code("source_changed", Fault.USER),
        Code("unsupported_format", Fault.USER),
        Code("invalid_safetensors_header", Fault.USER),
        Code("invalid_index", Fault.USER),
        Code("tensor_missing_in_index", Fault.USER),
        Code("unsupported_dtype", Fault.USER),
        Code("rule_matched_nothing", Fault.USER),
        Code("invalid_calibration", Fault.USER),
        Code("calibration_mismatch", Fault.USER),
        Code("budget_infeasible", Fault.USER),
        Code("non_finite_weights", Fault.USER),
        Code("quality_below_threshold", Fault.USER),
        Code("output_exists", Fault.USER),
        Code("output_mismatch", Fault.USER),
        Code("output_in_use", Fault.USER),
        Code("invalid_artifact", Fault.USER),
        Code("digest_mismatch", Fault.STORAGE, retryable=True),
        Code("storage_unavailable", Fault.STORAGE, retryable=True),
        Code("storage_throttled", Fault.STORAGE, retryable=True),
        Code("storage_timeout", Fault.STORAGE, retryable=True),
        Code("multipart_failed", Fault.STORAGE, retryable=True),
        Code("storage_access_denied", Fault.USER),
        Code("no_space", Fault.STORAGE),
        Code("max_pending_exceeded", Fault.LIMIT),
        Code("max_runtime_exceeded", Fault.LIMIT),
        Code("memory_limit_too_small", Fault.LIMIT),
        Code("out_of_memory", Fault.LIMIT),
        Code("overloaded", Fault.SYSTEM, retryable=True),
        Code("identity_unavailable", Fault.SYSTEM, retryable=True),
        Code("database_unavailable", Fault.SYSTEM, retryable=True),
        Code("broker_unavailable", Fault.SYSTEM, retryable=True),
        Code("engine_changed", Fault.SYSTEM, retryable=True),
        Code("attempts_exhausted", Fault.SYSTEM),
        Code("internal", Fault.SYSTEM),
    )
}


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field of a request: an RFC 6901 pointer into the body and what is wrong there.

    line, code  in a body of many lines: which one, from 1, and the error's code
    """

    pointer: str
    detail: str
    line: int | None = None
    code: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The JSON form, without what is not said."""
        first: dict[str, Any] = {"line": self.line, "code": self.code} if self.line else {}
        return first | {"pointer": self.pointer, "detail": self.detail}


@dataclass(eq=False)
class ArrowQuantError(Exception):
    """The root of all named failures.

    code    one of `CODES`
    detail  one sentence: what happened, with the numbers
    hint    one sentence: what to do about it
    where   facts that locate it: object, tensor, index, line, unit...
    errors  for a request with several wrong fields, each of them
    """

    code: str
    detail: str
    hint: str = ""
    where: dict[str, Any] = field(default_factory=dict)
    errors: tuple[FieldError, ...] = ()

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"unknown error code {self.code!r}")
        super().__init__(self.detail)

    def __str__(self) -> str:
        place = ", ".join(f"{key} {value}" for key, value in self.where.items() if value != "")
        text = f"{self.code}: {self.detail}" + (f" ({place})" if place else "")
        return f"{text} {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by args alone; ours must keep their fields across process borders.
        return (type(self), (self.code, self.detail, self.hint, self.where, self.errors))

    @property
    def fault(self) -> Fault:
        return CODES[self.code].fault

    @property
    def retryable(self) -> bool:
        return CODES[self.code].retryable

    def as_dict(self) -> dict[str, Any]:
        """The JSON form kept in the ledger and shown as `job.error`."""
        return {
            "code": self.code,
            "message": self.detail,
            "hint": self.hint,
            "fault": self.fault.value,
            "retryable": self.retryable,
            "where": dict(self.where),
        }


class LeaseLost(Exception):
    """The unit was claimed by someone else, or its job was cancelled: stop without writing."""
