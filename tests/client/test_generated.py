"""The client's operations and types are those of openapi.yaml."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import pytest
import yaml

import arrowquant.http.types as client_types
from arrowquant import AsyncClient, Client
from scripts.client_code.modules import ROOT, from_openapi, generate, up_to_date

#: Operations that no typed method stands for, and what does.
BYTES = {"download_artifact": "download"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "openapi.yaml").read_text())
    return loaded


def test_the_generated_modules_are_those_of_openapi_yaml() -> None:
    assert up_to_date(from_openapi()), "run `make client`"


def test_a_changed_document_is_noticed(document: dict[str, Any]) -> None:
    changed = document | {"paths": {**document["paths"], "/v1/more": document["paths"]["/version"]}}
    assert generate(changed) != generate(document)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_both_clients_cover_every_operation(document: dict[str, Any], kind: type) -> None:
    for path, item in document["paths"].items():
        for operation in item.values():
            name = operation["operationId"]
            method = getattr(kind, BYTES.get(name, name), None)
            assert callable(method), f"{name} ({path})"


def test_both_clients_take_and_give_the_same() -> None:
    public = {name for name in dir(Client) if not name.startswith("_")} - {"close"}
    assert public == {name for name in dir(AsyncClient) if not name.startswith("_")} - {"aclose"}
    for name in public - {"url"}:
        ours, theirs = getattr(Client, name), getattr(AsyncClient, name)
        assert list(inspect.signature(ours).parameters) == list(
            inspect.signature(theirs).parameters
        ), name
        assert ours.__doc__ == theirs.__doc__, name


def test_every_type_can_be_looked_at() -> None:
    """What a type refers to is there: annotations are text until someone asks."""
    for name in client_types.__all__:
        kind = getattr(client_types, name)
        if isinstance(kind, type):
            assert get_type_hints(kind), name
