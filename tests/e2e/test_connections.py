"""Connections made over the API, on a real store, from the admin's request to the artifact."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import redis

import arrowquant
from tests import weights
from tests.e2e.deployment import Api, Worker, make_key
from tests.servers import S3Server


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def _connection(server: S3Server, bucket: str, name: str, *prefixes: str) -> dict[str, Any]:
    return {
        "name": name,
        "endpoint_url": server.endpoint_url,
        "bucket": bucket,
        "prefixes": list(prefixes),
        "credentials": {
            "access_key_id": server.access_key,
            "secret_access_key": server.secret_key,
        },
    }


@pytest.mark.slow
def test_a_job_between_connections_of_a_tenant(
    production_environment: dict[str, str],
    stack: ExitStack,
    s3_server: S3Server,
    s3_bucket: str,
    tmp_path: Path,
) -> None:
    model = {"a.weight": weights.bfloat16(weights.gaussian((512, 512), 1))}
    path = weights.write(tmp_path / "model.safetensors", model)
    s3_server.client().upload_file(str(path), s3_bucket, "models/in/model.safetensors")
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    # The operator's own connections and their keys are not there at all.
    names = ("ARROWQUANT_CONNECTIONS", "TEST_S3_KEY", "TEST_S3_SECRET")
    plain = {k: v for k, v in production_environment.items() if k not in names}
    plain["ARROWQUANT_SECRET_KEYS"] = key
    listed = plain | {"ARROWQUANT_EGRESS_ALLOW": "127.0.0.1"}
    bearer = {"Authorization": f"Bearer {make_key(plain)}"}
    source = _connection(s3_server, s3_bucket, "models", "models/")
    output = _connection(s3_server, s3_bucket, "artifacts", "out/")

    # Where nothing is listed, this machine is out of reach.
    closed = stack.enter_context(Api(plain))
    with httpx.Client(base_url=closed.url, headers=bearer, timeout=30) as http:
        answer = http.post("/v1/connections", json=source)
        assert (answer.status_code, answer.json()["code"]) == (422, "endpoint_not_allowed")
        assert answer.json()["errors"][0]["pointer"] == "/endpoint_url"

    api = stack.enter_context(Api(listed))
    deaf = stack.enter_context(Worker(plain))
    with httpx.Client(base_url=api.url, headers=bearer, timeout=60) as http:
        for body in (source, output):
            made = http.post(
                "/v1/connections", json=body, headers={"Idempotency-Key": body["name"]}
            )
            assert made.status_code == 201, made.text
            tried = http.post(f"/v1/connections/{body['name']}/test").json()
            assert tried["ok"], tried
            assert [step["name"] for step in tried["steps"]] == ["list", "write", "read", "delete"]
    with arrowquant.Client(api.url, bearer["Authorization"].split()[1]) as client:
        job = client.submit(
            {
                "source": {"connection": "models", "prefix": "models/in/"},
                "output": {"connection": "artifacts", "prefix": "out/a/"},
                "recipe": {"bits": 4, "group_size": 64},
            }
        )
        # The worker judges by itself, whatever the API has let through.
        with pytest.raises(arrowquant.JobFailed, match="endpoint_not_allowed"):
            client.wait(job["id"], timeout=60)
        deaf.stop()
        worker = stack.enter_context(Worker(listed))
        client.retry(job["id"])
        assert client.wait(job["id"], timeout=120)["state"] == "SUCCEEDED"
        client.download(job["id"], tmp_path / "artifact")
    with arrowquant.open(tmp_path / "artifact") as artifact:
        assert artifact.verify().ok
    keys = [o["Key"] for o in s3_server.client().list_objects_v2(Bucket=s3_bucket)["Contents"]]
    assert [k for k in keys if "arrowquant-" in k] == []  # no probe is left
    logs = "".join(p.output.read_text(errors="replace") for p in (closed, api, deaf, worker))
    held = logs + _database(plain["ARROWQUANT_DATABASE_URL"]) + _broker(plain)
    assert job["id"] in held
    for secret in (s3_server.secret_key, s3_server.access_key, key):
        for form in (secret, base64.b64encode(secret.encode()).decode(), secret.encode().hex()):
            assert form not in held


def _database(url: str) -> str:
    """Everything in it."""
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
    with psycopg.connect(url.replace("+psycopg", "")) as connection:
        names = [row[0] for row in connection.execute(tables)]
        found = {n: connection.execute(f'SELECT * FROM "{n}"').fetchall() for n in names}  # type: ignore[arg-type]
    return json.dumps(
        found, default=lambda v: bytes(v).decode("latin-1") if isinstance(v, bytes) else str(v)
    )


def _broker(environment: dict[str, str]) -> str:
    with redis.Redis.from_url(environment["ARROWQUANT_BROKER_URL"]) as client:
        return repr([(key, client.dump(key)) for key in client.scan_iter()])
