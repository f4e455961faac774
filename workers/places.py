"""SRC and DST of a local command: what a person typed, as a store and a prefix in it."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from service.adapters.objects.connections import store_for_url
from service.domain.errors import ArrowQuantError
from service.domain.places import Output, Source
from service.domain.ports import ObjectStore


def source(url: str) -> tuple[ObjectStore, Source]:
    """Where the weights are. Raises source_not_found, unsupported_format, location_not_allowed."""
    path = _local(url)
    if path is not None and not path.exists():
        raise ArrowQuantError(
            "source_not_found",
            "there is no such file or folder",
            "SRC is a folder with .safetensors files, one such file, or s3://bucket/prefix.",
            {"path": url},
        )
    if path is not None and path.is_file() and path.suffix != ".safetensors":
        raise ArrowQuantError(
            "unsupported_format",
            "the file's name does not end in .safetensors",
            "Convert the weights to safetensors where they were made.",
            {"path": url},
        )
    store, prefix = store_for_url(url)
    try:
        return store, Source(connection="source", prefix=prefix)
    except ValidationError as error:
        raise _refused(url, error) from None


def calibration(url: str) -> tuple[ObjectStore, str]:
    """A calibration file's store and its key there. Raises source_not_found, location_not_allowed."""
    store, prefix = store_for_url(url)
    key = prefix.rstrip("/")  # which may look like a folder's
    if not key:
        raise ArrowQuantError(
            "source_not_found",
            "there is no such calibration file",
            "Name a file, or s3://bucket/key.",
            {"path": url},
        )
    return store, key


def output(url: str, *, replace: bool) -> tuple[ObjectStore, Output]:
    """Where the artifact goes. Raises location_not_allowed."""
    path = _local(url)
    if path is not None and (path.is_file() or path.suffix == ".safetensors"):
        raise ArrowQuantError(
            "location_not_allowed",
            "DST is a file; an artifact is a folder of several files",
            "Name a folder. It is made if it is not there.",
            {"path": url},
        )
    store, prefix = store_for_url(url)
    try:
        if_exists = "replace" if replace else "fail"
        return store, Output.model_validate(
            {"connection": "output", "prefix": prefix, "if_exists": if_exists}
        )
    except ValidationError as error:
        raise _refused(url, error) from None


def _local(url: str) -> Path | None:
    return None if "://" in url else Path(url).expanduser()


def _refused(url: str, error: ValidationError) -> ArrowQuantError:
    text = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
    return ArrowQuantError("location_not_allowed", text, "", {"path": url})
