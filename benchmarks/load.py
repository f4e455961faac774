"""The service under load: a thousand jobs from fifty clients at once, and 500 open event streams.

API and worker are processes of their own, as in production (PostgreSQL, Redis) and embedded
(SQLite, no broker installed); the clients share the machine with them. Every answer is counted, and
in the end the ledger, what the clients were told and the manifests in the store must agree.
"""

from __future__ import annotations

import asyncio
import json
import resource
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from arrowquant import AsyncClient
from benchmarks.context import Context, scratch
from benchmarks.results import Result
from benchmarks.streams import hold_streams

CLIENTS, JOBS, STREAMS = 50, 1000, 500
QUICK_CLIENTS, QUICK_JOBS, QUICK_STREAMS = 5, 20, 20
ENDED_S = 240.0  #: after so long without an end the run has failed
AGAIN = 10  #: every tenth job is sent twice, with one key, as after a lost answer
POLL_S = 0.5
TERMINAL = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})


@dataclass
class Seen:
    """What the clients saw: every answer with its time, and the jobs they were told of."""

    answers: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"post": [], "get": []})
    jobs: list[str] = field(default_factory=list)
    repeated: int = 0
    states: Counter[str] = field(default_factory=Counter)


class Counting(httpx.AsyncHTTPTransport):
    """A network that counts and times every answer."""

    def __init__(self, seen: Seen) -> None:
        super().__init__()
        self._seen = seen

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        began = time.perf_counter()
        response = await super().handle_async_request(request)
        await response.aread()
        self._seen.seconds[request.method.lower()].append(time.perf_counter() - began)
        self._seen.answers[f"{request.method} {response.status_code}"] += 1
        return response


def run(context: Context) -> Result:
    """Both forms as records."""
    result = context.result("load")
    clients = QUICK_CLIENTS if context.quick else CLIENTS
    jobs = QUICK_JOBS if context.quick else JOBS
    streams = QUICK_STREAMS if context.quick else STREAMS
    _allow_many_files()
    for form, start in (("PostgreSQL, Redis", production), ("SQLite, embedded", embedded)):
        try:
            with scratch("load") as folder, start(folder) as service:
                record = _measure(service, clients, jobs, streams)
        except Exception as error:  # noqa: BLE001 - kept and printed
            result.fail(form, f"{type(error).__name__}: {error}")
            continue
        labels = {"form": form, "clients": clients, "jobs": jobs, "streams": streams}
        result.add(form, labels, **record)
        for problem in problems(record):
            result.fail(form, problem)
        print(f"  {form}: {record['answers']}", flush=True)
    return result


def problems(record: dict[str, Any]) -> list[str]:
    """What must not be."""
    found = [f"{n} times {name}" for name, n in record["answers"].items() if name[-3] not in "23"]
    asked, ledger = record["jobs"]["asked"], record["jobs"]["ledger"]
    for name, number in record["jobs"].items():
        if number != asked:
            found.append(f"{asked} jobs were asked for; {name}: {number} ({ledger} in the ledger)")
    streams = record["streams"]
    if streams["complete"] != streams["open"]:
        found.append(f"{streams['complete']} of {streams['open']} streams told the end")
    return found


@dataclass
class Service:
    """A service that runs."""

    url: str
    key: str
    api: psutil.Process
    outputs: Path
    stop_workers: Any


@contextmanager
def production(folder: Path) -> Iterator[Service]:
    """On PostgreSQL and Redis."""
    from tests.servers import PostgresServer, RedisServer

    with PostgresServer() as postgres, RedisServer() as redis:
        servers = {
            "ARROWQUANT_DATABASE_URL": postgres.create_database(),
            "ARROWQUANT_BROKER_URL": redis.url,
        }
        with _processes(folder, servers) as service:
            yield service


@contextmanager
def embedded(folder: Path) -> Iterator[Service]:
    """On SQLite and whatever rings the bell where no broker is named."""
    with _processes(folder, {}) as service:
        yield service


