"""Requests drawn from openapi.yaml, right and wrong ones, against the service as a process.

Schemathesis makes them in four phases: the document's examples, every constraint at its edges,
random ones, and sequences that follow the ids from answer to request. All of its checks are on.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from arrowquant import Client
from arrowquant.http.types import ConnectionRequest
from service.domain.errors import ArrowQuantError
from service.domain.job import JobState
from service.domain.ports import JobQuery
from service.settings import Settings
from service.wiring import Deps, wire
from tests.e2e.deployment import ROOT, Api
from tests.web.conftest import MiniWorker, write_safetensors

HERE = Path(__file__).parent
EXAMPLES = 6  #: random cases of an operation, and sequences
TENANT = "fuzz"
URL = "https://127.0.0.1:9/hook"  #: nobody is there, and the service may ask nobody else
PHASES = ("examples", "coverage", "fuzzing", "stateful")
CONNECTION: ConnectionRequest = {
    "name": "spare",
    "bucket": "nobody",
    "prefixes": ["models/"],
    "endpoint_url": "http://127.0.0.1:9",
    "credentials": {"access_key_id": "id", "secret_access_key": "secret"},
}
SCOPES = ("jobs:read", "jobs:write", "artifacts:read", "admin", "operator")


# Accepted only of things in a certain state, as every change of one thing: random requests may
# miss the moment.
AT_THE_RIGHT_MOMENT = frozenset({"get_batch_results", "get_batch_errors", "get_webhook_delivery"})


@dataclass
class Target:
    """A service to be fuzzed."""

    url: str
    key: str
    deps: Deps


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """The API as a process on SQLite and folders, with what the document's examples name."""
    weights = {
        "blocks.0.attn.weight": ("F32", [64, 64], bytes(4 * 64 * 64)),
        "blocks.0.norm.weight": ("F32", [64], bytes(4 * 64)),
    }
    write_safetensors(tmp_path / "models" / "dream-7b" / "model.safetensors", weights)
    (tmp_path / "artifacts").mkdir()
    connections = {
        name: {"kind": "folder", "path": str(tmp_path / name)} for name in ("models", "artifacts")
    }
    environment = {
        "ARROWQUANT_DATA_DIR": str(tmp_path / "data"),
        "ARROWQUANT_CONNECTIONS": json.dumps(connections),
        "ARROWQUANT_EGRESS_ALLOW": "127.0.0.1",
        "ARROWQUANT_SECRET_KEYS": base64.b64encode(bytes(32)).decode(),
        "ARROWQUANT_LOG_FORMAT": "json",
    }
    make = [sys.executable, "-m", "service", "keys", "create", "--tenant", TENANT, "--name", "fuzz"]
    made = subprocess.run(
        make + [word for scope in SCOPES for word in ("--scope", scope)],
        env={**os.environ, **environment},
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    deps = wire(Settings.load(data_dir=tmp_path / "data", connections=connections))
    with Api(environment) as api:
        yield Target(api.url, made.stdout.strip(), deps)
    deps.close()


@pytest.fixture
def things(target: Target) -> dict[str, list[str]]:
    """What requests may name: jobs that wait, and jobs that succeeded; the files of these."""
    worker = MiniWorker(target.deps)
    jobs = []
    with Client(target.url, target.key) as client:
        for number in range(24):
            output = {"connection": "artifacts", "prefix": f"made-{number}/"}
            job = client.submit(
                {"source": {"connection": "models", "prefix": "dream-7b/"}, "output": output}
            )
            jobs.append(job["id"])
            if number % 3 == 0:
                worker.finish(job["id"])
        keys = [client.create_api_key({"name": "a", "scopes": ["jobs:read"]}) for _ in range(4)]
        hooks = [client.create_webhook_endpoint({"url": URL}) for _ in range(4)]
        places = [f"spare-{number}" for number in range(4)]
        for place in places:
            client.create_connection({**CONNECTION, "name": place})
        line = {"source": {"connection": "models", "prefix": "dream-7b/"}}
        batches = [
            client.create_batch(
                json.dumps(
                    {
                        "custom_id": "a",
                        "body": line
                        | {"output": {"connection": "artifacts", "prefix": f"batch-{number}/"}},
                    }
                ).encode()
            )
            for number in range(4)
        ]
        replays = [
            client.create_replay(
                {
                    "artifact": {"connection": "artifacts", "prefix": f"made-{number}/"},
                    "source": line["source"],
                }
            )
            for number in (0, 3, 6)
        ]
    return {
        "jobs/job_id": jobs,
        "artifacts/name": ["manifest.json", "part-00000.arrow"],
        "connections/name": places,
        "batches/batch_id": [batch["id"] for batch in batches],
        "replays/job_id": [replay["id"] for replay in replays],
        "api_keys/key_id": [key["id"] for key in keys],
        "webhook_endpoints/endpoint_id": [hook["id"] for hook in hooks],
    }


@pytest.fixture
def finishing(target: Target, things: dict[str, list[str]]) -> Iterator[None]:
    """Every other job is brought to an end meanwhile, so that there are artifacts to ask for."""
    ended = threading.Event()
    worker = MiniWorker(target.deps)

    def work() -> None:
        seen = set(things["jobs/job_id"])
        while not ended.wait(0.2):
            queued = target.deps.ledger.list_jobs(JobQuery(TENANT, (JobState.QUEUED,)))
            for job in queued:
                replay = "replay" in job.resolved  # which ends with a verdict, not as other jobs do
                if job.id not in seen and not replay and len(seen) % 2 == 0:
                    try:
                        worker.finish(job.id)
                    except (ArrowQuantError, AssertionError):
                        pass  # cancelled in the meantime
                seen.add(job.id)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    ended.set()
    thread.join()


def test_nothing_that_openapi_yaml_allows_or_forbids_breaks_the_service(
    target: Target, things: dict[str, list[str]], finishing: None, tmp_path: Path
) -> None:
    log = tmp_path / "requests.jsonl"
    done = subprocess.run(
        [
            Path(sys.executable).with_name("st"),
            *("--config-file", HERE / "schemathesis.toml"),
            *("run", ROOT / "openapi.yaml", "--url", target.url),
            *("--header", f"Authorization: Bearer {target.key}"),
            *("--checks", "all", "--phases", ",".join(PHASES)),
            *("--max-examples", str(EXAMPLES), "--no-color"),
        ],
        env={
            **os.environ,
            "FUZZ_KEY_ID": target.key.split("_")[1],
            "FUZZ_LOG": str(log),
            "FUZZ_THINGS": json.dumps(things),
            "NO_PROXY": "127.0.0.1",
        },
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    _it_was_a_real_test([json.loads(line) for line in log.read_text().splitlines()])


def _it_was_a_real_test(requests: list[tuple[str, str, str, int]]) -> None:
    """Every operation was asked, rightly and wrongly; the answers were of every kind."""
    document = yaml.safe_load((ROOT / "openapi.yaml").read_text())
    answers: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for operation, _, mode, status in requests:
        answers[operation].add((mode, status))
    operations = {
        operation["operationId"]: (operation, method != "get" and "{" in path)
        for path, item in document["paths"].items()
        for method, operation in item.items()
    }
    assert operations.keys() <= answers.keys()
    assert {phase for _, phase, _, _ in requests} >= set(PHASES)
    for name, (operation, changes_one) in operations.items():
        statuses = {status for _, status in answers[name]}
        assert max(statuses) < 500 or name == "readyz", (name, statuses)
        if operation.get("security"):
            assert 401 in statuses, name
        if "application/json" in operation.get("requestBody", {}).get("content", {}):
            assert ("negative", 422) in answers[name], (name, answers[name])
        if not changes_one and name not in AT_THE_RIGHT_MOMENT:
            accepted = {status for mode, status in answers[name] if mode == "positive"}
            assert accepted & {200, 201, 202, 204, 307}, (name, answers[name])
