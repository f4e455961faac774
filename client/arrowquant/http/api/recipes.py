"""Operations of `recipes`.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from arrowquant.http.calls import Call, at
from arrowquant.http.sync import SyncShell
from arrowquant.http.types import RecipeOut, RecipePage, RecipeRequest


class RecipesApi(SyncShell):
    """The operations of `recipes`."""

    def create_recipe(
        self, body: RecipeRequest, *, idempotency_key: str | None = None
    ) -> RecipeOut:
        """Keep a recipe."""
        return self._send(Call[RecipeOut]("POST", "/v1/recipes", body=body, key=idempotency_key))

    def list_recipes(
        self, *, page_size: int | None = None, page_token: str | None = None
    ) -> RecipePage:
        """List the recipes."""
        return self._send(
            Call[RecipePage](
                "GET", "/v1/recipes", {"page_size": page_size, "page_token": page_token}
            )
        )

    def iter_recipes(self, *, limit: int | None = None) -> Iterator[RecipeOut]:
        """List the recipes: all pages, or at most `limit` rows."""
        return self._pages(Call[Any]("GET", "/v1/recipes"), "recipes", limit)

    def get_recipe(self, recipe_name: str) -> RecipeOut:
        """Get the newest version of a recipe."""
        return self._send(Call[RecipeOut]("GET", at("/v1/recipes/{}", recipe_name)))

    def get_recipe_version(self, recipe_name: str, version: str) -> RecipeOut:
        """Get a version of a recipe."""
        return self._send(
            Call[RecipeOut]("GET", at("/v1/recipes/{}/versions/{}", recipe_name, version))
        )
