"""What can go wrong, as types with stable codes. Every message says what, where and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ArrowQuantError(Exception):
    """The root of all errors raised on purpose by this package.

    code    stable, for programs
    detail  one sentence: what happened
    hint    one sentence: what to do about it
    where   facts that locate it: part, tensor, byte, file, url...
    """

    def __init__(
        self, code: str, detail: str, hint: str = "", where: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.hint = hint
        self.where = dict(where or {})

    @property
    def place(self) -> str:
        """`where` as text: "part part-00000.arrow, batch 3"."""
        return ", ".join(f"{key} {value}" for key, value in self.where.items())

    def __str__(self) -> str:
        text = f"{self.code}: {self.detail}" + (f" ({self.place})" if self.where else "")
        return f"{text} {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle by args alone; ours must keep their fields across process borders.
        return (_rebuild, (type(self), self.args, self.__dict__))

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "code": self.code,
            "message": self.detail,
            "hint": self.hint,
            "where": dict(self.where),
        }


def _rebuild(
    kind: type[ArrowQuantError], args: tuple[Any, ...], fields: dict[str, Any]
) -> ArrowQuantError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(fields)
    return error


class ArtifactError(ArrowQuantError):
    """An artifact cannot be read or is not what it says."""


class TensorNotFound(ArtifactError, KeyError):
    """The artifact holds no tensor of this name."""


class CalibrationError(ArrowQuantError):
    """A calibration file cannot be read, or does not fit the weights or another file."""


class ApiError(ArrowQuantError):
    """The server refused a request, or could not be reached (`status` 0).

    errors      wrong fields of the request: [{"pointer": ..., "detail": ...}]
    request_id  what an operator needs to find the request in the logs
    """

    def __init__(
        self,
        code: str,
        detail: str,
        hint: str = "",
        where: Mapping[str, Any] | None = None,
        *,
        status: int = 0,
        errors: tuple[Mapping[str, Any], ...] = (),
        request_id: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, detail, hint, where)
        self.status = status
        self.errors = tuple(dict(error) for error in errors)
        self.request_id = request_id
        self.retry_after = retry_after

    def as_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return super().as_dict() | {
            "status": self.status,
            "errors": [dict(error) for error in self.errors],
            "request_id": self.request_id,
        }


class InvalidRequest(ApiError):
    """The request is wrong: `errors` names the fields."""


class Unauthorized(ApiError):
    """There is no valid key."""


class Forbidden(ApiError):
    """The key may not do that."""


class NotFound(ApiError):
    """There is no such thing, or it is somebody else's."""


class Conflict(ApiError):
    """It does not fit the state that things are in."""


class TooManyRequests(ApiError):
    """A quota is used up; `retry_after` says for how long."""


class ServerFailed(ApiError):
    """The server, or something it needs, is not well."""


class Unreachable(ApiError):
    """No answer came: whether the request was carried out is not known."""


class JobFailed(ArrowQuantError):
    """A job that was waited for ended in another state than SUCCEEDED; `job` is its last form."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        error = job.get("error") or {}
        state = job.get("state", "FAILED")
        super().__init__(
            str(error.get("code") or f"job_{str(state).lower()}"),
            str(error.get("message") or f"the job ended as {state}"),
            str(error.get("hint") or ""),
            {"job": job.get("id", "?")} | dict(error.get("where") or {}),
        )
        self.job = dict(job)
