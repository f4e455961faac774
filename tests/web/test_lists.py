"""Pages: of jobs, events and tensors."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import httpx
import pytest

from tests.web.conftest import MiniWorker, Submit

pytestmark = pytest.mark.anyio


async def all_pages(client: httpx.AsyncClient, path: str, rows: str, size: int) -> list[Any]:
    found: list[Any] = []
    token = ""
    while True:
        page = (await client.get(f"{path}page_size={size}{token}")).json()
        assert len(page[rows]) <= size
        found += page[rows]
        if page["next_page_token"] is None:
            return found
        token = f"&page_token={page['next_page_token']}"


async def test_pages_are_stable_while_jobs_arrive(
    client: httpx.AsyncClient, submit: Submit
) -> None:
    made = [await submit() for _ in range(5)]
    first = (await client.get("/v1/jobs?page_size=2")).json()
    await submit()
    rest = (await client.get(f"/v1/jobs?page_size=9&page_token={first['next_page_token']}")).json()
    ids = [job["id"] for job in first["jobs"] + rest["jobs"]]
    assert ids == made[::-1]
    assert rest["next_page_token"] is None


async def test_a_page_that_is_just_full_is_the_last(
    client: httpx.AsyncClient, submit: Submit
) -> None:
    made = [await submit() for _ in range(4)]
    assert (await client.get("/v1/jobs?page_size=4")).json()["next_page_token"] is None
    jobs = await all_pages(client, "/v1/jobs?", "jobs", 1)
    assert [job["id"] for job in jobs] == made[::-1]


async def test_filters(client: httpx.AsyncClient, submit: Submit, worker: MiniWorker) -> None:
    first = await submit(name="one", labels={"team": "red", "a": "x:y"})
    second = await submit(name="two", labels={"team": "blue"})
    third = await submit(name="two")
    await client.post(f"/v1/jobs/{second}/cancel")
    worker.start(third)

    async def ids(query: str) -> list[str]:
        response = await client.get(f"/v1/jobs?{query}")
        assert response.status_code == 200, response.text
        return [job["id"] for job in response.json()["jobs"]]

    assert await ids("name=two") == [third, second]
    assert await ids("state=QUEUED") == [first]
    assert await ids("state=RUNNING&state=CANCELLED") == [third, second]
    assert await ids("label=team:blue") == [second]
    assert await ids("label=a:x:y") == [first]
    assert await ids("label=team:green") == []
    assert await ids("label=team:red&label=a:x:y") == [first]
    assert await ids("label=team:red&label=a:z") == []
    assert await ids("order_by=name") == [first, second, third]
    assert await ids("order_by=name+desc,+create_time") == [second, third, first]
    assert await ids("order_by=end_time") == [second, first, third]
    middle = (await client.get(f"/v1/jobs/{second}")).json()["create_time"]
    assert await ids(f"created_after={quote('2020-01-01T00:00:00+02:00')}") == [
        third,
        second,
        first,
    ]
    assert first in await ids(f"created_before={quote(middle)}")
    assert third not in await ids(f"created_before={quote(middle)}")


async def test_page_tokens_are_bound_to_the_request(
    client: httpx.AsyncClient, submit: Submit
) -> None:
    for _ in range(2):
        job = await submit(name="n")
    token = (await client.get("/v1/jobs?name=n&page_size=1")).json()["next_page_token"]
    forged = "WzEsMl0"
    for path in [
        f"/v1/jobs?page_token={token}",
        f"/v1/jobs?name=m&page_token={token}",
        f"/v1/jobs?name=n&order_by=name&page_token={token}",
        f"/v1/jobs/{job}/tensors?page_token={token}",
        "/v1/jobs?page_token=%20",
        "/v1/jobs?page_token=!",
        f"/v1/jobs?page_token={forged}",
        f"/v1/jobs?page_token={'A' * 400}",
    ]:
        response = await client.get(path)
        assert (response.status_code, response.json()["code"]) == (400, "invalid_page_token"), path


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ("page_size=0", "page_size"),
        ("state=DONE", "state.0"),
        ("label=nocolon", "label.0"),
        ("order_by=size", "order_by"),
        ("order_by=name+down", "order_by"),
        ("created_after=yesterday", "created_after"),
        ("created_after=2020-01-01T00:00:00", "created_after"),
        ("name=%00", "name"),
    ],
)
async def test_wrong_parameters_are_named(
    client: httpx.AsyncClient, query: str, parameter: str
) -> None:
    response = await client.get(f"/v1/jobs?{query}")
    assert response.status_code == 422
    assert [error["parameter"] for error in response.json()["errors"]] == [parameter]


async def test_page_sizes_past_the_maximum_are_cut(client: httpx.AsyncClient) -> None:
    assert (await client.get("/v1/jobs?page_size=99999999")).status_code == 200


async def test_tensors_tell_what_became_of_them(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker
) -> None:
    job = await submit()
    path = f"/v1/jobs/{job}/tensors"
    assert (await client.get(path)).json() == {"tensors": [], "next_page_token": None}
    worker.finish(job)
    tensors = await all_pages(client, f"{path}?", "tensors", 1)
    assert [tensor["index"] for tensor in tensors] == [0, 1, 2]
    assert [tensor["state"] for tensor in tensors] == ["DONE", "KEPT", "DONE"]
    assert tensors[1]["reason"]
    kept = (await client.get(f"{path}?state=KEPT")).json()["tensors"]
    assert [tensor["name"] for tensor in kept] == ["blocks.0.norm.weight"]


async def test_events_page_by_page(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker
) -> None:
    job = await submit()
    worker.finish(job)
    after, seen = 0, []
    while page := (await client.get(f"/v1/jobs/{job}/events?after={after}&page_size=3")).json():
        if not page["events"]:
            break
        seen += [event["seq"] for event in page["events"]]
        after = page["next_after"]
    assert seen == list(range(1, len(seen) + 1))
    assert page["next_after"] == after == seen[-1]
    everything = (await client.get(f"/v1/jobs/{job}/events")).json()["events"]
    assert everything[0]["type"] == "state"
    assert everything[-1]["type"] == "done"
