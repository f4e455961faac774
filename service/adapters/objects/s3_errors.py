"""Every failure of boto3 ends here: as one of our codes, without credentials or signed URLs."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from service.domain.errors import ArrowQuantError

_GONE = {"NoSuchKey", "NoSuchBucket", "NotFound", "404", "NoSuchVersion"}
_DENIED = {
    *("AccessDenied", "AllAccessDisabled", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
    *("ExpiredToken", "InvalidToken", "AccountProblem", "AuthorizationHeaderMalformed"),
    *("RequestTimeTooSkewed", "PermanentRedirect", "IllegalLocationConstraintException"),
}
_THROTTLED = {
    *("SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"),
    *("TooManyRequests", "BandwidthLimitExceeded", "ServiceUnavailable"),
}
_SLOW = {"RequestTimeout"}
_BUSY = {"ConditionalRequestConflict"}
# The upload is no longer there, or its parts are not those that were sent.
_UPLOAD = {"NoSuchUpload", "InvalidPart", "InvalidPartOrder", "EntityTooSmall"}
_CONDITIONS = {"PreconditionFailed", "InvalidRange"}
_FULL = {"QuotaExceeded", "XMinioStorageFull", "EntityStorageFull", "InsufficientStorage"}
_KNOWN = _GONE | _DENIED | _THROTTLED | _SLOW | _BUSY | _UPLOAD | _FULL | _CONDITIONS


def _told(code: str, status: int) -> str:
    return f"{code} (status {status})" if code else f"status {status}"


@contextmanager
def translated(where: dict[str, Any], *, writing: bool = False) -> Iterator[None]:
    """Turn what boto3 raises into ArrowQuantError."""
    from botocore.exceptions import (
        BotoCoreError,
        ClientError,
        ConnectTimeoutError,
        NoCredentialsError,
        ParamValidationError,
        PartialCredentialsError,
        ReadTimeoutError,
    )
    from botocore.parsers import ResponseParserError
    from urllib3.exceptions import HTTPError
    from urllib3.exceptions import TimeoutError as PoolTimeoutError

    try:
        yield
    except ClientError as error:
        raise _from_response(error.response, where, writing) from None
    except (NoCredentialsError, PartialCredentialsError) as error:
        raise _denied("NoCredentials", where, writing, type(error).__name__) from None
    except ParamValidationError:
        raise ArrowQuantError(
            "location_not_allowed", "the bucket or key is not valid for S3", where=where
        ) from None
    except (ResponseParserError, KeyError, TypeError, ValueError, AttributeError):
        # What every answer of S3 has is not there, or is something else.
        raise unavailable("it does not answer as S3 does", where) from None
    except (ConnectTimeoutError, ReadTimeoutError, PoolTimeoutError, TimeoutError) as error:
        raise _slow(type(error).__name__, where) from None
    except (BotoCoreError, HTTPError, http.client.HTTPException, OSError) as error:
        # Their texts may hold signed URLs; the kind of error says enough.
        raise unavailable(type(error).__name__, where) from None


def unavailable(what: str, where: dict[str, Any]) -> ArrowQuantError:
    """storage_unavailable: it may work later."""
    return ArrowQuantError(
        "storage_unavailable",
        f"the object store did not serve the request: {what}",
        "It is tried again later; check that the endpoint is up and reachable.",
        where,
    )


def _throttled(what: str, where: dict[str, Any]) -> ArrowQuantError:
    return ArrowQuantError(
        "storage_throttled",
        f"the object store asks for fewer requests: {what}",
        "It is tried again later; run fewer workers at once, or raise the store's limits.",
        where,
    )


def _slow(what: str, where: dict[str, Any]) -> ArrowQuantError:
    return ArrowQuantError(
        "storage_timeout",
        f"the object store did not answer in time: {what}",
        "It is tried again later; check the network between here and the store, and its load.",
        where,
    )


def multipart_failed(what: str, where: dict[str, Any]) -> ArrowQuantError:
    """multipart_failed: the upload is over, and another one may succeed."""
    return ArrowQuantError(
        "multipart_failed",
        f"the upload cannot be completed: {what}",
        "It is begun again; look for rules of the bucket that remove unfinished uploads.",
        where,
    )


def changed(detail: str, where: dict[str, Any]) -> ArrowQuantError:
    """source_changed: the object is no longer the one that was planned for."""
    hint = "Start again once the source no longer changes."
    return ArrowQuantError("source_changed", f"the object changed: {detail}", hint, where)


def _from_response(response: Any, where: dict[str, Any], writing: bool) -> Exception:
    said = str(response.get("Error", {}).get("Code", ""))
    # The text is the store's, and the store may be anything that a user made us ask: only words
    # that we know are passed on.
    code = said if said in _KNOWN else ""
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _UPLOAD:
        return multipart_failed(_told(code, status), where)
    if code in _FULL or status == 507:
        return ArrowQuantError("no_space", "the object store is full", where=where)
    if code in _GONE or status == 404:
        what = "bucket" if code == "NoSuchBucket" else "object"
        return ArrowQuantError("source_not_found", f"no such {what}", where=where)
    if code == "PreconditionFailed" or status == 412:
        if not writing:
            return changed("its ETag differs", where)
        return ArrowQuantError(
            "output_exists",
            "there is an object under this key already",
            "Write to another prefix, or replace what is there.",
            where,
        )
    if code == "InvalidRange" or status == 416:
        return changed("it is shorter than it was", where)
    if code in _THROTTLED or status in (429, 503):
        return _throttled(_told(code, status), where)
    if code in _SLOW or status in (408, 504):
        return _slow(_told(code, status), where)
    if code in _BUSY or status >= 500 or status == 409:
        return unavailable(_told(code, status), where)
    # What is left is a request that the store refuses: 401, 403, a redirect to another region...
    return _denied(code, where, writing, _told(code, status))


def _denied(code: str, where: dict[str, Any], writing: bool, what: str) -> ArrowQuantError:
    known = code in _DENIED or code == "NoCredentials"
    return ArrowQuantError(
        "storage_access_denied" if writing else "source_access_denied",
        f"the object store refused the request: {what}",
        "Check the connection's credentials and its region, and what they may do on the bucket."
        if known
        else "Check the connection: endpoint, bucket, region and credentials.",
        where,
    )
