"""Batches over HTTP: all lines or none, and what is wrong by line."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from service.settings import Settings
from service.usecases import batch_sources
from service.usecases import batches as usecase
from tests.web.batches import JSONL, line, lines, post, rows, stored, text
from tests.web.conftest import CountingBell, job_body

pytestmark = pytest.mark.anyio


async def test_every_line_becomes_a_job(client: httpx.AsyncClient, bell: CountingBell) -> None:
    answer = await post(
        client, lines(3), name="night", label=["team:x", "run:7"], completion_window="24h"
    )
    batch = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == batch["links"]["self"] == f"/v1/batches/{batch['id']}"
    assert answer.headers["retry-after"] == "1"
    assert (batch["name"], batch["labels"]) == ("night", {"team": "x", "run": "7"})
    assert (batch["state"], batch["completion_window_s"]) == ("IN_PROGRESS", 86400)
    assert batch["counts"] == {
        "total": 3, "queued": 3, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0,
        "expired": 0,
    }  # fmt: skip
    assert bell.rings == 1
    assert (await client.get(batch["links"]["self"])).json() == batch
    jobs = (await client.get(batch["links"]["jobs"])).json()["jobs"]
    assert [job["batch_id"] for job in jobs] == [batch["id"]] * 3
    assert (await client.get("/v1/batches")).json()["batches"] == [batch]


async def test_many_lines_take_little_memory_and_none_is_lost(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    """6 MB of lines come in; what is held of them is a small part of that."""
    count, padding = 1500, {"note": "x" * 250} | {f"k{n}": "y" * 250 for n in range(14)}

    async def body() -> AsyncIterator[bytes]:
        for number in range(count):
            yield text([line(f"c{number}", labels=padding)])

    tracemalloc.start()
    answer = await client.post("/v1/batches", content=body(), headers=JSONL)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer.json()["counts"]["queued"] == count
    assert peak < 24 * 2**20
    found = stored(settings)
    assert (found["jobs"], found["batch_lines"], found["units"]) == (count, count, 3 * count)
    custom, token, seen = [f"c{n}" for n in range(count)], "", []
    while token is not None:
        page = await client.get(
            "/v1/jobs", params={"page_size": 1000, **({"page_token": token} if token else {})}
        )
        seen += [job["id"] for job in page.json()["jobs"]]
        token = page.json()["next_page_token"]
    assert len(set(seen)) == len(seen) == count
    await client.post(f"{answer.json()['links']['self']}/cancel")
    told = await rows(client, answer.json()["links"]["errors"])
    assert [(one["custom_id"], one["id"]) for one in told] == list(
        zip(custom, reversed(seen), strict=True)
    )


async def test_openais_shape_is_understood(client: httpx.AsyncClient) -> None:
    full = {"custom_id": "a", "method": "POST", "url": "/v1/jobs", "body": job_body()}
    answer = await client.post(
        "/v1/batches",
        content=b"\xef\xbb\xbf"
        + json.dumps(full).encode()
        + b"\r\n\n"
        + json.dumps(line("b")).encode(),
        headers={"Content-Type": "application/x-ndjson; charset=utf-8"},
    )
    assert answer.json()["counts"]["total"] == 2


async def test_all_bad_lines_are_told_and_nothing_is_queued(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    good = line("same")
    bad = [
        good,
        b"{not json}\n",
        line("bits", recipe={"bits": 5, "profil": "edge"}),
        b"\n",
        {"custom_id": "x", "body": job_body(), "method": "GET"},
        line("same"),
        line("where", output=good["body"]["output"]),
        line("who", source={"connection": "nobody", "prefix": "tiny/"}),
        line("none", source={"connection": "models", "prefix": "not-there/"}),
        line("rule", recipe={"rules": [{"match": "nothing.like.it", "action": "keep"}]}),
        line("nul", name="a\0b"),
        {"body": job_body()},
        b'"text"\n',
        b"\xff\xfe\n",
    ]
    answer = await post(client, bad)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, "invalid_batch")
    assert problem["where"] == {"bad_lines": 12, "lines": 13}
    assert problem["detail"].startswith("line 2: not JSON")
    told = [(e["line"], e["code"], e["pointer"]) for e in problem["errors"]]
    assert told == [
        (2, "invalid_spec", ""),
        (3, "invalid_spec", "/body/recipe/bits"),
        (3, "invalid_spec", "/body/recipe/profil"),
        (5, "invalid_spec", "/method"),
        (6, "invalid_spec", "/custom_id"),
        (7, "output_in_use", "/body/output/prefix"),
        (8, "connection_not_found", "/body/source/connection"),
        (9, "source_not_found", "/body/source/prefix"),
        (10, "rule_matched_nothing", "/body/recipe/rules/0/match"),
        (11, "invalid_spec", "/body/name"),
        (12, "invalid_spec", "/custom_id"),
        (13, "invalid_spec", ""),
        (14, "invalid_spec", ""),
    ]
    assert "line 1 has the same" in problem["errors"][4]["detail"]
    assert stored(settings) == {}
    assert (await client.get("/v1/batches")).json()["batches"] == []


async def test_an_output_that_an_active_job_writes_to(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    await client.post("/v1/jobs", json=job_body(output={"connection": "artifacts", "prefix": "o/"}))
    before = stored(settings)
    answer = await post(
        client, [*lines(2), line("z", output={"connection": "artifacts", "prefix": "o/"})]
    )
    [error] = answer.json()["errors"]
    assert (error["line"], error["code"]) == (3, "output_in_use")
    assert stored(settings) == before


async def test_more_bad_lines_than_are_told(client: httpx.AsyncClient) -> None:
    answer = await post(client, [line("x", recipe={"bits": 5}) for _ in range(300)])
    problem = answer.json()
    assert problem["where"] == {"bad_lines": 300, "lines": 300}
    assert len(problem["errors"]) == usecase.MOST_TOLD
    assert "and 299 more bad lines" in problem["detail"]


async def test_a_store_that_is_away_refuses_nothing(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise usecase.ArrowQuantError("storage_unavailable", "no answer")

    monkeypatch.setattr(batch_sources, "inspect", away)
    assert (await post(client, lines(2))).status_code == 202


async def test_each_source_is_looked_at_once(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    inspect = batch_sources.inspect

    def watching(store: Any, prefix: str, **more: Any) -> Any:
        looked.append(prefix)
        return inspect(store, prefix, **more)

    monkeypatch.setattr(batch_sources, "inspect", watching)
    some = [line(f"c{n}", recipe={"bits": (2, 4, 8)[n % 3]}) for n in range(30)]
    assert (await post(client, some)).status_code == 202
    assert looked == ["tiny/"]


async def test_sources_for_which_there_is_no_time_are_left_to_the_workers(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_sources.SourceChecks.__init__, "__defaults__", (-1.0,))
    absent = line("none", source={"connection": "models", "prefix": "not-there/"})
    assert (await post(client, [absent])).status_code == 202


async def test_validate_only_stores_nothing(
    client: httpx.AsyncClient, settings: Settings, bell: CountingBell
) -> None:
    answer = await post(client, lines(4), validate_only=True)
    assert answer.status_code == 202
    assert (answer.json()["state"], answer.json()["counts"]["total"]) == ("VALIDATING", 4)
    assert stored(settings) == {}
    assert bell.rings == 0
    bad = await post(client, [line("x", recipe={"bits": 5})], validate_only=True)
    assert bad.json()["code"] == "invalid_batch"


@pytest.mark.parametrize("window", ["0h", "24", "1w", "31d", "-1h", "1.5h"])
async def test_a_window_that_is_none(client: httpx.AsyncClient, window: str) -> None:
    answer = await post(client, lines(1), completion_window=window)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec")


async def test_an_empty_batch(client: httpx.AsyncClient) -> None:
    for body in (b"", b"\n\n  \n"):
        answer = await client.post("/v1/batches", content=body, headers=JSONL)
        assert answer.json()["code"] == "invalid_batch"
