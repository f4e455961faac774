"""Replays over HTTP: queued for the workers, refused where there is nothing to make again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.web.conftest import MiniWorker, Submit

pytestmark = pytest.mark.anyio


@pytest.fixture
async def job(submit: Submit, worker: MiniWorker) -> str:
    job_id = await submit()
    worker.finish(job_id)
    return job_id


async def test_a_replay_is_queued_and_seen(client: httpx.AsyncClient, job: str) -> None:
    response = await client.post("/v1/replays", json={"job_id": job})
    assert response.status_code == 202, response.text
    made = response.json()
    assert (made["state"], made["result"]) == ("QUEUED", None)
    assert (await client.get(response.headers["Location"])).json() == made
    assert [r["id"] for r in (await client.get("/v1/replays")).json()["replays"]] == [made["id"]]
    assert (await client.get(f"/v1/replays/{job}")).status_code == 404
    # It writes nothing, so that nobody has to wait for it.
    again = await client.post("/v1/replays", json={"job_id": job})
    assert again.status_code == 202
    cancelled = await client.post(f"/v1/jobs/{made['id']}/cancel")
    assert cancelled.json()["state"] == "CANCELLED"


async def test_a_changed_source_is_a_conflict(
    client: httpx.AsyncClient, job: str, tmp_path: Path
) -> None:
    shown = (await client.get(f"/v1/jobs/{job}")).json()["request"]
    manifest = tmp_path / "artifacts" / shown["output"]["prefix"] / "manifest.json"
    told = json.loads(manifest.read_text())
    told["source"]["objects"][0]["etag"] = "another"
    manifest.write_text(json.dumps(told))
    response = await client.post("/v1/replays", json={"job_id": job})
    assert (response.status_code, response.json()["code"]) == (409, "source_changed")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 422),
        ({"job_id": "job_x", "source": {"connection": "models"}}, 422),
        ({"artifact": {"connection": "artifacts", "prefix": "x/"}}, 422),
        ({"job_id": "job_0000"}, 404),
        (
            {
                "artifact": {"connection": "artifacts", "prefix": "none/"},
                "source": {"connection": "models", "prefix": "tiny/"},
            },
            404,
        ),
        (
            {
                "artifact": {"connection": "somebodys", "prefix": "none/"},
                "source": {"connection": "models", "prefix": "tiny/"},
            },
            404,
        ),
    ],
)
async def test_what_is_not_there_is_refused(
    client: httpx.AsyncClient, body: dict[str, Any], status: int
) -> None:
    assert (await client.post("/v1/replays", json=body)).status_code == status