@contextmanager
def _processes(folder: Path, servers: dict[str, str]) -> Iterator[Service]:
    from tests import weights
    from tests.e2e.deployment import Api, Worker, make_key

    weights.write(
        folder / "models" / "tiny" / "model.safetensors",
        {
            "blocks.0.mlp.weight": weights.bfloat16(weights.gaussian((64, 128), 1)),
            "blocks.0.norm.weight": weights.tensor(weights.gaussian((64,), 2)),
        },
    )
    outputs = folder / "artifacts"
    outputs.mkdir()
    connections = {
        "models": {"kind": "folder", "path": str(folder / "models")},
        "artifacts": {"kind": "folder", "path": str(outputs)},
    }
    environment = servers | {
        "ARROWQUANT_DATA_DIR": str(folder / "data"),
        "ARROWQUANT_CONNECTIONS": json.dumps(connections),
        "ARROWQUANT_LOG_FORMAT": "json",
        # One tenant holds all of the streams.
        "ARROWQUANT_MAX_STREAMS_PER_TENANT": str(STREAMS),
    }
    key = make_key(environment)
    with Api(environment) as api, ExitStack() as workers:
        workers.enter_context(Worker(environment))
        process = api._process
        assert process is not None
        yield Service(api.url, key, psutil.Process(process.pid), outputs, workers.close)


def _measure(service: Service, clients: int, jobs: int, streams: int) -> dict[str, Any]:
    seen = Seen()
    began = time.monotonic()
    submitted = asyncio.run(_load(service, seen, clients, jobs))
    ended = time.monotonic() - began
    ledger = asyncio.run(_ledger(service))
    service.stop_workers()
    return {
        "seconds": {"ours": [ended]},
        "submitted_s": submitted,
        "answers": dict(sorted(seen.answers.items())),
        "milliseconds": {kind: quantiles(values) for kind, values in seen.seconds.items()},
        "counted": {kind: len(values) for kind, values in seen.seconds.items()},
        "repeated": seen.repeated,
        "jobs": {
            "asked": jobs,
            "answered": len(set(seen.jobs)),
            "ledger": len(ledger),
            "the same ones": len(set(ledger) & set(seen.jobs)),
            "succeeded": seen.states["SUCCEEDED"],
            "manifests": len(list(service.outputs.glob("*/manifest.json"))),
        },
        "streams": asyncio.run(hold_streams(service, streams)),
    }


async def _load(service: Service, seen: Seen, clients: int, jobs: int) -> float:
    """Submit and follow; the seconds until the last job was accepted."""
    shares = [range(n, jobs, clients) for n in range(clients)]
    began, accepted = time.monotonic(), [0.0] * clients

    async def one(number: int, share: Sequence[int]) -> None:
        transport = Counting(seen)
        async with AsyncClient(service.url, service.key, retries=0, transport=transport) as client:
            client_jobs = [await _submit(client, seen, job) for job in share]
            accepted[number] = time.monotonic() - began
            await _follow(client, seen, client_jobs)

    async with asyncio.timeout(ENDED_S + 0.2 * jobs):
        await asyncio.gather(*(one(number, share) for number, share in enumerate(shares)))
    return max(accepted)


async def _submit(client: AsyncClient, seen: Seen, number: int) -> str:
    body = {
        "name": f"load-{number}",
        "source": {"connection": "models", "prefix": "tiny/"},
        "output": {"connection": "artifacts", "prefix": f"job-{number}/"},
        "recipe": {"bits": 4, "group_size": 32, "method": "lsq"},
    }
    job = await client.submit(body, idempotency_key=f"load-{number}")
    if number % AGAIN == 0:
        again = await client.submit(body, idempotency_key=f"load-{number}")
        seen.repeated += again["id"] == job["id"]
    seen.jobs.append(job["id"])
    return job["id"]


async def _follow(client: AsyncClient, seen: Seen, jobs: list[str]) -> None:
    """Ask for each job in turn, twice a second, until it has ended."""
    for job_id in jobs:
        while (state := (await client.get(job_id))["state"]) not in TERMINAL:
            await asyncio.sleep(POLL_S)
        seen.states[state] += 1


async def _ledger(service: Service) -> list[str]:
    async with AsyncClient(service.url, service.key) as client:
        return [job["id"] async for job in client.iter_jobs()]


def quantiles(seconds: Sequence[float]) -> list[float]:
    """Milliseconds at 0, 1, ... 100 percent of the answers."""
    ordered = sorted(seconds)
    last = len(ordered) - 1
    return [1000 * ordered[round(last * percent / 100)] for percent in range(101)]


def _allow_many_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
