"""Named recipes on both databases: versions count up, nothing changes, tenants do not mix."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine

from service.adapters.sql.recipes import SqlRecipeBook
from service.domain.recipe_book import BUILTIN, digest, parse_ref
from service.domain.spec import Recipe
from service.usecases.recipes import list_page
from tests.contracts.ledgers import HandClock


@pytest.fixture
def book(engine: Engine, clock: HandClock) -> SqlRecipeBook:
    return SqlRecipeBook(engine, clock)


def test_versions_count_up_and_stay(book: SqlRecipeBook) -> None:
    first = book.add("acme", "ours", {"bits": 4})
    second = book.add("acme", "ours", {"bits": 8})
    other = book.add("beta", "ours", {"bits": 2})
    assert [r.ref for r in (first, second, other)] == ["ours@1", "ours@2", "ours@1"]
    assert book.find("acme", "ours") == second
    assert book.find("acme", "ours", 1) == first
    assert first.sha256 == digest({"bits": 4})
    assert book.find("acme", "ours", 3) is None
    assert book.find("gamma", "ours") is None


def test_many_at_once_get_a_version_each(book: SqlRecipeBook) -> None:
    with ThreadPoolExecutor(6) as pool:
        made = list(pool.map(lambda n: book.add("acme", "ours", {"bits": 4, "n": n}), range(12)))
    assert sorted(recipe.version for recipe in made) == list(range(1, 13))


@pytest.mark.parametrize("size", [1, 2, 3, len(BUILTIN), len(BUILTIN) + 1, 50])
def test_pages_show_each_version_once(book: SqlRecipeBook, size: int) -> None:
    for name in ("b", "a", "a", "c"):
        book.add("acme", name, {"bits": 4})
    pages, token = [], None
    while not pages or token is not None:
        page, token = list_page(book, "acme", size, token)
        pages.append([recipe.ref for recipe in page])
    own = ["a@1", "a@2", "b@1", "c@1"]
    whole = [*(r.ref for r in BUILTIN), *own]
    assert pages == [whole[n : n + size] for n in range(0, len(whole), size)]


def test_what_comes_with_the_service_is_valid() -> None:
    for recipe in BUILTIN:
        assert Recipe.model_validate(recipe.recipe).each()
        assert parse_ref(recipe.ref) == (recipe.name, recipe.version)
        assert recipe.sha256 == digest(recipe.recipe)
