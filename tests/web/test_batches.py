"""Batches over HTTP: all lines or none, what is wrong by line, results and errors."""

from __future__ import annotations

import asyncio
import itertools
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from service.adapters.sql import make_engine
from service.adapters.sql.tables import idempotency, metadata
from service.settings import Settings
from service.usecases import batch_sources
from service.usecases import batches as usecase
from service.web import jsonl
from service.web.jsonl import Splitter
from service.web.routes import batches as routes
from service.web.uploads import Uploads
from service.wiring import Deps
from tests.web.conftest import WORKER, CountingBell, MiniWorker, job_body

pytestmark = pytest.mark.anyio
JSONL = {"Content-Type": "application/jsonl"}


def line(custom_id: str, **changes: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "body": job_body(**changes)}


def lines(count: int) -> list[dict[str, Any]]:
    return [line(f"c{number}") for number in range(1, count + 1)]


def text(some: Iterable[Any]) -> bytes:
    return b"".join(
        one if isinstance(one, bytes) else json.dumps(one).encode() + b"\n" for one in some
    )


async def post(
    client: httpx.AsyncClient,
    some: Iterable[Any],
    headers: dict[str, str] | None = None,
    **query: Any,
) -> httpx.Response:
    return await client.post(
        "/v1/batches", content=text(some), headers=JSONL | (headers or {}), params=query
    )


async def created(client: httpx.AsyncClient, count: int = 3, **query: Any) -> dict[str, Any]:
    answer = await post(client, lines(count), **query)
    assert answer.status_code == 202, answer.text
    return dict(answer.json())


def stored(settings: Settings) -> dict[str, int]:
    """Rows of each table that has any."""
    engine = make_engine(settings.resolved_database_url)
    with engine.begin() as connection:
        counts = {
            name: connection.execute(select(func.count()).select_from(table)).scalar_one()
            for name, table in metadata.tables.items()
        }
    engine.dispose()
    return {
        name: count
        for name, count in counts.items()
        if count and name not in ("api_keys", "audit_events")
    }


async def rows(client: httpx.AsyncClient, path: str) -> list[dict[str, Any]]:
    answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/jsonl"
    return [json.loads(one) for one in answer.text.splitlines()]


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


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Type": "application/json"}, "unsupported_media_type"),
        (
            {"Content-Type": "application/jsonl", "Content-Encoding": "gzip"},
            "unsupported_media_type",
        ),
        ({}, "unsupported_media_type"),
    ],
)
async def test_other_bodies(client: httpx.AsyncClient, headers: dict[str, str], code: str) -> None:
    answer = await client.post("/v1/batches", content=text(lines(1)), headers=headers)
    assert answer.json()["code"] == code


