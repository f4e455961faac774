"""The log of a job over HTTP."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import httpx
import pytest

from service.domain.job_log import LogLine
from service.wiring import Deps
from tests.web.conftest import Submit

pytestmark = pytest.mark.anyio
TIME = datetime(2030, 1, 1, tzinfo=UTC)


def lines(count: int) -> list[LogLine]:
    level = ("info", "warning")
    return [
        LogLine(0, TIME, level[i % 2], f"event_{i}", "quantize:0", f"t{i % 3}", data={"i": i})
        for i in range(count)
    ]


async def test_pages(client: httpx.AsyncClient, submit: Submit, deps: Deps) -> None:
    job_id = await submit()
    empty = (await client.get(f"/v1/jobs/{job_id}/logs")).json()
    assert empty == {"logs": [], "next_after": 0}
    deps.job_log.append(job_id, lines(5))
    links = (await client.get(f"/v1/jobs/{job_id}")).json()["links"]
    first = (await client.get(links["logs"], params={"page_size": 3})).json()
    assert [line["seq"] for line in first["logs"]] == [1, 2, 3]
    assert first["logs"][0] == {
        "seq": 1,
        "time": "2030-01-01T00:00:00Z",
        "level": "info",
        "event": "event_0",
        "unit": "quantize:0",
        "tensor": "t0",
        "trace_id": None,
        "data": {"i": 0},
    }
    rest = (await client.get(links["logs"], params={"after": first["next_after"]})).json()
    assert [line["seq"] for line in rest["logs"]] == [4, 5]


async def test_filters(client: httpx.AsyncClient, submit: Submit, deps: Deps) -> None:
    job_id = await submit()
    deps.job_log.append(job_id, lines(12))
    url = f"/v1/jobs/{job_id}/logs"
    warned = (await client.get(url, params={"level": "warning"})).json()["logs"]
    assert [line["seq"] for line in warned] == [2, 4, 6, 8, 10, 12]
    one = (await client.get(url, params={"tensor": "t1", "level": "warning"})).json()["logs"]
    assert [line["tensor"] for line in one] == ["t1", "t1"]
    wrong = await client.get(url, params={"level": "loud"})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid_spec")


async def test_lines_of_json(client: httpx.AsyncClient, submit: Submit, deps: Deps) -> None:
    """All of them at once, however many pages they would be."""
    job_id = await submit()
    deps.job_log.append(job_id, lines(1203))
    headers = {"Accept": "application/x-ndjson"}
    answer = await client.get(f"/v1/jobs/{job_id}/logs", params={"after": 3}, headers=headers)
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    found = [json.loads(text) for text in answer.text.splitlines()]
    assert [line["seq"] for line in found] == list(range(4, 1204))
    gone = await client.get("/v1/jobs/job_nobody/logs", headers=headers)
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")


async def test_a_request_brings_its_trace(client: httpx.AsyncClient, submit: Submit) -> None:
    """What a caller's own tracing sends is in the job and in errors; without it an id is made."""
    ids = "0af7651916cd43dd8448eb211c80319c"
    client.headers["traceparent"] = f"00-{ids}-b7ad6b7169203331-01"
    job_id = await submit()
    assert (await client.get(f"/v1/jobs/{job_id}")).json()["trace_id"] == ids
    assert (await client.get("/v1/jobs/job_nobody")).json()["trace_id"] == ids
    for nonsense in ("", "00-zz-1-1", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "x" * 5000):
        client.headers["traceparent"] = nonsense
        made = (await client.get("/v1/jobs/job_nobody")).json()["trace_id"]
        assert len(made) == 32
        assert made != ids
