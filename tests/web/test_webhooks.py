"""Webhooks over HTTP: endpoints, secrets, the log of deliveries, and a receiver that verifies."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError
from starlette.concurrency import run_in_threadpool

from service.settings import Settings
from service.wiring import Deps
from tests.processes import free_port
from tests.receiver import Receiver, plain
from tests.web.conftest import MiniWorker, Submit, job_body

pytestmark = pytest.mark.anyio

PATH = "/v1/webhook_endpoints"
KEY = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY="


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"secret_keys": (KEY,), "egress_allow": ("127.0.0.1/32",), "webhook_timeout_s": 5.0}
    )


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as started:
        yield started


async def made(client: httpx.AsyncClient, receiver: Receiver, **body: Any) -> dict[str, Any]:
    response = await client.post(PATH, json={"url": receiver.url} | body)
    assert response.status_code == 201, response.text
    found: dict[str, Any] = response.json()
    assert response.headers["location"] == f"{PATH}/{found['id']}"
    return found


async def settled(client: httpx.AsyncClient, delivery: str) -> dict[str, Any]:
    """A delivery once an attempt at it was noted."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        found: dict[str, Any] = (await client.get(f"{PATH}/deliveries/{delivery}")).json()
        if len(found["attempts"]) == found["attempt_count"] > 0:
            return found
        time.sleep(0.02)
    raise AssertionError("no attempt was noted")


async def problem(response: httpx.Response) -> tuple[int, str, list[str]]:
    body = response.json()
    return response.status_code, body["code"], [e.get("pointer", "") for e in body["errors"]]


async def test_the_life_of_an_endpoint(client: httpx.AsyncClient, receiver: Receiver) -> None:
    endpoint = await made(client, receiver, events=["job.failed", "job.succeeded"], description="x")
    secret = endpoint.pop("secret")
    assert secret.startswith("whsec_")
    assert endpoint["events"] == ["job.succeeded", "job.failed"]
    assert (endpoint["enabled"], endpoint["disabled_reason"]) == (True, None)
    where = f"{PATH}/{endpoint['id']}"
    for shown in (
        (await client.get(where)).json(),
        (await client.get(PATH)).json()["webhook_endpoints"][0],
    ):
        assert shown == endpoint
    off = (await client.patch(where, json={"enabled": False, "description": ""})).json()
    assert (off["enabled"], off["disabled_reason"], off["description"]) == (False, "owner", "")
    assert off["events"] == endpoint["events"]
    on = (await client.patch(where, json={"enabled": True, "events": []})).json()
    assert (on["enabled"], on["events"]) == (True, [])
    assert (await client.delete(where)).status_code == 204
    assert (await client.get(where)).status_code == 404
    assert (await client.delete(where)).status_code == 404


