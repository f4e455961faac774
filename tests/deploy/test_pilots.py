"""Pilots for Slurm and Kubernetes: the files are valid, and their options are the program's own."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

from tests.deploy.chart import run
from tests.deploy.test_chart import CHART, VALIDATE
from workers import __main__ as program

MANIFESTS = ("job", "kueue")


@pytest.fixture(scope="module")
def script(root: Path) -> Path:
    return root / "docs" / "cluster" / "arrowquant-pilot.sbatch"


def manifest(root: Path, name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(
        (root / "helm" / "examples" / "pilots" / f"{name}.yaml").read_text()
    )
    return loaded


@pytest.fixture(scope="module")
def options() -> set[str]:
    """What `python -m workers` takes."""
    return {name for one in get_command(program.app).params for name in one.opts}


def test_the_script_is_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_script_uses_options_that_there_are(script: Path, options: set[str]) -> None:
    lines = [line for line in script.read_text().splitlines() if not line.startswith("#")]
    used = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", "\n".join(lines)))
    assert used >= {"--drain", "--exit-when-idle", "--max-time"}
    assert used <= options


def test_the_script_asks_slurm_for_what_pilots_need(script: Path) -> None:
    asked = re.findall(r"^#SBATCH (--[\w-]+)", script.read_text(), re.MULTILINE)
    wanted = {"--array", "--cpus-per-task", "--mem", "--time", "--signal", "--requeue"}
    assert wanted <= set(asked)


FAKE = """#!/bin/bash
trap 'echo told; exit 75' TERM
echo "$@ threads=$ARROWQUANT_THREADS memory=$ARROWQUANT_MAX_MEMORY_BYTES"
kill -TERM "$PPID"
while true; do sleep 0.05; done
"""


def test_a_signal_reaches_the_pilot_and_75_queues_it_again(script: Path, tmp_path: Path) -> None:
    """With a pilot and a scontrol that only say what they were asked."""
    for name, text in (("pilot", FAKE), ("scontrol", '#!/bin/bash\necho "scontrol $@"\n')):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(script)],
        env=os.environ
        | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "ARROWQUANT_PYTHON": str(tmp_path / "pilot"),
            "ARROWQUANT_MAX_TIME": "600",
            "SLURM_JOB_ID": "17",
            "SLURM_CPUS_PER_TASK": "6",
            "SLURM_MEM_PER_NODE": "4096",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 75, done.stderr
    assert done.stdout.splitlines() == [
        "-m workers --drain --exit-when-idle 60 --max-time 600 threads=6 memory=3796MiB",
        "told",
        "scontrol requeue 17",
    ]


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_job_s_options_and_exit_codes_are_the_program_s(
    root: Path, options: set[str], name: str
) -> None:
    spec = manifest(root, name)["spec"]
    [container] = spec["template"]["spec"]["containers"]
    assert {word for word in container["args"] if word.startswith("--")} <= options
    told = container["args"]
    assert int(told[told.index("--max-time") + 1]) < spec["activeDeadlineSeconds"]
    codes = {
        tuple(rule["onExitCodes"]["values"]): rule["action"]
        for rule in spec["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert codes == {(program.EXIT_STOPPED,): "Ignore", (program.EXIT_USAGE,): "FailJob"}
    assert spec["template"]["spec"]["restartPolicy"] == "Never"


def test_kueue_s_job_waits_in_a_queue(root: Path) -> None:
    plain, queued = manifest(root, "job"), manifest(root, "kueue")
    assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "arrowquant"
    assert queued["spec"].pop("suspend") is True
    assert queued["spec"] == plain["spec"]


def test_what_they_name_is_in_the_chart(root: Path, helm: Path) -> None:
    """Under a release called arrowquant."""
    text = run(helm, "template", "arrowquant", str(CHART), "--namespace", "ns")
    objects = [one for one in yaml.safe_load_all(text) if one]
    there = {(one["kind"], one["metadata"]["name"]) for one in objects}
    pod = manifest(root, "job")["spec"]["template"]["spec"]
    assert ("ServiceAccount", pod["serviceAccountName"]) in there
    for one in pod["containers"][0]["envFrom"]:
        assert ("ConfigMap", one["configMapRef"]["name"]) in there
    [deployment] = [
        one
        for one in objects
        if one["kind"] == "Deployment" and one["metadata"]["name"].endswith("-worker")
    ]
    [worker] = deployment["spec"]["template"]["spec"]["containers"]
    mine, workers = (
        {one["name"]: one["valueFrom"] for one in each["env"] if "valueFrom" in one}
        for each in (pod["containers"][0], worker)
    )
    del workers["ARROWQUANT_BROKER_URL"]  # a pilot needs no bell
    assert mine.keys() == workers.keys()
    for name in ("ARROWQUANT_DATABASE_URL", "ARROWQUANT_SECRET_KEYS"):
        assert mine[name] == workers[name]


def test_they_are_valid_kubernetes(root: Path, checkers: Path) -> None:
    """From 1.31 on, which made pod failure policies stable."""
    manifests = [manifest(root, name) for name in MANIFESTS]
    done = subprocess.run(
        [str(checkers / "python"), "-c", VALIDATE, "1.31", "1.34", "1.37"],
        input=json.dumps(manifests),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) == 3 * len(manifests)
