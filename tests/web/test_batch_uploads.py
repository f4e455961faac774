"""Batches on their way in: bodies that are none, too long, too slow, too many or twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import httpx
import pytest

from service.adapters.sql.tables import idempotency
from service.settings import Settings
from service.web import jsonl
from service.web.jsonl import Splitter
from service.web.routes import batches as routes
from service.web.uploads import Uploads
from tests.web.batches import JSONL, line, lines, post, stored, text

pytestmark = pytest.mark.anyio


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
