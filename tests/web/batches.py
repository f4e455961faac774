"""Batches to send, and what came of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import httpx
from sqlalchemy import func, select

from service.adapters.sql import make_engine
from service.adapters.sql.tables import metadata
from service.settings import Settings
from tests.web.conftest import job_body

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


async def ids(client: httpx.AsyncClient, batch: dict[str, Any]) -> list[str]:
    jobs = (await client.get(batch["links"]["jobs"])).json()["jobs"]
    return [job["id"] for job in reversed(jobs)]
