"""Operations of `recipes`, to be awaited.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from arrowquant.http.aio import AsyncShell
from arrowquant.http.calls import Call, at
from arrowquant.http.types import RecipeOut, RecipePage, RecipeRequest


class AsyncRecipesApi(AsyncShell):
    """The operations of `recipes`, to be awaited."""

    async def create_recipe(
        self, body: RecipeRequest, *, idempotency_key: str | None = None
    ) -> RecipeOut:
        """Keep a recipe."""
        return await self._send(
            Call[RecipeOut]("POST", "/v1/recipes", body=body, key=idempotency_key)
        )

    async def list_recipes(
        self, *, page_size: int | None = None, page_token: str | None = None
    ) -> RecipePage:
        """List the recipes."""
        return await self._send(
            Call[RecipePage](
                "GET", "/v1/recipes", {"page_size": page_size, "page_token": page_token}
            )
        )

    def iter_recipes(self, *, limit: int | None = None) -> AsyncIterator[RecipeOut]:
        """List the recipes: all pages, or at most `limit` rows."""
        return self._pages(Call[Any]("GET", "/v1/recipes"), "recipes", limit)

    async def get_recipe(self, recipe_name: str) -> RecipeOut:
        """Get the newest version of a recipe."""
        return await self._send(Call[RecipeOut]("GET", at("/v1/recipes/{}", recipe_name)))

    async def get_recipe_version(self, recipe_name: str, version: str) -> RecipeOut:
        """Get a version of a recipe."""
        return await self._send(
            Call[RecipeOut]("GET", at("/v1/recipes/{}/versions/{}", recipe_name, version))
        )
