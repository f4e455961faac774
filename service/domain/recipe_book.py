"""Recipes with a name and a version, which never change once they are kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol

from service.domain.errors import ArrowQuantError, FieldError
from service.domain.spec import Recipe, canonical_json

NAME: Final = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_REF = re.compile(r"([a-z0-9][a-z0-9_-]{0,62})(?:@([1-9][0-9]{0,8}))?")


@dataclass(frozen=True, slots=True)
class StoredRecipe:
    """A version of a recipe. `create_time` is None for those that come with the service."""

    name: str
    version: int
    recipe: dict[str, Any]
    sha256: str
    create_time: datetime | None

    @property
    def ref(self) -> str:
        """What a request names it by."""
        return f"{self.name}@{self.version}"


class RecipeBook(Protocol):
    """The recipes of tenants. Nothing is ever changed or removed: jobs name versions."""

    def add(self, tenant: str, name: str, recipe: dict[str, Any]) -> StoredRecipe:
        """The next version of this name, from 1."""

    def find(self, tenant: str, name: str, version: int | None = None) -> StoredRecipe | None:
        """A version; the newest for None."""

    def versions(
        self, tenant: str, after: tuple[str, int] | None, limit: int
    ) -> Sequence[StoredRecipe]:
        """All versions of all names, in order, after one of them."""


def digest(recipe: dict[str, Any]) -> str:
    """SHA-256 of a recipe's canonical JSON."""
    return hashlib.sha256(canonical_json(recipe)).hexdigest()


def _builtin(name: str, *versions: dict[str, Any]) -> tuple[StoredRecipe, ...]:
    kept = [Recipe.model_validate(v).model_dump(mode="json", exclude_unset=True) for v in versions]
    return tuple(
        StoredRecipe(name, number, recipe, digest(recipe), None)
        for number, recipe in enumerate(kept, 1)
    )


# A version is never edited: what is found to be better becomes the next one.
BUILTIN: Final[tuple[StoredRecipe, ...]] = (
    *_builtin("cloud", {"profile": "cloud"}),
    # Iterated models: rows keep their length, so that the error does not add up over the steps.
    *_builtin(
        "diffusion-default",
        {"profile": "local", "bits": 4, "group_size": 64, "unbias": 1.0},
        {"profile": "local", "bits": 4, "unbias": 1.0},
    ),
    *_builtin("edge", {"profile": "edge"}),
    *_builtin("local", {"profile": "local"}),
    *_builtin("three-widths", {"outputs": [{"bits": 8}, {"bits": 4}, {"bits": 2}]}),
)


def builtin(name: str, version: int | None = None) -> StoredRecipe | None:
    """One that comes with the service; the newest for None."""
    found = [r for r in BUILTIN if r.name == name and version in (None, r.version)]
    return found[-1] if found else None


def parse_ref(ref: str) -> tuple[str, int | None]:
    """Name and version of `name@3` or `name`. Raises invalid_spec."""
    match = _REF.fullmatch(ref)
    if match is None:
        detail = f"{ref!r} is not of the form name or name@3"
        raise ArrowQuantError("invalid_spec", detail, errors=(FieldError("/recipe/ref", detail),))
    return match[1], int(match[2]) if match[2] else None
