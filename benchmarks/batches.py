"""A batch of ten thousand jobs: how long until it is accepted, what the API's memory grows by, how long
a claim takes while all of them wait, and how long cancelling them takes. SQLite and PostgreSQL."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.context import Context, scratch
from benchmarks.results import Result

CLAIMS = 20


def run(context: Context) -> Result:
    """One record for each database."""
    result = context.result("batches")
    lines = 1_000 if context.quick else 10_000
    for name in ("sqlite", "postgresql"):
        try:
            with scratch("batches") as folder, database(name) as url:
                measured = measure(folder, url, lines)
        except Exception as error:  # noqa: BLE001 - kept and printed
            result.fail(name, f"{type(error).__name__}: {error}")
            continue
        seconds = measured.pop("seconds")
        result.add(name, {"database": name, "lines": lines}, **measured, seconds=seconds)
        print(f"  {name}: {seconds['ours'][0]:.1f} s, {measured}", flush=True)
    return result


@contextmanager
def database(name: str) -> Iterator[str]:
    """An empty database's address; nothing for SQLite's own file."""
    from tests.servers import PostgresServer

    if name == "sqlite":
        yield ""
        return
    with PostgresServer() as server:
        yield server.create_database()


def measure(folder: Path, url: str, lines: int) -> dict[str, Any]:
    """Upload, claim, cancel."""
    import arrowquant
    from service.settings import Settings
    from service.wiring import wire
    from tests import weights
    from tests.e2e.deployment import Api, make_key
    from workers.workshop import this_worker

    names = ("models", "artifacts")
    connections = {name: {"kind": "folder", "path": str(folder / name)} for name in names}
    (folder / "artifacts").mkdir()
    values = weights.bfloat16(weights.gaussian((64, 64), 1))
    weights.write(folder / "models" / "m" / "model.safetensors", {"a.weight": values})
    environment = {
        "ARROWQUANT_DATA_DIR": str(folder / "data"),
        "ARROWQUANT_CONNECTIONS": json.dumps(connections),
        "ARROWQUANT_LOG_FORMAT": "json",
    } | ({"ARROWQUANT_DATABASE_URL": url} if url else {})
    file = write_lines(folder / "jobs.jsonl", lines)
    key = make_key(environment)
    with Api(environment) as api, arrowquant.Client(api.url, key, timeout=300) as client:
        assert api._process is not None
        process = psutil.Process(api._process.pid)
        client.create_batch(write_lines(folder / "warm.jsonl", 10, "warm"))
        before = process.memory_info().rss
        began = time.monotonic()
        batch = client.create_batch(file)
        accepted = time.monotonic() - began
        assert batch["counts"]["queued"] == lines
        peak = peak_rss(process)
        deps = wire(
            Settings.load(
                data_dir=folder / "data", connections=connections, database_url=url or None
            )
        )
        claims = [timed(lambda: deps.ledger.claim(this_worker())) for _ in range(CLAIMS)]
        deps.close()
        began = time.monotonic()
        client.cancel_batch(batch["id"])
        while client.get_batch(batch["id"])["counts"]["queued"]:
            time.sleep(0.2)
        cancelled = time.monotonic() - began
    return {
        "seconds": {"ours": [accepted]},
        "body_bytes": file.stat().st_size,
        "rss_before_bytes": before,
        "peak_rss_bytes": peak,
        "rss_growth_bytes": max(0, peak - before),
        "claim_seconds": sorted(claims),
        "cancel_seconds": cancelled,
    }


def write_lines(path: Path, count: int, prefix: str = "out") -> Path:
    """A file of jobs."""
    with path.open("w") as file:
        for number in range(count):
            body = {
                "name": f"{prefix}-{number}",
                "labels": {"run": "night"},
                "source": {"connection": "models", "prefix": "m/"},
                "output": {"connection": "artifacts", "prefix": f"{prefix}/{number}/"},
            }
            file.write(json.dumps({"custom_id": f"{prefix}{number}", "body": body}) + "\n")
    return path


def timed(what: Any) -> float:
    began = time.monotonic()
    assert what() is not None
    return time.monotonic() - began


def peak_rss(process: psutil.Process) -> int:
    """As the kernel remembers it."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
