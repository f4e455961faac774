"""Peak memory of whole jobs on a 4 GB model with a 1 GB tensor, as the kernel accounts for it.

    python -m benchmarks.memory [--output-dir DIR] [--s3]

Two forms: `arrowquant quantize --max-memory 500MiB` on a folder (peak RSS of that process, from
getrusage) and, with --s3, the same through an S3 server, API and Celery worker (VmHWM of the worker's
pool process). Beside each, what the model weighs and how long it took; beside the first, what the
load-it-all way takes for the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.context import Context, scratch
from benchmarks.results import Result
from benchmarks.synthetic import four_gigabytes, write_model

CAP = 500 * 2**20


def quantize_folder(model: Path, folder: Path) -> dict[str, Any]:
    """Peak RSS and time of the one-shot command."""
    program = Path(sys.executable).with_name("arrowquant")
    command = [str(program), "quantize", str(model), str(folder / "out")]
    command += ["--bits", "4", "--group-size", "64", "--max-memory", "500MiB", "--json"]
    note = folder / "peak.json"
    with (folder / "summary.json").open("wb") as output:
        subprocess.run(
            [sys.executable, "-m", "benchmarks.peak", str(note), *command],
            stdout=output,
            env=os.environ | {"ARROWQUANT_DATA_DIR": str(folder / "data")},
            check=True,
        )
    measured = json.loads(note.read_text())
    if measured["status"] != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {measured['status']}")
    summary = json.loads((folder / "summary.json").read_text())
    return _result("folder", summary, measured["peak_rss_bytes"], measured["seconds"])


def quantize_through_s3(model: Path, folder: Path) -> dict[str, Any]:
    """Peak RSS of the worker's pool process for the same job over HTTP and S3."""
    # The tests' servers: a benchmark of the service needs the same real parts.
    import arrowquant
    from tests.e2e.deployment import Api, Worker, make_key, s3_connections
    from tests.servers import RedisServer, S3Server

    with S3Server() as s3, RedisServer() as redis:
        bucket = s3.make_bucket()
        s3.client().upload_file(str(model), bucket, "in/model.safetensors")
        environment = s3_connections(s3, {"models": bucket, "artifacts": bucket}) | {
            "ARROWQUANT_DATA_DIR": str(folder / "service"),
            "ARROWQUANT_BROKER_URL": redis.url,
            "ARROWQUANT_LOG_FORMAT": "json",
        }
        key = make_key(environment)
        with Api(environment) as api, Worker(environment) as worker:
            began = time.monotonic()
            with arrowquant.Client(api.url, key) as client:
                job = client.submit(
                    {
                        "source": {"connection": "models", "prefix": "in/"},
                        "output": {"connection": "artifacts", "prefix": "out/"},
                        "recipe": {"bits": 4, "group_size": 64},
                        "limits": {"max_memory_bytes": CAP},
                    }
                )
                done = client.wait(job["id"], timeout=1800)
            seconds = time.monotonic() - began
            peak = max(_peak_rss(child) for child in worker.pool())
    return _result("s3", done["summary"] or {}, peak, seconds)


def run(context: Context) -> Result:
    """Both forms as records, the way the other benchmarks keep them."""
    result = context.result("memory")
    with scratch("memory") as folder:
        print("  writing the model", flush=True)
        model = write_model(folder / "model.safetensors", four_gigabytes())
        forms = {"folder": quantize_folder}
        if context.s3:
            forms["s3"] = quantize_through_s3
        for form, quantize in forms.items():
            try:
                measured = quantize(model, folder)
                if form == "folder":
                    measured["load_it_all_peak_rss_bytes"] = _load_it_all(model, folder)
            except Exception as error:  # noqa: BLE001 - kept and printed
                result.fail(form, f"{type(error).__name__}: {error}")
                continue
            seconds = measured.pop("seconds")
            result.add(form, {"form": form}, **measured, seconds={"ours": [seconds]})
            print(f"  {form}", flush=True)
    return result


def _load_it_all(model: Path, folder: Path) -> int:
    """Peak RSS of reading the whole checkpoint, then quantizing it, then writing."""
    note = folder / "batch.json"
    command = ["-m", "benchmarks.batch", str(model), str(folder / "batch"), "lsq", "4", "64"]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.peak", str(note), sys.executable, *command], check=True
    )
    measured = json.loads(note.read_text())
    if measured["status"] != 0:
        raise RuntimeError(f"the load-it-all way ended with {measured['status']}")
    return int(measured["peak_rss_bytes"])


def _peak_rss(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _result(form: str, summary: dict[str, Any], peak: int, seconds: float) -> dict[str, Any]:
    totals = summary["totals"]
    return {
        "form": form,
        "peak_rss_bytes": peak,
        "cap_bytes": CAP,
        "source_bytes": totals["source_bytes"],
        "artifact_bytes": totals["artifact_bytes"],
        "bits_per_weight": totals["bits_per_weight"],
        "seconds": round(seconds, 2),
        "weights_per_second": round(totals["parameters"] / seconds),
    }


if __name__ == "__main__":
    from benchmarks.__main__ import alone

    alone("memory")
