"""Build both images and run them for real, beside real servers; docs/operations.md says what came out.

    .venv/bin/python docker/try_images.py --output docker/measured.json
    .venv/bin/python docker/try_images.py --engine podman --build-option=--pull=never

PostgreSQL, Redis and an S3 server are the ones of the tests, on this machine's loopback, which the
containers share. Fails if an artifact does not verify, if a kernel had to be compiled, or if a
stopped worker did not finish what it had begun.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import arrowquant  # noqa: E402
from benchmarks import machine  # noqa: E402
from tests import weights  # noqa: E402
from tests.processes import free_port  # noqa: E402
from tests.servers import PostgresServer, RedisServer, S3Server  # noqa: E402

TENSORS, SHAPE = 16, (4096, 2048)
IMAGES = {name: f"localhost/arrowquant-{name}:measured" for name in ("api", "worker")}
CONFINED = (
    *("--network=host", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges"),
    *("--tmpfs=/tmp", "--tmpfs=/var/lib/arrowquant"),
)
KERNELS = "find /var/lib/arrowquant/numba -name '*.nbc' | wc -l"


class Engine:
    """Docker or podman."""

    def __init__(self, program: str, run_options: list[str]) -> None:
        self._program = program.split()
        self._run_options = run_options

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self._program, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            sys.exit(f"{arguments[0]} failed\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
        return done.stdout.strip()

    def run(self, image: str, *options: str, arguments: tuple[str, ...] = ()) -> str:
        """Start a container as a cluster would."""
        return self("run", *CONFINED, *self._run_options, *options, IMAGES[image], *arguments)

    def logged(self, name: str) -> list[dict[str, Any]]:
        """A container's log so far."""
        done = subprocess.run(
            [*self._program, "logs", name], capture_output=True, text=True, check=False
        )
        lines = (done.stdout + done.stderr).splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def wait_for(found: Callable[[], bool], seconds: float = 60) -> float:
    """How long it took."""
    started = time.monotonic()
    while not found():
        if time.monotonic() - started > seconds:
            sys.exit(f"nothing after {seconds} s")
        time.sleep(0.02)
    return round(time.monotonic() - started, 2)


def build(engine: Engine, options: list[str]) -> dict[str, Any]:
    """Build from nothing: the API, then what the worker needs beyond it."""
    found = {}
    for target, image in IMAGES.items():
        started = time.monotonic()
        cache = ["--no-cache"] if target == "api" else []
        dockerfile = str(ROOT / "docker" / "Dockerfile")
        engine(
            *("build", *options, *cache, "--file", dockerfile),
            *("--target", target, "--tag", image, str(ROOT)),
        )
        seconds = round(time.monotonic() - started)
        size = int(engine("image", "inspect", image, "--format", "{{.Size}}"))
        found[target] = {"build_s": seconds, "bytes": size}
    return found


