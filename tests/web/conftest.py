"""An application on a real SQLite ledger and a real folder store, and a worker in miniature."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import uvicorn
from fastapi import FastAPI

from service.adapters.sql.engine import migrate
from service.domain import report
from service.domain.errors import ArrowQuantError
from service.domain.expected import ledger_rows
from service.domain.job import Claim, PartRow, TensorState, UnitKind, UnitPlan, Worker
from service.domain.plan import make_plan
from service.domain.spec import JobRequest, resolve
from service.settings import Settings
from service.usecases.inspect_source import inspect
from service.web.app import create_app
from service.wiring import Deps, wire
from tests.processes import HOST, free_port

WORKER = Worker("test:1:1", "test", 1)


@pytest.fixture(scope="session", autouse=True)
def plain_log() -> None:
    """Structlog's own default draws boxes around every frame of a traceback, for seconds."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(),
        ]
    )


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class CountingBell:
    """A doorbell that counts, or is broken. The real one has tests of its own."""

    def __init__(self) -> None:
        self.rings = 0
        self.broken = False

    def ring(self) -> None:
        self.check()
        self.rings += 1

    def check(self) -> None:
        if self.broken:
            raise ArrowQuantError("broker_unavailable", "no broker in this test")


def write_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], bytes]]) -> None:
    """A file in the format's own terms: length, JSON header, data."""
    header: dict[str, Any] = {}
    data = b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(data), len(data) + len(content)],
        }
        data += content
    text = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A source connection with one small model in `tiny/`."""
    folder = tmp_path / "models"
    write_safetensors(
        folder / "tiny" / "model.safetensors",
        {
            "blocks.0.attn.weight": ("F32", [64, 64], bytes(4 * 64 * 64)),
            "blocks.0.norm.weight": ("F32", [64], bytes(4 * 64)),
            "blocks.1.mlp.weight": ("F16", [128, 64], bytes(2 * 128 * 64)),
        },
    )
    return folder


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database file with the schema in it: copying is quicker than migrating."""
    path = tmp_path_factory.mktemp("database") / "arrowquant.db"
    migrate(f"sqlite:///{path}")
    return path


@pytest.fixture
def settings(tmp_path: Path, models: Path, empty_database: Path) -> Settings:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "data").mkdir()
    shutil.copy(empty_database, tmp_path / "data" / "arrowquant.db")
    return Settings.load(
        data_dir=tmp_path / "data",
        secret_keys=("AQ" * 21 + "A=",),
        egress_allow=("127.0.0.1",),
        connections={
            "models": {"kind": "folder", "path": models},
            "artifacts": {"kind": "folder", "path": tmp_path / "artifacts"},
        },
    )


@pytest.fixture
def bell() -> CountingBell:
    return CountingBell()


@pytest.fixture
def deps(settings: Settings, bell: CountingBell) -> Iterator[Deps]:
    wired = wire(settings)
    yield dataclasses.replace(wired, bell=bell, cleanups=())
    wired.close()


@pytest.fixture
def app(settings: Settings, deps: Deps) -> FastAPI:
    return create_app(settings, lambda _: deps)


@pytest.fixture
def key(deps: Deps) -> str:
    return deps.keys.create("acme", "tests")[1]


