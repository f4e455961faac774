"""Asking for calibration: what cannot work is refused when it is asked for, and a plan says what will."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.settings import Settings
from service.wiring import Deps
from tests.client import calibrations
from tests.web.conftest import job_body, write_safetensors
from tests.web.test_requests import check_problem

pytestmark = pytest.mark.anyio

NAME = "blocks.0.attn.weight"
BYTES = bytes(4 * 64 * 64)


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """With a connection of another tenant."""
    (tmp_path / "rival").mkdir()
    more: dict[str, Any] = settings.model_dump()
    theirs = {"kind": "folder", "path": tmp_path / "rival", "tenants": ["rival"]}
    more["connections"]["theirs"] = theirs
    return Settings.load(**more)


@pytest.fixture
def measured(models: Path, tmp_path: Path) -> Path:
    """Beside the model, and a copy where only the rival reads."""
    x = calibrations.activations(np.random.default_rng(1), 50, 64)
    calibrations.write(models / "tiny.calib.arrow", {NAME: x}, weights={NAME: BYTES})
    calibrations.write(tmp_path / "rival" / "c.arrow", {NAME: x}, weights={NAME: BYTES})
    return models / "tiny.calib.arrow"


def asked(**fields: Any) -> dict[str, Any]:
    named = {"connection": "models", "key": "tiny.calib.arrow"} | fields
    return job_body(recipe={"bits": 4, "calibration": named})


async def test_a_plan_says_what_is_calibrated(client: httpx.AsyncClient, measured: Path) -> None:
    body = asked()
    del body["output"]
    answer = await client.post("/v1/plans", json=body)
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    reasons = {t["name"]: t["reason"] for t in plan["tensors"]}
    assert "calibrated" not in reasons[NAME]
    assert "not calibrated: the file has nothing of it" in reasons["blocks.1.mlp.weight"]
    assert plan["recipe"]["calibration"]["key"] == "tiny.calib.arrow"
    warned = {w["code"]: w["message"] for w in plan["warnings"]}
    assert "blocks.1.mlp.weight" in warned["not_calibrated"]
    accepted = await client.post("/v1/jobs", json=asked())
    assert accepted.status_code == 202, accepted.text


@pytest.mark.parametrize(
    ("fields", "status", "code", "pointer"),
    [
        ({"connection": "nowhere"}, 404, "connection_not_found", "/recipe/calibration/connection"),
        ({"connection": "theirs", "key": "c.arrow"}, 404, "connection_not_found", "/recipe/calibration/connection"),
        ({"key": "none.arrow"}, 404, "source_not_found", "/recipe/calibration/key"),
        ({"key": "tiny/model.safetensors"}, 422, "invalid_calibration", "/recipe/calibration/key"),
        ({"key": "../rival/c.arrow"}, 422, "invalid_spec", "/recipe/calibration/key"),
        ({"key": "tiny/"}, 422, "invalid_spec", "/recipe/calibration/key"),
        ({"weighting": "odd"}, 422, "invalid_spec", "/recipe/calibration/weighting"),
        ({"url": "http://x"}, 422, "invalid_spec", "/recipe/calibration/url"),
    ],
)  # fmt: skip
async def test_what_is_refused(
    client: httpx.AsyncClient, measured: Path, fields: dict[str, Any], status: int, code: str, pointer: str
) -> None:  # fmt: skip
    problem = check_problem(await client.post("/v1/jobs", json=asked(**fields)), status, code)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


async def test_a_file_of_other_weights(
    client: httpx.AsyncClient, measured: Path, models: Path, deps: Deps
) -> None:
    write_safetensors(
        models / "tiny" / "model.safetensors", {NAME: ("F32", [64, 32], bytes(4 * 64 * 32))}
    )
    answer = await client.post("/v1/jobs", json=asked())
    problem = check_problem(answer, 422, "calibration_mismatch")
    assert NAME in problem["detail"] or problem["where"]["tensor"] == NAME
    lines = (
        b'{"custom_id": "a", "body": %s}' % httpx.Request("POST", "http://x", json=asked()).content
    )
    batch = await client.post(
        "/v1/batches", content=lines, headers={"Content-Type": "application/jsonl"}
    )
    [error] = check_problem(batch, 422, "invalid_batch")["errors"]
    assert error["code"] == "calibration_mismatch"
    assert error["pointer"] == "/body/recipe/calibration/key"


async def test_every_cut_and_damaged_header_is_refused(
    client: httpx.AsyncClient, measured: Path
) -> None:
    data = measured.read_bytes()
    rng = np.random.default_rng(5)
    told = 0
    for number in range(60):
        spoilt = bytearray(data[: 2 ** (number % 11)] if number % 3 == 0 else data)
        for at in rng.integers(0, min(len(spoilt), 3000), 4):
            spoilt[at] = rng.integers(0, 256)
        measured.write_bytes(bytes(spoilt))
        answer = await client.post("/v1/jobs", json=asked(), params={"validate_only": "true"})
        if answer.status_code >= 400:
            told += 1
            assert answer.json()["code"] in ("invalid_calibration", "calibration_mismatch")
    assert told > 20
