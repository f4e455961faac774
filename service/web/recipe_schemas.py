"""Recipes as the API takes and shows them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self

from pydantic import StringConstraints

from service.domain.recipe_book import NAME, StoredRecipe
from service.domain.spec import Recipe
from service.domain.wire import Wire
from service.web.schemas import Out


class RecipeRequest(Wire):
    """A recipe to keep. Sent again under the same name it becomes the next version."""

    name: Annotated[str, StringConstraints(pattern=NAME)]
    recipe: Recipe


class RecipeOut(Out):
    """A version of a recipe. It never changes: `sha256` is of its canonical JSON.

    `ref` is what a request names it by. `create_time` is null for those that come with the service.
    """

    ref: str
    name: str
    version: int
    recipe: dict[str, Any]
    sha256: str
    create_time: datetime | None

    @classmethod
    def of(cls, stored: StoredRecipe) -> Self:
        """A stored recipe as the API shows it."""
        return cls.model_validate(stored)


class RecipePage(Out):
    """Every version: those of the service first, then yours by name and version."""

    recipes: list[RecipeOut]
    next_page_token: str | None
