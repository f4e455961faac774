"""What stands at an output's place: an artifact, from its manifest on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from service.domain.errors import ArrowQuantError
from service.domain.report import MANIFEST_NAME
from service.domain.succession import part_numbers
from workers.job import JobContext


@dataclass(frozen=True, slots=True)
class Standing:
    """A manifest as it was read. `manifest` is empty where it is none that we can read."""

    key: str
    data: bytes
    manifest: dict[str, Any]

    @property
    def parts(self) -> list[tuple[str, str]]:
        """Name and digest of each part."""
        return [(part["name"], part["sha256"]) for part in self.manifest.get("parts", ())]

    @property
    def names(self) -> set[str]:
        """Every file that belongs to the artifact."""
        if not self.manifest:
            return set()
        beside = [
            self.manifest[key]["name"] for key in ("report", "activations") if key in self.manifest
        ]
        return {MANIFEST_NAME, *beside, *(name for name, _ in self.parts)}


def standing(context: JobContext, output: int) -> Standing | None:
    """The artifact in an output's place, if there is one."""
    key = context.key(MANIFEST_NAME, output)
    data = read_whole(context, key)
    return None if data is None else Standing(key, data, _parse(data))


def read_whole(context: JobContext, key: str) -> bytes | None:
    """A small object, or None if it is not there."""
    try:
        info = context.output.stat(key)
        return context.output.read(key, 0, info.size, info.etag)
    except ArrowQuantError as error:
        if error.code in ("source_not_found", "source_changed"):
            return None
        raise


def numbers_taken(context: JobContext, output: int, found: Standing | None) -> set[int]:
    """Part numbers that are in the store or in the manifest."""
    start = len(context.key("", output))
    names = {info.key[start:] for info in context.output.list(context.key("part-", output))}
    return part_numbers(names | (found.names if found else set()))


def numbers_listed(found: Standing) -> set[int]:
    """Part numbers of the artifact."""
    return part_numbers(found.names)


def _parse(data: bytes) -> dict[str, Any]:
    try:
        value: dict[str, Any] = json.loads(data)
        for part in value["parts"]:
            part["name"], part["sha256"], part["bytes"]
        value["report"]["name"]
        value.get("activations", {"name": ""})["name"]
    except (ValueError, TypeError, KeyError):
        return {}
    return value
