"""Run pilots under a real Slurm on this machine: `make try-slurm`, as root, with Debian's packages.

A cluster of one node in a temporary folder: munged, slurmctld and slurmd as private processes, without
accounting and without cgroups. Jobs go into PostgreSQL, an array of the script in docs/cluster works
them off, and one task is requeued in the middle. What came of it is written to
docs/cluster/slurm-try.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests import weights  # noqa: E402
from tests.processes import free_port  # noqa: E402
from tests.servers import PostgresServer  # noqa: E402

SCRIPT = ROOT / "docs" / "cluster" / "arrowquant-pilot.sbatch"
RESULT = SCRIPT.with_name("slurm-try.json")
JOBS, TASKS = 40, 2
PROGRAMS = ("munged", "mungekey", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol")


def main() -> int:
    """Try it; the exit status."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing or os.getuid() != 0:
        print(f"needs root and: {', '.join(missing) or 'nothing more'}", file=sys.stderr)
        print("apt-get install --no-install-recommends slurmctld slurmd slurm-client munge")
        return 2
    folder = Path(tempfile.mkdtemp(prefix="arrowquant-slurm-"))
    folder.chmod(0o755)
    try:
        with PostgresServer() as postgres, cluster(folder) as slurm:
            outcome = run(folder, postgres.create_database(), slurm)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    RESULT.write_text(json.dumps(outcome, indent=1) + "\n")
    print(json.dumps(outcome, indent=1))
    return 0 if outcome["succeeded"] == outcome["jobs"] else 1


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Munge, controller and node; the environment in which Slurm's commands find them."""
    host = socket.gethostname().split(".")[0]
    config = folder / "slurm.conf"
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    munge = folder / "munge"
    munge.mkdir(mode=0o755)
    key, sock = munge / "munge.key", munge / "munge.socket"
    subprocess.run(["mungekey", "--create", f"--keyfile={key}"], check=True)
    config.write_text(
        f"""ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={sock}
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
SchedulerParameters=bf_interval=1,sched_interval=1
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
    )
    environment = {"SLURM_CONF": str(config)}
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={sock}",
         f"--pid-file={munge}/munged.pid", f"--log-file={munge}/munged.log",
         f"--seed-file={munge}/munged.seed"],
        ["slurmctld", "-D", "-f", str(config)],
        ["slurmd", "-D", "-f", str(config)],
    ]  # fmt: skip
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for command in commands:
            processes.append(
                subprocess.Popen(
                    command,
                    env=os.environ | environment,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            )
            time.sleep(1)
        wait_until(lambda: "idle" in said(["sinfo", "-h", "-o", "%T"], environment), 60)
        yield environment
    except BaseException:
        for name in ("slurmctld.log", "slurmd.log"):
            if (folder / name).exists():
                print((folder / name).read_text()[-3000:], file=sys.stderr)
        raise
    finally:
        subprocess.run(["scancel", "--me"], env=os.environ | environment, check=False)
        for process in reversed(processes):
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()


def run(folder: Path, database: str, slurm: Mapping[str, str]) -> dict[str, Any]:
    """Submit jobs, then an array; requeue a task; what came of all of it."""
    from service.adapters.sql import SqlLedger, make_engine, migrate
    from service.adapters.system_clock import SystemClock
    from service.domain.job import JobState
    from service.domain.ports import JobQuery

    models, artifacts = folder / "models", folder / "artifacts"
    shapes = {f"blocks.{i}.weight": (2048, 2048) for i in range(4)}
    weights.write(
        models / "m" / "model.safetensors",
        {n: weights.bfloat16(weights.gaussian(s, i)) for i, (n, s) in enumerate(shapes.items())},
    )
    artifacts.mkdir()
    connections = {
        name: {"kind": "folder", "path": str(path)}
        for name, path in (("models", models), ("artifacts", artifacts))
    }
    settings = folder / "environment"
    settings.write_text(
        f"ARROWQUANT_DATABASE_URL='{database}'\n"
        f"ARROWQUANT_CONNECTIONS='{json.dumps(connections)}'\n"
        f"ARROWQUANT_PYTHON='{sys.executable}'\nPYTHONPATH='{ROOT}'\n"
        f"ARROWQUANT_LOG_FORMAT=json\nARROWQUANT_EXIT_WHEN_IDLE=3\n"
        f"ARROWQUANT_DATA_DIR='{folder}/data'\n"
    )
    settings.chmod(0o600)
    migrate(database)
    engine, clock = make_engine(database), SystemClock()
    ledger = SqlLedger(engine, clock)
    submit(ledger)
    log = folder / "pilot-%a.log"
    began = time.monotonic()
    answer = subprocess.run(
        ["sbatch", "--parsable", f"--array=0-{TASKS - 1}", "--cpus-per-task=1", "--mem=0",
         f"--output={log}", f"--chdir={ROOT}", str(SCRIPT)],
        env=os.environ | slurm | {"ARROWQUANT_ENV_FILE": str(settings)},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    array = answer.stdout.strip()

    def count(state: JobState) -> int:
        return len(ledger.list_jobs(JobQuery("acme", (state,), limit=1000)))

    first = folder / "pilot-0.log"
    wait_until(lambda: first.exists() and '"unit": "quantize' in first.read_text(), 120)
    before = count(JobState.SUCCEEDED)
    subprocess.run(["scontrol", "requeue", f"{array}_0"], env=os.environ | slurm, check=True)
    wait_until(lambda: count(JobState.SUCCEEDED) == JOBS, 600)
    seconds = time.monotonic() - began
    # A requeued task waits before it may start again, however short the rest is.
    wait_until(lambda: not said(["squeue", "-h"], slurm).strip(), 400)
    lines = {path.name: events(path) for path in sorted(folder.glob("pilot-*.log"))}
    engine.dispose()
    parts = [len(list(out.glob("*.arrow"))) for out in artifacts.iterdir()]
    return {
        "what": "docs/cluster/arrowquant-pilot.sbatch under slurmctld and slurmd, one node, no cgroups",
        "slurm": said(["sbatch", "--version"], slurm).strip(),
        "cpus": os.cpu_count(),
        "jobs": JOBS,
        "array_tasks": TASKS,
        "succeeded": count(JobState.SUCCEEDED),
        "succeeded_before_the_requeue": before,
        "seconds_to_the_last_job": round(seconds, 1),
        "artifacts": len(parts),
        "logs": {name: dict(Counter(found)) for name, found in lines.items()},
    }


def submit(ledger: Any) -> None:
    """Forty small jobs."""
    from service.domain.spec import JobRequest
    from service.usecases.submit import new_job

    for number in range(JOBS):
        request = JobRequest.model_validate(
            {
                "source": {"connection": "models", "prefix": "m/"},
                "output": {"connection": "artifacts", "prefix": f"out-{number}/"},
            }
        )
        ledger.create_job(new_job(request, "acme", "artifacts"))


def events(path: Path) -> list[str]:
    """Names of the events of a pilot's log."""
    found = []
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(ValueError):
            found.append(str(json.loads(line).get("event")))
    return found


def said(command: list[str], environment: Mapping[str, str]) -> str:
    """What a command of Slurm prints, or nothing if it fails."""
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    return done.stdout


def wait_until(true: Any, seconds: float) -> None:
    """Look until it is so. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"not so after {seconds:g} s")
        time.sleep(0.3)


if __name__ == "__main__":
    sys.exit(main())
