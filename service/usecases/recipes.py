"""Keeping recipes, and putting them in the place of their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from pydantic import ValidationError

from service.domain.errors import ArrowQuantError, FieldError
from service.domain.recipe_book import BUILTIN, RecipeBook, StoredRecipe, builtin, parse_ref
from service.domain.spec import PlanRequest, Recipe
from service.usecases.paging import page_position, page_size, page_token

R = TypeVar("R", bound=PlanRequest)


def create(book: RecipeBook, tenant: str, name: str, recipe: Recipe) -> StoredRecipe:
    """Keep the next version of a name. A recipe made from another is kept with its fields."""
    if builtin(name) is not None:
        detail = f"{name!r} is the name of a recipe that comes with the service"
        raise ArrowQuantError(
            "name_in_use", detail, "Choose another name.", errors=(FieldError("/name", detail),)
        )
    whole = _whole(book, tenant, recipe)
    return book.add(tenant, name, whole.model_dump(mode="json", exclude_unset=True))


def get(book: RecipeBook, tenant: str, name: str, version: int | None = None) -> StoredRecipe:
    """A version, the newest for None. Raises not_found."""
    found = builtin(name, version) or book.find(tenant, name, version)
    if found is None:
        raise ArrowQuantError("not_found", "there is no such recipe", where={"recipe": name})
    return found


def list_page(
    book: RecipeBook, tenant: str, size: int | None, token: str | None
) -> tuple[list[StoredRecipe], str | None]:
    """Those that come with the service first, then the tenant's by name and version."""
    filters = {"tenant": tenant, "list": "recipes"}
    limit = page_size(size)
    place = _Place.read(page_position(token, filters, str)) if token else _Place()
    found = list(BUILTIN[place.builtin :][: limit + 1])
    if len(found) <= limit:
        found += book.versions(tenant, place.after, limit + 1 - len(found))
    if len(found) <= limit:
        return found, None
    last = found[limit - 1]
    position = last.ref if last.create_time else f"@{place.builtin + limit}"
    return found[:limit], page_token(position, filters)


def expanded(request: R, book: RecipeBook, tenant: str) -> R:
    """The request with the recipe it names in the place of the name, pinned to its version; what
    the request says beside `ref` goes before what the recipe says. Raises invalid_spec."""
    if request.recipe.ref is None:
        return request
    return request.model_copy(update={"recipe": _whole(book, tenant, request.recipe)})


def _whole(book: RecipeBook, tenant: str, recipe: Recipe) -> Recipe:
    if recipe.ref is None:
        return recipe
    try:
        stored = get(book, tenant, *parse_ref(recipe.ref))
    except ArrowQuantError as error:
        raise _refused("/recipe/ref", error.detail) from None
    if recipe.ref_sha256 not in (None, stored.sha256):
        raise _refused("/recipe/ref_sha256", f"{stored.ref} has the digest {stored.sha256}")
    given = recipe.model_dump(exclude_unset=True, exclude={"ref", "ref_sha256"})
    kept = {k: v for k, v in stored.recipe.items() if k not in ("ref", "ref_sha256")}
    pinned = {"ref": stored.ref, "ref_sha256": stored.sha256}
    try:
        return Recipe.model_validate(kept | given | pinned)
    except ValidationError as error:
        why = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
        raise _refused("/recipe", f"with {stored.ref}: {why}") from None


def _refused(pointer: str, detail: str) -> ArrowQuantError:
    return ArrowQuantError("invalid_spec", detail, errors=(FieldError(pointer, detail),))


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a page begins: past so many of the service's own, and past this one of the tenant's."""

    builtin: int = 0
    after: tuple[str, int] | None = None

    @classmethod
    def read(cls, text: str) -> _Place:
        """`@3` is past three of the service's, `name@2` past that version of the tenant's."""
        name, _, number = text.rpartition("@")
        if not (number.isascii() and number.isdigit()) or len(number) > 9:
            raise ArrowQuantError("invalid_page_token", "the page token belongs to another list")
        return cls(len(BUILTIN), (name, int(number))) if name else cls(int(number))
