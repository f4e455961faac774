"""Making an artifact again, to see whether it comes out the same.

What is known of the first time is its manifest, which may come from anybody: it is read into these
values under bounds, and nothing else of it is used.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from service.domain.catalog import MAX_OBJECTS, Catalog, ObjectInfo
from service.domain.errors import ArrowQuantError
from service.domain.spec import ResolvedRecipe

MAX_MANIFEST_BYTES: Final = 64 * 2**20
MAX_PARTS: Final = 100_000
_Text = Annotated[str, StringConstraints(max_length=2048)]
_Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class _Read(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Object(_Read):
    key: _Text
    size: Annotated[int, Field(ge=0)]
    etag: _Text


class _Source(_Read):
    objects: Annotated[tuple[_Object, ...], Field(min_length=1, max_length=MAX_OBJECTS)]


class _Part(_Read):
    name: Annotated[str, StringConstraints(pattern=r"^part-[0-9]{5}\.arrow$")]
    bytes: Annotated[int, Field(ge=0)]
    sha256: _Digest


class _Table(_Read):
    sha256: _Digest


class _Recipes(_Read):
    resolved: ResolvedRecipe


class Manifest(_Read):
    """What a replay needs of a manifest."""

    format: Annotated[str, StringConstraints(pattern="^arrowquant$")]
    source: _Source
    recipe: _Recipes
    calibration: _Object | None = None
    activations: _Table | None = None
    engine: Annotated[dict[_Text, _Text], Field(max_length=64)]
    parts: Annotated[tuple[_Part, ...], Field(max_length=MAX_PARTS)]

    def objects(self) -> list[ObjectInfo]:
        """The source's objects as they were."""
        return [ObjectInfo(o.key, o.size, o.etag) for o in self.source.objects]


def read_manifest(data: bytes) -> Manifest:
    """Raises invalid_artifact."""
    try:
        return Manifest.model_validate_json(data)
    except (ValidationError, RecursionError) as error:
        first = error.errors(include_url=False)[0] if isinstance(error, ValidationError) else None
        where = ".".join(str(p) for p in first["loc"]) if first else ""
        raise ArrowQuantError(
            "invalid_artifact",
            f"the manifest is not one of this format: {where or 'it is not JSON'}",
            "Name the prefix of an artifact.",
        ) from None


def check_source(then: list[ObjectInfo], now: tuple[ObjectInfo, ...]) -> None:
    """Raises source_changed, naming an object that is not as it was."""
    before, after = {o.key: o for o in then}, {o.key: o for o in now}
    for key in sorted(before.keys() | after.keys()):
        if before.get(key) != after.get(key):
            raise ArrowQuantError(
                "source_changed",
                "the source is not the one that the artifact was made from",
                "An artifact can be made again from the same objects only.",
                {"object": key},
            )


def check_calibration(then: list[Any] | None, catalog: Catalog) -> None:
    """Raises source_changed if the calibration file is not as it was; `then`: key, size, ETag."""
    now = catalog.calibration
    if (None if now is None else [now.key, now.size, now.etag]) != then:
        raise ArrowQuantError(
            "source_changed",
            "the calibration file is not the one that the artifact was made with",
            "An artifact can be made again from the same objects only.",
            {"object": now.key if now else (then or ["?"])[0]},
        )


def note(manifest: Manifest) -> dict[str, Any]:
    """What the ledger keeps beside the recipe of a job that is a replay."""
    found: dict[str, Any] = {
        "objects": [[o.key, o.size, o.etag] for o in manifest.source.objects],
        "parts": [[p.name, p.bytes, p.sha256] for p in manifest.parts],
        "engine": dict(manifest.engine),
    }
    if manifest.calibration is not None:
        c = manifest.calibration
        found["calibration"] = [c.key, c.size, c.etag]
    if manifest.activations is not None:
        found["activations"] = manifest.activations.sha256
    return found
