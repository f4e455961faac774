"""The report and the files of a job that succeeded."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.settings import Settings
from service.web.app import create_app
from service.wiring import Deps
from tests.servers import S3Server
from tests.web.conftest import MiniWorker, Submit, job_body, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
async def job(submit: Submit, worker: MiniWorker) -> str:
    job: str = await submit()
    worker.finish(job)
    return job


@pytest.mark.parametrize("path", ["report", "artifacts", "artifacts/manifest.json/download"])
async def test_there_is_nothing_before_success(
    client: httpx.AsyncClient, submit: Submit, path: str
) -> None:
    response = await client.get(f"/v1/jobs/{await submit()}/{path}")
    assert (response.status_code, response.json()["code"]) == (409, "not_ready")


async def test_the_files_are_listed_and_downloaded(client: httpx.AsyncClient, job: str) -> None:
    files = (await client.get(f"/v1/jobs/{job}/artifacts")).json()["artifacts"]
    assert [file["name"] for file in files] == ["manifest.json", "report.json", "part-00000.arrow"]
    for file in files:
        response = await client.get(file["download_url"])
        assert response.status_code == 200
        assert len(response.content) == file["bytes"] == int(response.headers["content-length"])
        digest = hashlib.sha256(response.content)
        assert digest.hexdigest() == file["sha256"] == response.headers["x-content-sha256"]
        assert response.headers["etag"] == f'"{file["sha256"]}"'
        encoded = base64.b64encode(digest.digest()).decode()
        assert response.headers["repr-digest"] == f"sha-256=:{encoded}:"
        assert file["name"] in response.headers["content-disposition"]


async def test_the_report_is_the_artifacts_own(
    client: httpx.AsyncClient, job: str, tmp_path: Path
) -> None:
    response = await client.get(f"/v1/jobs/{job}/report")
    assert response.headers["content-type"] == "application/json"
    assert response.content == (tmp_path / "artifacts" / "out-1" / "report.json").read_bytes()
    assert response.json()["summary"]["counts"]["tensors"] == 3


@pytest.mark.parametrize(
    "name", ["secret.txt", "..%2Fsecret.txt", "%2e%2e%2fsecret.txt", "%00", "part-00001.arrow"]
)
async def test_only_what_the_manifest_names_is_served(
    client: httpx.AsyncClient, job: str, tmp_path: Path, name: str
) -> None:
    (tmp_path / "artifacts" / "secret.txt").write_text("secret")
    (tmp_path / "artifacts" / "out-1" / "secret.txt").write_text("secret")
    response = await client.get(f"/v1/jobs/{job}/artifacts/{name}/download")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_an_artifact_that_was_removed_or_replaced_is_gone(
    client: httpx.AsyncClient, job: str, tmp_path: Path
) -> None:
    manifest = tmp_path / "artifacts" / "out-1" / "manifest.json"
    text = manifest.read_text()
    for change in (lambda: manifest.write_text(text + " "), manifest.unlink):
        change()
        for path in ("artifacts", "report", "artifacts/report.json/download"):
            response = await client.get(f"/v1/jobs/{job}/{path}")
            assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_a_part_that_was_tampered_with_is_not_served(
    client: httpx.AsyncClient, job: str, tmp_path: Path
) -> None:
    folder = tmp_path / "artifacts" / "out-1"
    (folder / "part-00000.arrow").write_bytes(b"short")
    response = await client.get(f"/v1/jobs/{job}/artifacts/part-00000.arrow/download")
    assert (response.status_code, response.json()["code"]) == (502, "digest_mismatch")
    (folder / "part-00000.arrow").unlink()
    response = await client.get(f"/v1/jobs/{job}/artifacts/part-00000.arrow/download")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


@pytest.fixture
def s3_app(
    settings: Settings,
    deps: Deps,
    s3_server: S3Server,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[FastAPI, Deps]:
    """The application with its artifacts in a real S3 server."""
    from service.adapters.objects.connections import ConfiguredStores

    monkeypatch.setenv("S3_KEY", s3_server.access_key)
    monkeypatch.setenv("S3_SECRET", s3_server.secret_key)
    connections: Any = settings.model_dump()["connections"] | {
        "artifacts": {
            "kind": "s3",
            "bucket": s3_bucket,
            "endpoint_url": s3_server.endpoint_url,
            "region": s3_server.region,
            "access_key_id_env": "S3_KEY",
            "secret_access_key_env": "S3_SECRET",
        }
    }
    changed = Settings.load(data_dir=settings.data_dir, connections=connections)
    there = dataclasses.replace(
        deps, settings=changed, stores=ConfiguredStores(changed.connections)
    )
    return create_app(changed, lambda _: there), there


def test_a_bucket_is_read_by_a_short_lived_address(s3_app: tuple[FastAPI, Deps], key: str) -> None:
    app, deps = s3_app
    headers = {"Authorization": f"Bearer {key}"}
    with serving(app) as url, httpx.Client(base_url=url, headers=headers) as http:
        body = job_body()
        job = http.post("/v1/jobs", json=body).json()["id"]
        MiniWorker(deps).finish(job)
        for file in http.get(f"/v1/jobs/{job}/artifacts").json()["artifacts"]:
            response = http.get(file["download_url"])
            assert response.status_code == 307
            assert response.headers["cache-control"] == "no-store"
            address = httpx.URL(response.headers["location"])
            assert 1 <= int(address.params["X-Amz-Expires"]) <= 300
            direct = httpx.get(address)
            assert direct.status_code == 200
            assert hashlib.sha256(direct.content).hexdigest() == file["sha256"]
        assert http.get(f"/v1/jobs/{job}/report").json()["summary"]["counts"]["tensors"] == 3
        taken = http.post("/v1/jobs", json=body)
        assert (taken.status_code, taken.json()["code"]) == (409, "output_exists")