async def test_a_message_verifies_with_the_library(
    client: httpx.AsyncClient, receiver: Receiver, submit: Submit, worker: MiniWorker
) -> None:
    secret = (await made(client, receiver))["secret"]
    job = await submit(name="dream")
    worker.finish(job)
    got = receiver.wait(2)
    bodies = [Webhook(secret).verify(one.body, one.headers) for one in got]
    assert {body["type"] for body in bodies} == {"job.started", "job.succeeded"}
    assert {body["data"]["job"]["id"] for body in bodies} == {job}
    assert len({one.id for one in got}) == 2
    one = got[0]
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(one.body.replace(b"dream", b"drama"), one.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(one.body, one.headers | {"webhook-id": "msg_other"})
    late = str(int((datetime.now(UTC) - timedelta(minutes=6)).timestamp()))
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(one.body, one.headers | {"webhook-timestamp": late})
    text = one.body.decode()
    assert "127.0.0.1" not in text
    assert "secret" not in text


async def test_rotation_loses_no_message(client: httpx.AsyncClient, receiver: Receiver) -> None:
    endpoint = await made(client, receiver)
    where = f"{PATH}/{endpoint['id']}"
    rotated = (await client.post(f"{where}/rotate_secret", json={"overlap_s": 3600})).json()
    assert rotated["secret"] != endpoint["secret"]
    assert rotated["old_secret_until"] is not None
    await client.post(f"{where}/test")
    (got,) = receiver.wait(1)
    for secret in (endpoint["secret"], rotated["secret"]):
        assert Webhook(secret).verify(got.body, got.headers)["type"] == "ping"
    assert len(got.headers["webhook-signature"].split(" ")) == 2
    again = (await client.post(f"{where}/rotate_secret", json={"overlap_s": 0})).json()
    await client.post(f"{where}/test")
    last = receiver.wait(2)[-1]
    assert Webhook(again["secret"]).verify(last.body, last.headers)
    for old in (endpoint["secret"], rotated["secret"]):
        with pytest.raises(WebhookVerificationError):
            Webhook(old).verify(last.body, last.headers)


async def test_the_log_and_redelivery(client: httpx.AsyncClient, receiver: Receiver) -> None:
    endpoint = await made(client, receiver)
    where = f"{PATH}/{endpoint['id']}"
    response = await client.post(f"{where}/test")
    assert response.status_code == 202
    delivery = response.json()["id"]
    assert response.headers["location"] == f"{PATH}/deliveries/{delivery}"
    done = await settled(client, delivery)
    assert (done["state"], done["event"], done["attempt_count"]) == ("DELIVERED", "ping", 1)
    assert done["webhook_endpoint"] == done["subject"] == endpoint["id"]
    (attempt,) = done["attempts"]
    assert (attempt["number"], attempt["status"], attempt["error"]) == (1, 204, None)
    assert attempt["duration_ms"] >= 0
    again = await client.post(f"{PATH}/deliveries/{delivery}/redeliver")
    assert (again.status_code, again.json()["id"]) == (202, delivery)
    first, second = receiver.wait(2)
    assert (first.id, first.body) == (second.id, second.body) == (delivery, first.body)
    await settled(client, delivery)
    for _ in range(2):
        await client.post(f"{where}/test")
    receiver.wait(4)
    page = (await client.get(f"{where}/deliveries?page_size=2")).json()
    rest = await client.get(f"{where}/deliveries?page_token={page['next_page_token']}&page_size=2")
    assert [d["id"] for d in rest.json()["deliveries"]] == [delivery]
    assert rest.json()["next_page_token"] is None
    for query, number in (("state=FAILED", 0), ("event=ping", 3), ("event=job.failed", 0)):
        found = (await client.get(f"{where}/deliveries?{query}")).json()["deliveries"]
        assert len(found) == number, query


async def test_what_a_receiver_says_is_not_kept(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    receiver.answer = plain(500, X_Secret="of the inner network")
    endpoint = await made(client, receiver)
    delivery = (await client.post(f"{PATH}/{endpoint['id']}/test")).json()["id"]
    receiver.wait(1)
    found = await settled(client, delivery)
    assert (found["state"], found["attempts"][0]["status"]) == ("PENDING", 500)
    assert found["next_attempt_time"] is not None
    assert "inner network" not in str(found)
    shown = (await client.get(f"{PATH}/{endpoint['id']}")).json()
    assert shown["failing_since"] is not None


async def test_gone_is_the_end(client: httpx.AsyncClient, receiver: Receiver) -> None:
    receiver.answer = plain(410)
    endpoint = await made(client, receiver)
    where = f"{PATH}/{endpoint['id']}"
    delivery = (await client.post(f"{where}/test")).json()["id"]
    assert (await settled(client, delivery))["state"] == "FAILED"
    assert (await client.get(where)).json()["disabled_reason"] == "gone"
    for path in (f"{where}/test", f"{PATH}/deliveries/{delivery}/redeliver"):
        assert await problem(await client.post(path)) == (409, "webhook_disabled", [])


async def test_a_job_that_names_its_endpoint(
    client: httpx.AsyncClient, receiver: Receiver, worker: MiniWorker
) -> None:
    first, second = await made(client, receiver), await made(client, receiver)
    notify = {"webhook_endpoint": second["id"], "events": ["job.failed"]}
    for body in (job_body(notify=notify), job_body(notify=[notify])):
        response = await client.post("/v1/jobs", json=body)
        assert response.status_code == 202, response.text
        worker.fail(response.json()["id"])
    receiver.wait(2)
    logs = [
        (await client.get(f"{PATH}/{endpoint['id']}/deliveries")).json()["deliveries"]
        for endpoint in (first, second)
    ]
    assert [[d["event"] for d in log] for log in logs] == [[], ["job.failed"] * 2]
    assert (await client.post("/v1/plans", json=job_body(notify=notify))).status_code == 200


@pytest.mark.parametrize("query", ["", "?validate_only=true"])
async def test_an_unknown_endpoint_is_pointed_at(client: httpx.AsyncClient, query: str) -> None:
    body = job_body(notify=[{"webhook_endpoint": "wh_unknown"}])
    response = await client.post(f"/v1/jobs{query}", json=body)
    assert await problem(response) == (422, "invalid_spec", ["/notify/0/webhook_endpoint"])
    assert (await client.get("/v1/jobs")).json()["jobs"] == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/url"),
        ({"url": "https://user:pw@host.example/"}, "/url"),
        ({"url": "https://host.example/", "events": ["job.exploded"]}, "/events/0"),
        ({"url": "https://host.example/", "events": ["ping"]}, "/events/0"),
        ({"url": "https://host.example/", "secret": "whsec_mine"}, "/secret"),
        ({"url": "https://host.example/", "description": "a\0b"}, "/description"),
    ],
)
async def test_bad_endpoints_are_refused(
    client: httpx.AsyncClient, body: dict[str, Any], pointer: str
) -> None:
    response = await client.post(PATH, json=body)
    assert await problem(response) == (422, "invalid_spec", [pointer])
    assert "pw" not in response.text


