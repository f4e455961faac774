"""The main job in both forms, with API and worker as separate processes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrowquant
from tests import weights
from tests.e2e.conftest import Standalone, run_cli
from tests.e2e.deployment import Deployment
from tests.servers import S3Server

RECIPE = {"bits": 4, "group_size": 64}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights.write(
        tmp_path_factory.mktemp("model") / "model.safetensors",
        weights.mixed()
        | {
            f"blocks.{i}.mlp.fc1.weight": weights.bfloat16(weights.gaussian((2048, 2048), i))
            for i in range(1, 4)
        },
    )


def _body(source: str, output: str, **fields: Any) -> dict[str, Any]:
    return {
        "name": "main",
        "source": {"connection": source, "prefix": "in/"},
        "output": {"connection": output, "prefix": "out/"},
        "recipe": RECIPE,
    } | fields


def _run(client: arrowquant.Client, body: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Plan, submit, follow the stream, download; check what every form must hold."""
    planned = client.plan({key: body[key] for key in ("source", "recipe")})
    job = client.submit(body)
    events = list(client.watch(job["id"]))
    last = client.get(job["id"])
    assert last["state"] == "SUCCEEDED", last["error"]
    assert last["progress"]["percent"] == 100
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    percents = [e["data"]["percent"] for e in events if e["type"] == "progress"]
    assert percents == sorted(percents)
    assert all(p < 100 for p in percents)
    assert last["summary"]["totals"]["payload_bytes"] == planned["totals"]["payload_bytes"]
    report = client.report(job["id"])
    rows = {row["name"]: row for row in client.tensors(job["id"])}
    assert (
        set(rows)
        == {entry["name"] for entry in report["tensors"]}
        == set(weights.mixed()) | {f"blocks.{i}.mlp.fc1.weight" for i in range(1, 4)}
    )
    client.download(job["id"], folder)
    with arrowquant.open(folder) as artifact:
        assert artifact.verify().ok
        original = weights.gaussian((2048, 2048), 2)
        read = artifact["blocks.2.mlp.fc1.weight"].dequantize()
        assert np.mean((read - original) ** 2) / np.mean(original**2) < 0.011
    return json.loads((folder / "manifest.json").read_text())


def _parts(manifest: dict[str, Any]) -> dict[str, str]:
    return {part["name"]: part["sha256"] for part in manifest["parts"]}


def test_production_form(
    deploy: Callable[..., Deployment],
    s3_server: S3Server,
    s3_bucket: str,
    model: Path,
    tmp_path: Path,
) -> None:
    s3 = s3_server.client()
    s3.upload_file(str(model), s3_bucket, "in/model.safetensors")
    deployment = deploy()
    with deployment.client() as client:
        manifest = _run(client, _body("models", "artifacts"), tmp_path / "artifact")
    # The command line in this process makes the same bytes from the same weights in a folder.
    local = tmp_path / "local"
    done = run_cli(
        *(
            "quantize",
            str(model),
            str(local),
            "--bits",
            "4",
            "--group-size",
            "64",
            "--threads",
            "1",
        ),
        env={"ARROWQUANT_DATA_DIR": str(tmp_path / "cli")},
    )
    assert done.returncode == 0, done.stderr
    assert _parts(json.loads((local / "manifest.json").read_text())) == _parts(manifest)
    for name, digest in _parts(manifest).items():
        assert hashlib.sha256((local / name).read_bytes()).hexdigest() == digest
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=s3_bucket)


def test_embedded_form_without_any_redis(tmp_path: Path) -> None:
    """The last resort, a bell made of files: slower to answer, and cancelling works all the same."""
    model = {"a.weight": weights.bfloat16(weights.gaussian((8192, 4096), 1))}
    weights.write(tmp_path / "data" / "objects" / "in" / "model.safetensors", model)
    environment = {"ARROWQUANT_BROKER_URL": "filesystem://", "ARROWQUANT_LOG_FORMAT": "json"}
    with Standalone(tmp_path / "data", environment) as server:
        url = f"http://127.0.0.1:{server.port}"
        with arrowquant.Client(url, server.key) as client:
            job = client.submit(_body("local", "local"))
            assert client.wait(job["id"], timeout=60)["state"] == "SUCCEEDED"
            again = {"output": {"connection": "local", "prefix": "two/"}}
            job = client.submit(_body("local", "local") | again)
            client.cancel(job["id"])
            with pytest.raises(arrowquant.JobFailed, match="CANCELLED"):
                client.wait(job["id"], timeout=10)
    assert list((tmp_path / "data" / "objects").rglob("two/*")) == []


def test_embedded_form(standalone: Standalone, model: Path, tmp_path: Path) -> None:
    objects = tmp_path / "data" / "objects" / "in"
    objects.mkdir(parents=True)
    (objects / "model.safetensors").write_bytes(model.read_bytes())
    url = f"http://127.0.0.1:{standalone.port}"
    with arrowquant.Client(url, standalone.key) as client:
        _run(client, _body("local", "local"), tmp_path / "artifact")
    environment = {"ARROWQUANT_URL": url, "ARROWQUANT_API_KEY": standalone.key}
    done = run_cli(
        *("submit", "local:in/", "local:again/", "--bits", "2", "--watch"), env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    listed = json.loads(run_cli("list", "--json", env=environment).stdout)
    assert [job["state"] for job in listed] == ["SUCCEEDED", "SUCCEEDED"]