def answers(url: str) -> bool:
    """Whether the API is up."""
    try:
        return httpx.get(f"{url}/healthz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def try_both(engine: Engine, servers: tuple[PostgresServer, RedisServer, S3Server]) -> Any:
    """Start both, run three jobs, stop the worker in the middle of a fourth."""
    postgres, redis, s3 = servers
    port, bucket = free_port(), s3.make_bucket()
    connection = {"kind": "s3", "bucket": bucket, "endpoint_url": s3.endpoint_url}
    connection |= {
        "region": s3.region,
        "access_key_id_env": "ID",
        "secret_access_key_env": "SECRET",
    }
    variables = {
        "ARROWQUANT_DATABASE_URL": postgres.create_database(),
        "ARROWQUANT_BROKER_URL": redis.url,
        "ARROWQUANT_CONNECTIONS": json.dumps({"models": connection, "artifacts": connection}),
        "ARROWQUANT_HOST": "127.0.0.1",
        "ARROWQUANT_PORT": str(port),
        "ID": s3.access_key,
        "SECRET": s3.secret_key,
    }
    env = [f"--env={name}={value}" for name, value in variables.items()]
    folder = Path(tempfile.mkdtemp())
    model = {
        f"blocks.{i}.mlp.fc1.weight": weights.bfloat16(weights.gaussian(SHAPE, i))
        for i in range(TENSORS)
    }
    s3.client().upload_file(str(weights.write(folder / "m", model)), bucket, "in/m.safetensors")
    engine.run("api", "--rm", *env, arguments=("migrate",))
    made = ("keys", "create", "--tenant", "t", "--name", "n")
    key = engine.run("api", "--rm", *env, arguments=made)
    url = f"http://127.0.0.1:{port}"
    found: dict[str, Any] = {}
    started = time.monotonic()
    engine.run("api", "--detach", "--name", "aq-try-api", *env)
    wait_for(lambda: answers(url))
    found["api_start_s"] = round(time.monotonic() - started, 2)
    started = time.monotonic()
    engine.run("worker", "--detach", "--name", "aq-try-worker", *env)
    wait_for(lambda: any(e["event"] == "workshop_open" for e in engine.logged("aq-try-worker")))
    found["worker_start_s"] = round(time.monotonic() - started, 2)
    with arrowquant.Client(url, key) as client:
        found |= three_jobs(engine, client, folder)
        found["drain"] = drain(engine, client)
    started = time.monotonic()
    engine("stop", "--time", "30", "aq-try-api")
    found["api_stop_s"] = round(time.monotonic() - started, 2)
    return found


def submit(client: arrowquant.Client, name: str, bits: int) -> str:
    """A job on the model."""
    source = {"connection": "models", "prefix": "in/"}
    output = {"connection": "artifacts", "prefix": f"{name}/"}
    recipe = {"bits": bits, "group_size": 64}
    return str(client.submit({"source": source, "output": output, "recipe": recipe})["id"])


def three_jobs(engine: Engine, client: arrowquant.Client, folder: Path) -> dict[str, Any]:
    """One for each width, with the kernels counted before and after."""
    before = int(engine("exec", "aq-try-worker", "sh", "-c", KERNELS))
    jobs = {}
    for bits in (4, 2, 8):
        started = time.monotonic()
        job_id = submit(client, f"out{bits}", bits)
        client.wait(job_id, timeout=300)
        jobs[f"{bits}_bits_s"] = round(time.monotonic() - started, 2)
        client.download(job_id, folder / f"out{bits}")
        with arrowquant.open(folder / f"out{bits}") as artifact:
            assert artifact.verify().ok
    after = int(engine("exec", "aq-try-worker", "sh", "-c", KERNELS))
    assert before == after > 0, f"{before} kernels from the image, {after} after three jobs"
    usage = ("stats", "--no-stream", "--format", "{{.MemUsage}}")
    memory = {n: engine(*usage, f"aq-try-{n}").partition(" ")[0] for n in ("api", "worker")}
    source = TENSORS * SHAPE[0] * SHAPE[1] * 2
    return {"source_bytes": source, "jobs": jobs, "kernels": after, "memory": memory}


def drain(engine: Engine, client: arrowquant.Client) -> dict[str, Any]:
    """Stop the worker while it has a unit; the unit is finished and none is begun."""
    job_id = submit(client, "drained", 4)

    def events(name: str) -> int:
        return sum(
            line["event"] == name and line.get("job_id") == job_id
            for line in engine.logged("aq-try-worker")
        )

    wait_for(lambda: events("unit_claimed") > 1)  # the first one plans
    started = time.monotonic()
    engine("stop", "--time", "120", "aq-try-worker")
    seconds = round(time.monotonic() - started, 2)
    code = int(engine("inspect", "aq-try-worker", "--format", "{{.State.ExitCode}}"))
    claimed, done = events("unit_claimed"), events("unit_done")
    assert (code, claimed) == (0, done), (code, claimed, done)
    engine("start", "aq-try-worker")
    client.wait(job_id, timeout=300)
    return {"stop_s": seconds, "exit_code": code, "units_begun": claimed, "units_finished": done}


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engine", default="docker")
    parser.add_argument("--build-option", action="append", default=[])
    parser.add_argument("--run-option", action="append", default=[])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    for name in [name for name in os.environ if name.startswith(("ARROWQUANT_", "AWS_"))]:
        del os.environ[name]
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    engine = Engine(options.engine, options.run_option)
    measured = {"machine": machine.describe(), "engine": engine("--version")}
    measured["images"] = build(engine, options.build_option)
    try:
        with PostgresServer() as postgres, RedisServer() as redis, S3Server() as s3:
            measured["run"] = try_both(engine, (postgres, redis, s3))
    finally:
        for name in ("aq-try-api", "aq-try-worker"):
            subprocess.run([*options.engine.split(), "rm", "--force", name], check=False)
    text = json.dumps(measured, indent=2) + "\n"
    sys.stdout.write(text)
    if options.output:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
