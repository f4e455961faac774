"""Webhooks as deployed: an API process that is killed in the middle, receivers that come and go."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests import weights
from tests.e2e.deployment import Api, make_key
from tests.receiver import Receiver, in_turn, plain

PATH = "/v1/webhook_endpoints"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    data = weights.bfloat16(weights.gaussian((64, 64), 1))
    weights.write(folder / "model.safetensors", {"blocks.0.weight": data})
    place = {"kind": "folder", "path": str(tmp_path / "models")}
    return {
        "ARROWQUANT_DATA_DIR": str(tmp_path / "data"),
        "ARROWQUANT_CONNECTIONS": json.dumps({"models": place}),
        "ARROWQUANT_SECRET_KEYS": "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=",
        "ARROWQUANT_EGRESS_ALLOW": "127.0.0.1/32",
        "ARROWQUANT_WEBHOOK_TIMEOUT_S": "4",
        "ARROWQUANT_LOG_FORMAT": "json",
    }


@pytest.fixture
def hang() -> Iterator[threading.Event]:
    """Set at the end, so that a receiver that hangs lets go."""
    event = threading.Event()
    yield event
    event.set()


def client_of(api: Api, key: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=api.url, headers=headers, timeout=60)


def log(client: httpx.Client, endpoint: str) -> list[dict[str, Any]]:
    found = client.get(f"{PATH}/{endpoint}/deliveries").json()["deliveries"]
    return [client.get(f"{PATH}/deliveries/{one['id']}").json() for one in found]


def test_killed_in_the_middle_of_a_delivery(
    environment: dict[str, str], hang: threading.Event
) -> None:
    """The message comes again, with the same id and bytes; those of others are not delayed."""

    def silent(_: BaseHTTPRequestHandler, number: int) -> None:
        hang.wait(300)

    key = make_key(environment)
    with (
        Receiver() as well,
        Receiver(in_turn(plain(500), plain(204))) as flapping,
        Receiver(in_turn(silent, plain(204))) as interrupted,
        Api(environment) as api,
    ):
        receivers = [well, flapping, interrupted]
        with client_of(api, key) as client:
            made = [client.post(PATH, json={"url": one.url}).json() for one in receivers]
            body = {
                "source": {"connection": "models", "prefix": "m/"},
                "output": {"connection": "models", "prefix": "out/"},
            }
            job = client.post("/v1/jobs", json=body).json()["id"]
            assert client.post(f"/v1/jobs/{job}/cancel").status_code == 200
            for receiver in receivers:
                receiver.wait(1)
        api.kill()
        api.start()
        flapping.wait(2)
        interrupted.wait(2)
        for receiver, endpoint in zip(receivers, made, strict=True):
            assert len({got.id for got in receiver.got}) == 1
            assert len({got.body for got in receiver.got}) == 1
            for got in receiver.got:
                told = Webhook(endpoint["secret"]).verify(got.body, got.headers)
                assert (told["type"], told["data"]["job"]["id"]) == ("job.cancelled", job)
        with client_of(api, key) as client:
            (last,) = log(client, made[2]["id"])
            assert last["id"] == interrupted.got[0].id
            assert last["attempts"][0]["error"] == "interrupted"
