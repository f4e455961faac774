"""Recipes: named, versioned, never changed."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Path
from starlette.responses import Response

from service.usecases import recipes
from service.web.answers import failures, json_answer
from service.web.auth import JobsRead, JobsWrite
from service.web.context import Shared
from service.web.idempotency import Documented, IdempotentRoute
from service.web.recipe_schemas import RecipeOut, RecipePage, RecipeRequest
from service.web.routes.parameters import PageSize, PageToken

router = APIRouter(prefix="/v1/recipes", tags=["recipes"], route_class=IdempotentRoute)

_EXAMPLE: Final[dict[str, Any]] = {
    "name": "our-diffusion",
    "recipe": {"ref": "diffusion-default@1", "rules": [{"match": "*.proj_out.*", "bits": 8}]},
}
_REPEATABLE: Final = ("idempotency_key_reused", "idempotency_in_flight")
_BODY: Final = ("invalid_spec", "payload_too_large", "unsupported_media_type")
RecipeName = Annotated[
    str,
    Path(
        description="The recipe's name.",
        max_length=64,
        pattern=r"^[a-z0-9_-]+$",
        examples=["diffusion-default"],
    ),
]


@router.post(
    "",
    operation_id="create_recipe",
    summary="Keep a recipe",
    status_code=201,
    response_model=RecipeOut,
    responses=failures(*_BODY, "name_in_use", *_REPEATABLE),
    dependencies=[Documented],
)
def create_recipe(
    body: Annotated[RecipeRequest, Body(openapi_examples={"diffusion": {"value": _EXAMPLE}})],
    tenant: JobsWrite,
    shared: Shared,
) -> Response:
    """Keep a recipe as the next version of its name, from 1. Versions are never changed and never
    removed, so that what a job was made with can always be looked up."""
    made = recipes.create(shared.deps.recipes, tenant, body.name, body.recipe)
    out = RecipeOut.of(made)
    location = f"/v1/recipes/{made.name}/versions/{made.version}"
    return json_answer(out, 201, {"Location": location})


@router.get(
    "",
    operation_id="list_recipes",
    summary="List the recipes",
    response_model=RecipePage,
    responses=failures("invalid_page_token", "invalid_spec"),
)
def list_recipes(
    tenant: JobsRead, shared: Shared, page_size: PageSize = None, page_token: PageToken = None
) -> Response:
    """All versions: those that come with the service, then yours."""
    found, token = recipes.list_page(shared.deps.recipes, tenant, page_size, page_token)
    return json_answer(
        RecipePage(recipes=[RecipeOut.of(recipe) for recipe in found], next_page_token=token)
    )


@router.get(
    "/{recipe_name}",
    operation_id="get_recipe",
    summary="Get the newest version of a recipe",
    response_model=RecipeOut,
    responses=failures("not_found", "invalid_spec"),
)
def get_recipe(recipe_name: RecipeName, tenant: JobsRead, shared: Shared) -> Response:
    """What a request that names it without a version gets at this moment."""
    return json_answer(RecipeOut.of(recipes.get(shared.deps.recipes, tenant, recipe_name)))


@router.get(
    "/{recipe_name}/versions/{version}",
    operation_id="get_recipe_version",
    summary="Get a version of a recipe",
    response_model=RecipeOut,
    responses=failures("not_found", "invalid_spec"),
)
def get_recipe_version(
    recipe_name: RecipeName,
    version: Annotated[
        int, Path(description="The number after `@`.", ge=1, le=999_999_999, examples=[1])
    ],
    tenant: JobsRead,
    shared: Shared,
) -> Response:
    """A version, which is the same for ever."""
    return json_answer(RecipeOut.of(recipes.get(shared.deps.recipes, tenant, recipe_name, version)))
