"""Connections over the API: who may make them, what they may be, and what is never told."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import logging
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import update

from service import logs
from service.adapters.objects.connections import ConfiguredStores
from service.adapters.objects.named import NamedStores
from service.adapters.sql.engine import make_engine
from service.adapters.sql.tables import jobs
from service.adapters.vault import AesGcmVault
from service.domain.access import Scope
from service.domain.errors import ArrowQuantError
from service.settings import Settings
from service.web.app import create_app
from service.wiring import Deps
from tests.security.exits import LOOPBACK, Listener, guard, reply
from tests.web.conftest import MiniWorker, job_body

pytestmark = pytest.mark.anyio

SECRET = "hunter2-wJalrXUtnFEMI-K7MDENG"
ACCESS = "AKIAPLANTED0SECRET"
TOKEN = "FwoGZXIvYXdzEPLANTED"
KEYS = {"access_key_id": ACCESS, "secret_access_key": SECRET, "session_token": TOKEN}


def body(**changes: Any) -> dict[str, Any]:
    return {
        "name": "mine",
        "endpoint_url": "https://127.0.0.1:9",
        "bucket": "bucket",
        "prefixes": ["models/", "out"],
        "credentials": KEYS,
    } | changes


async def make(client: httpx.AsyncClient, **changes: Any) -> httpx.Response:
    return await client.post("/v1/connections", json=body(**changes))


def check(answer: httpx.Response, status: int, code: str, pointer: str | None = None) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    if pointer is not None:
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]


async def test_a_connection_is_made_read_changed_and_deleted(client: httpx.AsyncClient) -> None:
    made = await make(client)
    assert made.status_code == 201, made.text
    assert made.headers["Location"] == "/v1/connections/mine"
    shown = made.json()
    assert shown["prefixes"] == ["models/", "out/"]
    assert shown["credentials"] | {"update_time": None} == {
        "kind": "stored", "env": None, "update_time": None,
    }  # fmt: skip
    assert (await client.get("/v1/connections/mine")).json() == shown
    listed = (await client.get("/v1/connections")).json()["connections"]
    assert {
        "name": "mine",
        "kind": "s3",
        "managed_by": "tenant",
        "prefixes": shown["prefixes"],
    } in listed
    assert "127.0.0.1" not in json.dumps(listed)

    rotated = await client.patch(
        "/v1/connections/mine",
        json={"credentials": {"access_key_id": "x", "secret_access_key": "y"}},
    )
    assert rotated.status_code == 200, rotated.text
    assert rotated.json()["credentials"]["update_time"] > shown["credentials"]["update_time"]
    narrowed = await client.patch("/v1/connections/mine", json={"prefixes": ["models/a/"]})
    assert narrowed.json()["prefixes"] == ["models/a/"]
    assert narrowed.json()["bucket"] == "bucket"
    assert (await client.delete("/v1/connections/mine")).status_code == 204
    check(await client.get("/v1/connections/mine"), 404, "not_found")
    check(await client.delete("/v1/connections/mine"), 404, "not_found")


@pytest.mark.parametrize(
    ("changes", "pointer"),
    [
        ({"endpoint_url": "ftp://x"}, "/endpoint_url"),
        ({"endpoint_url": "https://u:hunter2@x.de"}, "/endpoint_url"),
        ({"endpoint_url": "https://x.de/path"}, "/endpoint_url"),
        ({"endpoint_url": "https://x.de?x"}, "/endpoint_url"),
        ({"endpoint_url": "https://0x7f000001"}, "/endpoint_url"),
        ({"endpoint_url": None}, ""),
        ({"region": "us-east-1\n"}, "/region"),
        ({"region": "x.evil.de/"}, "/region"),
        ({"region": "x#"}, "/region"),
        ({"bucket": "a/b"}, "/bucket"),
        ({"bucket": "x@evil.de"}, "/bucket"),
        ({"bucket": "x\n"}, "/bucket"),
        ({"bucket": "arn:aws:s3:::x"}, "/bucket"),
        ({"bucket": "name--use1-az4--x-s3"}, "/bucket"),
        ({"prefixes": []}, "/prefixes"),
        ({"prefixes": ["../x"]}, "/prefixes"),
        ({"prefixes": ["/etc"]}, "/prefixes"),
        ({"prefixes": ["a//b"]}, "/prefixes"),
        ({"name": "../x"}, "/name"),
        ({"name": "X"}, "/name"),
        ({"kind": "folder"}, "/kind"),
        ({"path": "/etc"}, "/path"),
        ({"access_key_id_env": "PATH"}, "/access_key_id_env"),
        ({"credentials": {}}, "/credentials"),
        ({"credentials": KEYS | {"env": "x"}}, "/credentials"),
        ({"credentials": {"access_key_id": ACCESS}}, "/credentials"),
        ({"credentials": {"session_token": TOKEN, "ambient": True}}, "/credentials"),
        ({"credentials": {"ambient": False}}, "/credentials/ambient"),
        ({"credentials": KEYS | {"secret_access_key": SECRET + "\r\nX: y"}}, "/credentials/secret_access_key"),
        ({"credentials": KEYS | {"secret_access_key": [SECRET]}}, "/credentials/secret_access_key"),
    ],
)  # fmt: skip
async def test_what_is_refused(
    client: httpx.AsyncClient, changes: dict[str, Any], pointer: str
) -> None:
    answer = await make(client, **changes)
    check(answer, 422, "invalid_spec", pointer)
    assert SECRET not in answer.text
    assert TOKEN not in answer.text
    assert "hunter2" not in answer.text


@pytest.mark.parametrize(
    "url",
    [
        *(
            "https://10.0.0.1",
            "https://169.254.169.254",
            "https://[::1]",
            "https://localhost.invalid",
        ),
        *("https://192.168.1.1:9000", "https://[::ffff:127.0.0.1]", "http://93.184.216.34"),
    ],
)
async def test_endpoints_that_are_not_allowed(client: httpx.AsyncClient, url: str) -> None:
    check(await make(client, endpoint_url=url), 422, "endpoint_not_allowed", "/endpoint_url")
    assert (await make(client)).status_code == 201
    moved = {"endpoint_url": url, "credentials": KEYS}
    answer = await client.patch("/v1/connections/mine", json=moved)
    check(answer, 422, "endpoint_not_allowed", "/endpoint_url")


async def test_names_are_taken_once(client: httpx.AsyncClient) -> None:
    check(await make(client, name="models"), 409, "name_in_use")  # the operator's
    assert (await make(client)).status_code == 201
    check(await make(client), 409, "name_in_use")
    check(await client.get("/v1/connections/models"), 404, "not_found")
    check(await client.patch("/v1/connections/models", json={}), 404, "not_found")
    check(await client.delete("/v1/connections/models"), 404, "not_found")


async def test_another_endpoint_wants_the_credentials_again(client: httpx.AsyncClient) -> None:
    """Who may change an address cannot have what others have stored sent to his own."""
    assert (await make(client)).status_code == 201
    moved = {"endpoint_url": "https://127.0.0.1:10"}
    check(
        await client.patch("/v1/connections/mine", json=moved), 422, "invalid_spec", "/credentials"
    )
    both = moved | {"credentials": KEYS}
    assert (await client.patch("/v1/connections/mine", json=both)).status_code == 200


async def test_what_a_job_uses_stays(
    client: httpx.AsyncClient, deps: Deps, worker: MiniWorker
) -> None:
    assert (await make(client)).status_code == 201
    output = {"connection": "artifacts", "prefix": "used/"}
    made = await client.post("/v1/jobs", json=job_body(output=output))
    found = deps.ledger.get_job(made.json()["id"])
    request = found.request | {"source": {"connection": "mine", "prefix": "models/"}}
    engine = make_engine(deps.settings.resolved_database_url)
    with engine.begin() as connection:
        connection.execute(update(jobs).values(request=request))
    engine.dispose()
    check(await client.delete("/v1/connections/mine"), 409, "connection_in_use")
    narrower = {"prefixes": ["models/"]}
    check(await client.patch("/v1/connections/mine", json=narrower), 409, "connection_in_use")
    assert (await client.patch("/v1/connections/mine", json={"credentials": KEYS})).is_success
    deps.ledger.cancel_job(found.id)
    assert (await client.delete("/v1/connections/mine")).status_code == 204


async def test_a_failed_try_says_a_code_and_nothing_of_the_store(client: httpx.AsyncClient) -> None:
    told = "INTERNAL-SECRET-41"
    with Listener(reply("403 Forbidden", f"<Error><Code>{told}</Code></Error>".encode())) as server:
        await make(client, endpoint_url=f"http://{LOOPBACK}:{server.port}")
        answer = await client.post("/v1/connections/mine/test")
        assert answer.status_code == 200, answer.text
        assert answer.json() == {
            "ok": False,
            "prefix": "models/",
            "steps": [
                {"name": "list", "ok": False, "code": "source_access_denied"},
                {"name": "write", "ok": False, "code": "storage_access_denied"},
            ],
        }
        reading = await client.post("/v1/connections/mine/test", json={"write": False})
        assert [step["name"] for step in reading.json()["steps"]] == ["list"]
        outside = await client.post("/v1/connections/mine/test", json={"prefix": "other/"})
        assert {step["code"] for step in outside.json()["steps"]} == {"location_not_allowed"}
        climbing = await client.post("/v1/connections/mine/test", json={"prefix": "models/../x"})
        check(climbing, 422, "invalid_spec", "/prefix")


async def test_jobs_name_only_what_is_granted(client: httpx.AsyncClient) -> None:
    with Listener(reply("200 OK", b"<ListBucketResult></ListBucketResult>")) as server:
        await make(client, endpoint_url=f"http://{LOOPBACK}:{server.port}")
        for prefix in ("", "model", "other/", "models-too/"):
            source = {"connection": "mine", "prefix": prefix}
            answer = await client.post("/v1/plans", json={"source": source})
            check(answer, 403, "location_not_allowed", "/source/prefix")
        assert server.connections == 0


async def test_without_a_key_no_credentials_are_taken(settings: Settings, deps: Deps) -> None:
    changed = dataclasses.replace(deps, vault=AesGcmVault(()))
    app = create_app(settings, lambda _: changed)
    headers = {"Authorization": f"Bearer {deps.keys.create('acme', 'x')[1]}"}
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://test", headers=headers
        ) as client,
    ):
        answer = await make(client)
        check(answer, 409, "secrets_not_configured")
        assert SECRET not in answer.text


async def test_a_worker_without_the_key_leaves_the_job_to_others(
    client: httpx.AsyncClient, deps: Deps
) -> None:
    await make(client)
    stores = NamedStores(
        ConfiguredStores({}), deps.connections, AesGcmVault(()), guard(LOOPBACK), {}
    )
    with pytest.raises(ArrowQuantError) as caught:
        stores.open("acme", "mine").stat("models/x")
    assert (caught.value.code, caught.value.retryable) == ("secret_unreadable", True)


async def test_a_planted_secret_is_nowhere(
    client: httpx.AsyncClient, app: FastAPI, deps: Deps, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not in answers, logs of every level, the database's files, nor in what is kept of requests."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    logs.configure("debug", "json")
    said = ""
    try:
        weak = body(credentials=KEYS | {"secret_access_key": "minio-weak-123"})
        for sent, request_key in (
            (body(), "one"),
            (body(), "one"),
            (weak | {"name": "weak"}, "two"),
        ):
            headers = {"Idempotency-Key": request_key}
            answer = await client.post("/v1/connections", json=sent, headers=headers)
            assert answer.status_code == 201, answer.text
            said += answer.text
        said += (await client.post("/v1/connections", json=body())).text  # name_in_use
        bad = body(name="bad", endpoint_url="https://10.0.0.1")
        said += (await client.post("/v1/connections", json=bad)).text
        said += (await client.patch("/v1/connections/mine", json={"credentials": KEYS})).text
        said += (await client.post("/v1/connections", json=body(credentials=[KEYS]))).text
        said += (await client.post("/v1/connections/mine/test")).text
        said += (await client.get("/v1/connections/mine")).text
        said += (await client.get("/v1/connections")).text
        place = {"connection": "mine", "prefix": "models/"}
        said += (await client.post("/v1/plans", json={"source": place})).text
        said += (
            repr(deps.connections.find("acme", "mine"))
            + repr(deps.vault)
            + repr(deps.settings)
            + str(deps.stores)
        )
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    written = capsys.readouterr()
    said += written.err + written.out
    assert "request" in written.err
    files = [p for p in deps.settings.data_dir.rglob("*") if p.is_file()]
    assert any(p.name.startswith("arrowquant.db") for p in files)
    held = b"".join(p.read_bytes() for p in files) + said.encode()
    for secret in (SECRET, ACCESS, TOKEN, "minio-weak-123", deps.settings.secret_keys[0]):
        for form in (secret, base64.b64encode(secret.encode()).decode(), secret.encode().hex()):
            assert form.encode() not in held, secret
    # A digest of the request is kept; without the key nobody can search it for a weak secret.
    digested = hashlib.sha256(b"\0" + answer.request.content).hexdigest()
    assert digested.encode() not in held


async def test_only_admins_make_connections(
    app: FastAPI, client: httpx.AsyncClient, deps: Deps
) -> None:
    await make(client)
    text = deps.keys.create("acme", "x", frozenset(Scope) - {Scope.ADMIN, Scope.OPERATOR})[1]
    headers = {"Authorization": f"Bearer {text}"}
    assert (await client.get("/v1/connections", headers=headers)).status_code == 200
    for method, path in (
        ("POST", ""), ("GET", "/mine"), ("PATCH", "/mine"), ("DELETE", "/mine"), ("POST", "/mine/test")
    ):  # fmt: skip
        answer = await client.request(
            method, f"/v1/connections{path}", headers=headers, json=body(name="two")
        )
        check(answer, 403, "forbidden")
