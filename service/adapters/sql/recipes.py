"""Named recipes in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    Engine,
    Integer,
    RowMapping,
    String,
    Table,
    and_,
    func,
    insert,
    or_,
    select,
)
from sqlalchemy.exc import IntegrityError

from service.adapters.sql.engine import Database
from service.adapters.sql.tables import UtcDateTime, metadata
from service.domain.ports import Clock
from service.domain.recipe_book import StoredRecipe, digest

_TRIES = 20

recipes = Table(
    "recipes",
    metadata,
    Column("tenant", String(128), primary_key=True),
    Column("name", String(64), primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("recipe", JSON(none_as_null=True), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("create_time", UtcDateTime, nullable=False),
)


class SqlRecipeBook:
    """`RecipeBook`."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._db, self._clock = Database(engine), clock

    def add(self, tenant: str, name: str, recipe: dict[str, Any]) -> StoredRecipe:
        for left in reversed(range(_TRIES)):
            try:
                return self._try_to_add(tenant, name, recipe)
            except IntegrityError:
                if not left:
                    raise
        raise AssertionError

    def _try_to_add(self, tenant: str, name: str, recipe: dict[str, Any]) -> StoredRecipe:
        newest = select(func.max(recipes.c.version)).where(*_named(tenant, name))
        with self._db.write() as connection:
            version = (connection.execute(newest).scalar() or 0) + 1
            made = StoredRecipe(name, version, recipe, digest(recipe), self._clock.now())
            connection.execute(
                insert(recipes).values(
                    tenant=tenant,
                    name=name,
                    version=version,
                    recipe=recipe,
                    sha256=made.sha256,
                    create_time=made.create_time,
                )
            )
        return made

    def find(self, tenant: str, name: str, version: int | None = None) -> StoredRecipe | None:
        query = select(recipes).where(*_named(tenant, name))
        if version is not None:
            query = query.where(recipes.c.version == version)
        query = query.order_by(recipes.c.version.desc()).limit(1)
        with self._db.read() as connection:
            row = connection.execute(query).mappings().first()
        return _stored(row) if row is not None else None

    def versions(
        self, tenant: str, after: tuple[str, int] | None, limit: int
    ) -> Sequence[StoredRecipe]:
        query = select(recipes).where(recipes.c.tenant == tenant)
        if after is not None:
            name, version = after
            same = and_(recipes.c.name == name, recipes.c.version > version)
            query = query.where(or_(recipes.c.name > name, same))
        query = query.order_by(recipes.c.name, recipes.c.version).limit(limit)
        with self._db.read() as connection:
            return [_stored(row) for row in connection.execute(query).mappings()]


def _named(tenant: str, name: str) -> tuple[Any, Any]:
    return recipes.c.tenant == tenant, recipes.c.name == name


def _stored(row: RowMapping) -> StoredRecipe:
    return StoredRecipe(
        row["name"], row["version"], row["recipe"], row["sha256"], row["create_time"]
    )
