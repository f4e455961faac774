"""What an operator grants to tenants: credentials of the service, and connections of his own."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from service.adapters.objects.connections import ConfiguredStores
from service.adapters.objects.named import NamedStores
from service.adapters.vault import AesGcmVault
from service.settings import Settings
from service.web.app import create_app
from service.wiring import Deps
from tests.security.exits import LOOPBACK, guard
from tests.web.test_connections import ACCESS, SECRET, check, make

pytestmark = pytest.mark.anyio


@pytest.fixture
async def granted(settings: Settings, deps: Deps, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client where the operator has granted credentials, and a connection to some tenants only."""
    more: dict[str, Any] = settings.model_dump()
    more["credentials"] = {
        "acme-s3": {
            "tenants": ["acme"], "buckets": ["bucket"], "prefix": "{tenant}/",
            "endpoint_url": "https://127.0.0.1:9",
            "access_key_id_env": "ACME_ID", "secret_access_key_env": "ACME_SECRET",
        },
        "role": {"tenants": ["acme"], "buckets": ["shared"], "ambient": True},
        "theirs": {
            "tenants": ["rival"], "buckets": ["bucket"], "endpoint_url": "https://127.0.0.1:9",
            "access_key_id_env": "RIVAL_ID", "secret_access_key_env": "RIVAL_SECRET",
        },
    }  # fmt: skip
    more["connections"]["theirs"] = {"kind": "folder", "path": "/tmp", "tenants": ["rival"]}
    changed = Settings.load(**more)
    stores = NamedStores(
        ConfiguredStores(changed.connections),
        deps.connections,
        AesGcmVault(changed.secret_keys),
        guard(LOOPBACK),
        changed.credentials,
    )
    app = create_app(changed, lambda _: dataclasses.replace(deps, settings=changed, stores=stores))
    headers = {"Authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as made,
    ):
        yield made


async def test_credentials_of_the_service_go_where_they_are_granted(
    granted: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A confused deputy: an admin who names what is not his, or takes what is his elsewhere."""
    here = {"prefixes": ["acme/models/"], "credentials": {"env": "acme-s3"}}
    assert (await make(granted, **here)).status_code == 201
    for changes in (
        here | {"prefixes": ["other/"]},
        here | {"prefixes": ["acme/", ""]},
        here | {"bucket": "another"},
        here | {"endpoint_url": "https://127.0.0.1:10"},
        here | {"endpoint_url": None, "region": "us-east-1"},
        here | {"credentials": {"env": "theirs"}},
        here | {"credentials": {"env": "role"}},
        here | {"credentials": {"env": "nothing"}},
        here | {"credentials": {"ambient": True}},
    ):
        check(await make(granted, name="other", **changes), 403, "forbidden", "/credentials")
    aws = {"endpoint_url": None, "region": "us-east-1", "bucket": "shared"}
    ambient = await make(granted, name="role", credentials={"ambient": True}, **aws)
    assert ambient.status_code == 201, ambient.text
    # Variables are read where a client is made, and their values are never shown.
    monkeypatch.setenv("ACME_ID", ACCESS)
    monkeypatch.setenv("ACME_SECRET", SECRET)
    shown = await granted.get("/v1/connections/mine")
    assert shown.json()["credentials"]["env"] == "acme-s3"
    tried = await granted.post("/v1/connections/mine/test", json={"write": False})
    assert tried.json()["steps"] == [{"name": "list", "ok": False, "code": "storage_unavailable"}]
    assert ACCESS not in shown.text + tried.text


async def test_connections_of_the_operator_for_some_tenants(
    granted: httpx.AsyncClient, deps: Deps
) -> None:
    names = [c["name"] for c in (await granted.get("/v1/connections")).json()["connections"]]
    assert names == ["artifacts", "models"]
    source = {"source": {"connection": "theirs", "prefix": ""}}
    answer = await granted.post("/v1/plans", json=source)
    check(answer, 404, "connection_not_found", "/source/connection")
    rival = {"Authorization": f"Bearer {deps.keys.create('rival', 'x')[1]}"}
    seen = (await granted.get("/v1/connections", headers=rival)).json()["connections"]
    assert "theirs" in [connection["name"] for connection in seen]