async def test_an_address_that_may_not_be_called(
    client: httpx.AsyncClient, receiver: Receiver
) -> None:
    endpoint = await made(client, receiver)
    for response in (
        await client.post(PATH, json={"url": "http://169.254.169.254/latest"}),
        await client.patch(f"{PATH}/{endpoint['id']}", json={"url": "https://10.0.0.1/"}),
    ):
        status, code, pointers = await problem(response)
        assert (status, code, pointers) == (response.status_code, "endpoint_not_allowed", ["/url"])
    assert (await client.get(f"{PATH}/{endpoint['id']}")).json()["url"] == receiver.url


async def test_only_an_admin_and_only_its_own(
    client: httpx.AsyncClient, receiver: Receiver, deps: Deps
) -> None:
    endpoint = await made(client, receiver)
    where = f"{PATH}/{endpoint['id']}"
    delivery = (await client.post(f"{where}/test")).json()["id"]
    other = {"Authorization": f"Bearer {deps.keys.create('other', 'x')[1]}"}
    calls = (
        ("GET", where, None),
        ("PATCH", where, {"enabled": False}),
        ("DELETE", where, None),
        ("POST", f"{where}/rotate_secret", {}),
        ("POST", f"{where}/test", None),
        ("GET", f"{where}/deliveries", None),
        ("GET", f"{PATH}/deliveries/{delivery}", None),
        ("POST", f"{PATH}/deliveries/{delivery}/redeliver", None),
    )
    for method, path, body in calls:
        response = await client.request(method, path, json=body, headers=other)
        assert await problem(response) == (404, "not_found", []), path
    assert (await client.get(PATH, headers=other)).json() == {"webhook_endpoints": []}
    named = job_body(notify={"webhook_endpoint": endpoint["id"]})
    response = await client.post("/v1/jobs", json=named, headers=other)
    assert response.status_code == 422


async def test_a_replay_has_no_secret(client: httpx.AsyncClient, receiver: Receiver) -> None:
    headers = {"Idempotency-Key": "once"}
    body = {"url": receiver.url}
    first, second = [(await client.post(PATH, json=body, headers=headers)).json() for _ in range(2)]
    assert first["secret"].startswith("whsec_")
    assert second == first | {"secret": None}
    assert len((await client.get(PATH)).json()["webhook_endpoints"]) == 1


async def test_a_test_may_be_repeated(client: httpx.AsyncClient, receiver: Receiver) -> None:
    where = f"{PATH}/{(await made(client, receiver))['id']}"
    headers = {"Idempotency-Key": "once"}
    first, second = [await client.post(f"{where}/test", headers=headers) for _ in range(2)]
    assert first.json() == second.json()
    assert len((await client.get(f"{where}/deliveries")).json()["deliveries"]) == 1


async def test_the_receiver_of_the_documentation(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker, tmp_path: Path
) -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "Webhook(" in c]
    port = free_port()
    body = {"url": f"http://127.0.0.1:{port}/", "events": ["job.succeeded"]}
    secret = (await client.post(PATH, json=body)).json()["secret"]
    program = tmp_path / "receiver.py"
    program.write_text(code)
    variables = {**os.environ, "WEBHOOK_SECRET": secret, "PORT": str(port)}
    with subprocess.Popen(
        [sys.executable, str(program)], env=variables, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            await run_in_threadpool(_until_open, port)
            job = await submit()
            worker.finish(job)
            assert process.stdout is not None
            line = await run_in_threadpool(process.stdout.readline)
            assert line == f"job.succeeded /v1/jobs/{job}\n"
            unsigned = httpx.post(f"http://127.0.0.1:{port}/", content=b"{}")
            assert unsigned.status_code == 401
        finally:
            process.kill()


def _until_open(port: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the receiver did not start")


class TestWithoutASecretKey:
    """An operator who has set no key to seal secrets with."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"secret_keys": ()})

    async def test_it_is_said(self, client: httpx.AsyncClient, receiver: Receiver) -> None:
        response = await client.post(PATH, json={"url": receiver.url})
        assert response.json()["code"] == "secrets_not_configured"
        assert (await client.get(PATH)).json() == {"webhook_endpoints": []}
