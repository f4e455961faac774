"""The published descriptions are those of the running code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate

from service.domain.errors import CODES
from service.web.errors import TABLE
from service.web.openapi import as_yaml
from tests.web.conftest import MiniWorker, Submit, job_body

ROOT = Path(__file__).parents[2]


def test_openapi_yaml_is_the_applications(app: FastAPI) -> None:
    text = (ROOT / "openapi.yaml").read_text(encoding="utf-8")
    assert text == as_yaml(app), "run `make openapi`"


def test_openapi_is_valid(app: FastAPI) -> None:
    validate(app.openapi())


def test_every_operation_is_described_for_a_newcomer(app: FastAPI) -> None:
    seen = set()
    for path, operations in app.openapi()["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["operationId"] not in seen, where
            seen.add(operation["operationId"])
            assert operation["summary"], where
            assert len(operation["description"]) > 20, where
            for parameter in operation.get("parameters", []):
                assert parameter.get("description"), (where, parameter["name"])
            if "requestBody" in operation:
                for content in operation["requestBody"]["content"].values():
                    assert content["examples"], where
            problems = {
                status: response
                for status, response in operation["responses"].items()
                if "application/problem+json" in response.get("content", {})
            }
            assert "500" in problems, where
            if path.startswith("/v1/"):
                assert {"401", "503"} <= problems.keys(), where
            for status, response in problems.items():
                content = response["content"]["application/problem+json"]
                for code in content["examples"]:
                    assert str(TABLE[code].status) == status


def test_table_codes_and_documentation_list_the_same() -> None:
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", text, re.MULTILINE))
    assert list(rows) == list(CODES)
    assert rows == {code: str(shown.status) for code, shown in TABLE.items()}


class Schema:
    """Checks answers against the document."""

    def __init__(self, app: FastAPI) -> None:
        self._document = app.openapi()

    def check(self, response: httpx.Response, method: str, path: str) -> None:
        declared = self._document["paths"][path][method]["responses"]
        described = declared[str(response.status_code)]
        kind = response.headers["content-type"]
        schema = {
            **described["content"][kind]["schema"],
            "components": self._document["components"],
        }
        OAS31Validator(schema).validate(response.json())


@pytest.mark.anyio
async def test_answers_are_as_documented(
    app: FastAPI, client: httpx.AsyncClient, submit: Submit, worker: MiniWorker
) -> None:
    schema = Schema(app)
    done, failed = await submit(), await submit()
    worker.finish(done)
    worker.fail(failed)
    for path in (
        "/v1/jobs",
        "/v1/jobs/{job_id}",
        "/v1/jobs/{job_id}/events",
        "/v1/jobs/{job_id}/tensors",
        "/v1/jobs/{job_id}/artifacts",
        "/v1/jobs/{job_id}/report",
        "/v1/connections",
        "/v1/schemes",
        "/healthz",
        "/readyz",
        "/version",
    ):
        for job in (done, failed):
            response = await client.get(path.replace("{job_id}", job))
            schema.check(response, "get", path)
    for method, path, body in (
        ("post", "/v1/plans", {"source": job_body()["source"]}),
        ("post", "/v1/plans", {}),
        ("post", "/v1/jobs", job_body()),
        ("post", "/v1/jobs", job_body(name=1)),
        ("post", "/v1/jobs/{job_id}/cancel", None),
        ("post", "/v1/jobs/{job_id}/retry", None),
    ):
        response = await client.request(method, path.replace("{job_id}", failed), json=body)
        schema.check(response, method, path)


def _mutations() -> st.SearchStrategy[Any]:
    scalars: st.SearchStrategy[Any] = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=20)
        | st.sampled_from(["re:(", "re:.*", "*", "[", "a/../b", "/", "\0", "\ud800", "models"])
    )
    values = st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
        ),
        max_leaves=8,
    )
    names = st.sampled_from(
        [
            "source",
            "output",
            "recipe",
            "limits",
            "labels",
            "name",
            "priority",
            "connection",
            "prefix",
            "if_exists",
            "profile",
            "bits",
            "method",
            "granularity",
            "group_size",
            "symmetric",
            "rules",
            "fallback",
            "match",
            "action",
            "enabled",
            "min_sqnr_db",
            "min_cosine",
            "on_miss",
            "threads",
            "max_memory_bytes",
            "max_runtime_s",
        ]
    )
    near = st.recursive(values, lambda inner: st.dictionaries(names, inner, max_size=4))
    rules = st.lists(st.fixed_dictionaries({"match": st.text(max_size=12) | values}), max_size=3)
    recipe = st.fixed_dictionaries(
        {}, optional={"bits": st.integers(0, 9) | values, "rules": rules | values, "profile": near}
    )
    whole = st.fixed_dictionaries(
        {
            "source": st.just({"connection": "models", "prefix": "tiny/"}) | near,
            "output": st.just({"connection": "artifacts", "prefix": "fuzz/"}) | near,
        },
        optional={
            "recipe": recipe | near,
            "name": values,
            "labels": st.dictionaries(st.text(max_size=5), st.text(max_size=5)) | values,
            "limits": near,
            "priority": values,
            "other": values,
        },
    )
    return whole | near


@pytest.mark.anyio
async def test_no_body_is_an_error_of_ours(client: httpx.AsyncClient, deps: Any) -> None:
    """Whatever is posted, the answer is 202 or a problem of the 4xx kind."""
    statuses: dict[int, int] = {}

    @settings(
        max_examples=150,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(_mutations())
    def draw(body: Any) -> None:
        bodies.append(json.dumps(body).encode())

    bodies: list[bytes] = []
    draw()
    for body in bodies:
        response = await client.post(
            "/v1/jobs", content=body, headers={"Content-Type": "application/json"}
        )
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
        assert response.status_code < 500, (body, response.text)
        if response.status_code != 202:
            assert response.headers["content-type"] == "application/problem+json"
    assert statuses.get(202), statuses
    assert statuses.get(422), statuses