async def test_a_body_without_an_end_is_cut_at_the_cap(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for number in itertools.count():
            yield b" " * 2**20 + text([line(f"c{number}")])

    answer = await client.post("/v1/batches", content=endless(), headers=JSONL)
    assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    assert stored(settings) == {}


async def test_a_line_that_is_too_long_is_told_and_not_held(client: httpx.AsyncClient) -> None:
    long = b'{"custom_id": "' + b"x" * (2**20) + b'"}\n'
    answer = await post(client, [line("a"), long, line("b", recipe={"bits": 5})])
    told = [(e["line"], e["code"]) for e in answer.json()["errors"]]
    assert told == [(2, "payload_too_large"), (3, "invalid_spec")]


async def test_an_upload_that_stalls_or_breaks_off(
    client: httpx.AsyncClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "SILENCE_S", 0.05)

    async def stalling() -> AsyncIterator[bytes]:
        yield text(lines(2))
        await asyncio.sleep(1)
        yield text(lines(2))

    answer = await client.post("/v1/batches", content=stalling(), headers=JSONL)
    assert (answer.status_code, answer.json()["code"]) == (408, "upload_timeout")
    assert stored(settings) == {}


async def test_only_so_many_uploads_at_once(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "_uploads", Uploads(in_all=1))
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield text(lines(1))
        begun.set()
        await go_on.wait()

    first = asyncio.create_task(client.post("/v1/batches", content=slow(), headers=JSONL))
    await begun.wait()
    second = await post(client, lines(1))
    assert (second.status_code, second.json()["code"]) == (429, "too_many_uploads")
    assert "retry-after" in second.headers
    go_on.set()
    assert (await first).status_code == 202
    assert (await post(client, lines(1))).status_code == 202


# -- the same request twice ----------------------------------------------------------------------


async def test_a_key_makes_one_batch_of_two_uploads(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    some, key = lines(3), {"Idempotency-Key": "k1"}
    first = await post(client, some, key)
    second = await post(client, some, key)
    assert second.json() == first.json()
    assert second.headers["idempotency-replayed"] == "true"
    assert stored(settings)["batches"] == 1
    other = await post(client, [*some, line("more")], key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    elsewhere = await post(client, some, key, name="another")
    assert elsewhere.json()["code"] == "idempotency_key_reused"


async def test_a_refused_batch_leaves_its_key_free(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    key = {"Idempotency-Key": "k2"}
    assert (await post(client, [line("x", recipe={"bits": 5})], key)).status_code == 422
    assert idempotency.name not in stored(settings)
    assert (await post(client, lines(1), key)).status_code == 202


async def test_a_key_whose_upload_is_under_way(client: httpx.AsyncClient) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    some = lines(2)

    async def slow() -> AsyncIterator[bytes]:
        yield text(some[:1])
        begun.set()
        await go_on.wait()
        yield text(some[1:])

    headers = JSONL | {"Idempotency-Key": "k3"}
    first = asyncio.create_task(client.post("/v1/batches", content=slow(), headers=headers))
    await begun.wait()
    second = await post(client, some, {"Idempotency-Key": "k3"})
    assert (second.status_code, second.json()["code"]) == (409, "idempotency_in_flight")
    go_on.set()
    made = (await first).json()
    assert (await post(client, some, {"Idempotency-Key": "k3"})).json() == made


# -- afterwards ----------------------------------------------------------------------------------


async def _ids(client: httpx.AsyncClient, batch: dict[str, Any]) -> list[str]:
    jobs = (await client.get(batch["links"]["jobs"])).json()["jobs"]
    return [job["id"] for job in reversed(jobs)]


async def test_results_and_errors(
    client: httpx.AsyncClient, worker: MiniWorker, deps: Deps
) -> None:
    batch = await created(client, 4)
    first, second, third, _ = await _ids(client, batch)
    worker.finish(first)
    worker.fail(second)
    assert (await client.post(f"/v1/jobs/{third}/cancel")).status_code == 200
    now = (await client.get(batch["links"]["self"])).json()
    assert {k: v for k, v in now["counts"].items() if v} == {
        "total": 4, "queued": 1, "succeeded": 1, "failed": 1, "cancelled": 1,
    }  # fmt: skip
    [result] = await rows(client, batch["links"]["results"])
    assert (result["custom_id"], result["id"], result["line"]) == ("c1", first, 1)
    assert result["error"] is None
    assert result["response"]["status_code"] == 200
    assert result["response"]["body"] == (await client.get(f"/v1/jobs/{first}")).json()
    failed, cancelled = await rows(client, batch["links"]["errors"])
    assert (failed["custom_id"], failed["error"]["code"]) == ("c2", "non_finite_weights")
    assert (cancelled["custom_id"], cancelled["error"]["code"]) == ("c3", "job_cancelled")
    assert failed["response"] is None

    answer = await client.post(f"{batch['links']['self']}/retry")
    assert answer.status_code == 202
    assert {k: v for k, v in answer.json()["counts"].items() if v} == {
        "total": 4, "queued": 3, "succeeded": 1,
    }  # fmt: skip
    assert await rows(client, batch["links"]["errors"]) == []
    assert deps.ledger.get_job(second).attempt == 2


async def test_a_deleted_job_still_has_its_line(
    client: httpx.AsyncClient, worker: MiniWorker
) -> None:
    batch = await created(client, 1)
    [job] = await _ids(client, batch)
    worker.finish(job)
    assert (await client.delete(f"/v1/jobs/{job}")).status_code == 204
    [result] = await rows(client, batch["links"]["results"])
    body = result["response"]["body"]
    assert (body["id"], body["state"], body["deleted"]) == (job, "SUCCEEDED", True)
    assert body["summary"]["totals"]
    now = (await client.get(batch["links"]["self"])).json()
    assert now["counts"]["succeeded"] == 1


async def test_cancel(client: httpx.AsyncClient, worker: MiniWorker, deps: Deps) -> None:
    batch = await created(client, 5)
    running = worker.start((await _ids(client, batch))[0])
    path = f"{batch['links']['self']}/cancel"
    answer = await client.post(path)
    assert (answer.status_code, answer.json()["state"]) == (202, "CANCELLING")
    assert answer.json()["counts"]["cancelled"] == 4
    assert (await client.post(path)).status_code == 202
    cleanup = deps.ledger.claim(WORKER, running.job_id)
    assert cleanup is not None
    deps.ledger.cleanup_done(cleanup)
    deps.batches.sweep()
    answer = await client.post(path)
    assert (answer.status_code, answer.json()["state"]) == (200, "CANCELLED")


async def test_cancelling_what_nobody_took_is_over_at_once(client: httpx.AsyncClient) -> None:
    batch = await created(client, 5)
    answer = await client.post(f"{batch['links']['self']}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "CANCELLED")
    deleted = await client.delete(batch["links"]["self"])
    assert deleted.status_code == 204
    assert (await client.get(batch["links"]["self"])).status_code == 404


async def test_an_active_batch_is_not_forgotten(client: httpx.AsyncClient) -> None:
    batch = await created(client, 1)
    answer = await client.delete(batch["links"]["self"])
    assert (answer.status_code, answer.json()["code"]) == (409, "batch_active")


async def test_an_ended_batch_is_not_cancelled(
    client: httpx.AsyncClient, worker: MiniWorker, deps: Deps
) -> None:
    batch = await created(client, 1)
    worker.finish((await _ids(client, batch))[0])
    deps.batches.sweep()
    answer = await client.post(f"{batch['links']['self']}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "batch_terminal")


async def test_waiting_for_a_change(client: httpx.AsyncClient, deps: Deps) -> None:
    batch = await created(client, 2)
    path = batch["links"]["self"]
    tag = (await client.get(path)).headers["etag"]
    same = await client.get(path, headers={"If-None-Match": tag})
    assert (same.status_code, same.headers["etag"]) == (304, tag)
    waiting = asyncio.create_task(
        client.get(path, params={"wait": 20}, headers={"If-None-Match": tag})
    )
    await asyncio.sleep(0.05)
    deps.ledger.claim(WORKER)
    changed = await waiting
    assert (changed.status_code, changed.json()["counts"]["running"]) == (200, 1)


async def test_lists_page_and_filter(client: httpx.AsyncClient) -> None:
    made = [(await created(client, 1))["id"] for _ in range(3)]
    await client.post(f"/v1/batches/{made[0]}/cancel")
    page = (await client.get("/v1/batches", params={"page_size": 2})).json()
    assert [one["id"] for one in page["batches"]] == made[:0:-1]
    token = {"page_size": 2, "page_token": page["next_page_token"]}
    rest = (await client.get("/v1/batches", params=token)).json()
    assert ([one["id"] for one in rest["batches"]], rest["next_page_token"]) == ([made[0]], None)
    found = (await client.get("/v1/batches", params={"state": "CANCELLED"})).json()["batches"]
    assert [one["id"] for one in found] == [made[0]]
    other = await client.get("/v1/batches", params=token | {"state": "CANCELLED"})
    assert other.json()["code"] == "invalid_page_token"


async def test_what_is_no_id_is_not_found(client: httpx.AsyncClient) -> None:
    for name in ("batch_none", "job_01", "batch_%00"):
        assert (await client.get(f"/v1/batches/{name}")).status_code == 404


def test_lines_are_cut_wherever_chunks_end() -> None:
    data = b'{"a": 1}\n\n{"b": "\xc3\xa4"}\r\n' + b"z" * 50 + b'\n{"c": 3}'
    for size in (1, 2, 3, 7, len(data)):
        splitter = Splitter(40)
        found = [
            line
            for start in range(0, len(data), size)
            for line in splitter.feed(data[start : start + size])
        ]
        found += splitter.end()
        assert [(line.number, line.text) for line in found] == [
            (1, b'{"a": 1}'), (3, '{"b": "ä"}\r'.encode()), (4, None), (5, b'{"c": 3}'),
        ]  # fmt: skip
