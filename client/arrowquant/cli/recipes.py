"""`arrowquant recipes`: recipes that a server keeps, by name and version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer

from arrowquant.cli import render, request, session
from arrowquant.cli.session import DEFAULT_URL, AsJson, Key, Url
from arrowquant.http.types import Recipe


def register(app: typer.Typer, panel: str) -> None:
    """Add the commands to the application."""
    recipes = session.group(app, "recipes", "Recipes that the server keeps, by name.", panel)
    for name, command in (("list", list_recipes), ("show", show), ("add", add)):
        recipes.command(name)(command)


def list_recipes(
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 200,
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """List every version, those of the service first."""
    with session.connect(url, key) as client:
        found = list(client.iter_recipes(limit=limit))
    rows = (
        (r["ref"], r["recipe"].get("profile", ""), render.when(r["create_time"])) for r in found
    )
    shown = session.table(rows, "recipe", "profile", "created", fold=["recipe"], none="no recipes")
    session.answer(found, as_json, shown)


def show(
    ref: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="The newest version if none is given.")],
    url: Url = DEFAULT_URL, key: Key = "",
    as_json: Annotated[bool, typer.Option("--json", help="Its digest and times too.")] = False,
) -> None:  # fmt: skip
    """Print a recipe as JSON, as `submit --recipe FILE` takes it."""
    name, _, version = ref.partition("@")
    with session.connect(url, key) as client:
        found = client.get_recipe_version(name, version) if version else client.get_recipe(name)
    render.as_json(found if as_json else found["recipe"])


def add(
    name: Annotated[str, typer.Argument(help="Its name; a name that is taken gets a new version.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The recipe, as JSON or TOML.")],
    url: Url = DEFAULT_URL, key: Key = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Keep a recipe."""
    fields = request.recipe(file, request.Options())
    with session.connect(url, key) as client:
        made = client.create_recipe({"name": name, "recipe": cast(Recipe, fields)})
    session.answer(made, as_json, f"{render.clean(made['ref'])} is kept")