@pytest.fixture
async def client(app: FastAPI, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of tenant `acme`, without a network in between."""
    headers = {"Authorization": f"Bearer {key}"}
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers) as made,
    ):
        yield made


@pytest.fixture
def live(app: FastAPI) -> Iterator[str]:
    """The address of the same application behind a real server."""
    with serving(app) as url:
        yield url


class serving:
    """Uvicorn in a thread."""

    def __init__(self, app: FastAPI) -> None:
        self._port = free_port()
        config = uvicorn.Config(
            app, HOST, self._port, log_config=None, access_log=False, timeout_graceful_shutdown=2
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)

    def __enter__(self) -> str:
        self._thread.start()
        url = f"http://{HOST}:{self._port}"
        for _ in range(200):
            try:
                httpx.get(f"{url}/healthz")
                return url
            except httpx.TransportError:
                self._thread.join(0.05)
        raise AssertionError("uvicorn did not start")

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()


_outputs = itertools.count(1)


def job_body(**changes: Any) -> dict[str, Any]:
    """A valid body of POST /v1/jobs, with an output of its own."""
    return {
        "source": {"connection": "models", "prefix": "tiny/"},
        "output": {"connection": "artifacts", "prefix": f"out{next(_outputs)}/"},
    } | changes


class MiniWorker:
    """Does what workers do to the ledger and to the store, without quantizing anything."""

    def __init__(self, deps: Deps) -> None:
        self._deps = deps
        self.ledger = deps.ledger

    def claim(self, job_id: str, kind: UnitKind) -> Claim:
        claim = self.ledger.claim(WORKER, job_id)
        assert claim is not None
        assert claim.kind is kind
        return claim

    def start(self, job_id: str) -> Claim:
        """Take the PLAN unit: the job is RUNNING."""
        return self.claim(job_id, UnitKind.PLAN)

    def plan(self, job_id: str) -> None:
        claim = self.start(job_id)
        self._plan(claim)

    def fail(self, job_id: str) -> None:
        self.ledger.fail_job(
            self.start(job_id),
            ArrowQuantError("non_finite_weights", "NaN", "Fix it.", {"tensor": "x"}),
        )

    def finish(self, job_id: str) -> None:
        """Everything up to SUCCEEDED, with files in the store."""
        self.plan(job_id)
        while True:
            claim = self.ledger.claim(WORKER, job_id)
            assert claim is not None
            if claim.kind is UnitKind.PUBLISH:
                break
            self._unit(claim)
        self._publish(claim)

    def _planned(self, claim: Claim) -> Any:
        request = JobRequest.model_validate(claim.request)
        catalog = inspect(self._deps.stores.open(claim.tenant, "models"), request.source.prefix)
        return make_plan(catalog, resolve(request.recipe))

    def _plan(self, claim: Claim) -> None:
        plan = self._planned(claim)
        units = [
            UnitPlan(u.seq, u.source_bytes, tuple(sorted({p.tensor for p in u.pieces})))
            for u in plan.units
        ]
        self.ledger.plan_done(
            claim,
            claim.resolved | {"engine": {}},
            ledger_rows(plan),
            units,
            [],
            analyze=plan.recipe.undecided,
        )

    def _unit(self, claim: Claim) -> None:
        plan = self._planned(claim)
        data = f"part {claim.seq}".encode() * 1000
        key = self._key(claim, report.part_name(claim.seq))
        info = self._store(claim).put(key, data)
        rows = [
            dataclasses.replace(
                row, state=TensorState.KEPT if row.codec == "raw" else TensorState.DONE
            )
            for row in ledger_rows(plan)
        ]
        self.ledger.tensors_done(claim, rows)
        digest = hashlib.sha256(data).hexdigest()
        part = PartRow(claim.seq, key, len(data), digest, info.etag, 1)
        assert self.ledger.unit_done(claim, part, {})

    def _publish(self, claim: Claim) -> None:
        documents = report.render(
            self._planned(claim),
            name="",
            requested={},
            rows=self.ledger.tensors(claim.job_id),
            parts=self.ledger.parts(claim.job_id),
            engine={},
            warnings=[],
            report_sha256=lambda data: hashlib.sha256(data).hexdigest(),
        )
        store = self._store(claim)
        store.put(self._key(claim, report.REPORT_NAME), documents.report)
        manifest = self._key(claim, report.MANIFEST_NAME)
        store.put(manifest, documents.manifest)
        digest = hashlib.sha256(documents.manifest).hexdigest()
        self.ledger.publish_done(
            claim, documents.summary | {"manifest": {"key": manifest, "sha256": digest}}
        )

    def _store(self, claim: Claim) -> Any:
        return self._deps.stores.open(claim.tenant, claim.request["output"]["connection"])

    @staticmethod
    def _key(claim: Claim, name: str) -> str:
        return str(claim.request["output"]["prefix"]) + name


@pytest.fixture
def worker(deps: Deps) -> MiniWorker:
    return MiniWorker(deps)


Submit = Callable[..., Any]


@pytest.fixture
def submit(client: httpx.AsyncClient) -> Submit:
    """Create a job and return its id."""
    made = 0

    async def create(**changes: Any) -> str:
        nonlocal made
        made += 1
        output = {"connection": "artifacts", "prefix": f"out-{made}/"}
        response = await client.post("/v1/jobs", json=job_body(output=output) | changes)
        assert response.status_code == 202, response.text
        return str(response.json()["id"])

    return create
