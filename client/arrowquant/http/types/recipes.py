"""Types of recipes.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import Any, TypedDict

from arrowquant.http.types.shared import Recipe


class RecipeOut(TypedDict):
    """A version of a recipe. It never changes: `sha256` is of its canonical JSON.

    `ref` is what a request names it by. `create_time` is null for those that come with the
    service.
    """

    ref: str
    name: str
    version: int
    recipe: dict[str, Any]
    sha256: str
    create_time: str | None


class RecipePage(TypedDict):
    """Every version: those of the service first, then yours by name and version."""

    recipes: list[RecipeOut]
    next_page_token: str | None


class RecipeRequest(TypedDict):
    """A recipe to keep. Sent again under the same name it becomes the next version."""

    name: str
    recipe: Recipe
