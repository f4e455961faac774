"""Whole jobs, as processes: `arrowquant quantize` against two others.

    move    a bare mover: the same bytes in, as many out, nothing between
    batch   the load-it-all way with the same kernels, where it fits into half of this memory;
            from folder to folder only
    without ours with a part switched off (see benchmarks/without.py); from bucket to bucket only, where reads
            take long, and not of the largest model

For every size of model, every job: wall time, processor time and peak memory of each process. `run`
goes from folder to folder, `run_s3` from bucket to bucket of a server on this machine.

    python -m benchmarks.pipeline --model-size 7B [--s3]
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.context import Context, scratch
from benchmarks.methods import BY_NAME
from benchmarks.results import Result
from benchmarks.synthetic import model_pieces, transformer, write_model
from benchmarks.timing import clean, interleave

if TYPE_CHECKING:
    from tests.servers import S3Server

ROOT = Path(__file__).parents[1]
MODEL = "model.safetensors"
# What a job from bucket to bucket is raced without, and its part's name in benchmarks/without.py.
SWITCHED_OFF = {"no overlap": "overlap", "one read at a time": "parallel"}
MOST_ROUNDS_OF_LARGEST = 3  # they take minutes each, and their ratios hardly differ


@dataclass(frozen=True, slots=True)
class Job:
    """What is asked of the command, and whether the largest model is worth it."""

    method: str
    bits: int
    group: int
    large: bool = False

    def name(self, size: str) -> str:
        return f"{size} {self.method} {self.bits} bits G{self.group}"

    def labels(self, size: str) -> dict[str, Any]:
        return {"size": size, "method": self.method, "bits": self.bits, "group": self.group}

    def options(self) -> list[str]:
        """For `arrowquant quantize`."""
        options = ["--bits", str(self.bits), "--group-size", str(self.group)]
        return [*options, "--method", self.method]


JOBS = (
    Job("minmax", 8, 64),
    Job("minmax", 4, 64, large=True),
    Job("minmax", 2, 64),
    Job("lsq", 4, 64, large=True),
    Job("lsq", 2, 64),
    Job("superblock", 4, 32),
    Job("superblock", 2, 16, large=True),
)


def jobs(context: Context, size: str) -> Iterator[Job]:
    """Those of a size; of the largest only what we hold ourselves to, as each takes minutes."""
    for job in JOBS:
        if context.wants(job.bits) and (job.large or size != "7B"):
            yield job


class Process:
    """A command whose runs are measured from outside."""

    def __init__(self, folder: Path, command: list[str], environment: dict[str, str]) -> None:
        self._folder, self._command, self._environment = folder, command, environment
        self.runs: list[dict[str, Any]] = []

    def __call__(self, bucket: str = "") -> float:
        """bucket: takes the place of {bucket} in the command"""
        note, log = self._folder / "peak.json", self._folder / "output.log"
        command = [word.replace("{bucket}", bucket) for word in self._command]
        with log.open("wb") as output:
            subprocess.run(
                [sys.executable, "-m", "benchmarks.peak", str(note), *command],
                cwd=ROOT,
                env=os.environ | self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=True,
            )
        measured: dict[str, Any] = json.loads(note.read_text())
        if measured.pop("status"):
            raise RuntimeError(clean(log.read_text(errors="replace")[-1000:]))
        self.runs.append(measured)
        return float(measured["seconds"])


@dataclass(frozen=True, slots=True)
class Model:
    """A model that is there, and what surrounds it."""

    size: str
    weights: int
    nbytes: int
    folder: Path


def run(context: Context) -> Result:
    """Folder to folder, every size that was asked for."""
    result = context.result("pipeline")
    for size in context.sizes:
        shapes = transformer(size)
        weights = sum(prod(shape) for shape in shapes.values())
        with scratch("pipeline") as folder:
            _need_space(folder, 4 * weights)
            print(f"  {size}: writing the model", flush=True)
            path = write_model(folder / "model" / MODEL, shapes)
            model = Model(size, weights, path.stat().st_size, folder)
            for job in jobs(context, size):
                _race(context, result, model, job, _folders(model, job, result.machine))
    return result


def run_s3(context: Context) -> Result:
    """Bucket to bucket, every size that was asked for."""
    # The tests' server: real, and started and stopped here.
    from tests.servers import S3Server

    result = context.result("pipeline_s3")
    for size in context.sizes:
        shapes = transformer(size)
        weights = sum(prod(shape) for shape in shapes.values())
        with scratch("pipeline-s3") as folder, S3Server() as server:
            _need_space(folder, 5 * weights)
            print(f"  {size}: writing the model", flush=True)
            source = server.make_bucket()
            nbytes = _upload(server, source, shapes)
            model = Model(size, weights, nbytes, folder)
            for job in jobs(context, size):
                _race(context, result, model, job, _buckets(model, job, server, source))
    return result


def _need_space(folder: Path, nbytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise OSError(f"{folder.parent} has {free} bytes free, {nbytes} are needed")


Contestant = tuple[Process, Callable[[], float]]
# What runs, given how large the artifact is; it is not known before ours has run once. That is `first`,
# which may take the memory that compiling takes.
Field = Callable[[int], dict[str, Contestant]]


def _race(context: Context, result: Result, model: Model, job: Job, field: Field) -> None:
    name = job.name(model.size)
    print(f"  {name}", flush=True)
    _, first = field(0)["first"]
    try:
        first()  # compiles, brings the model into the page cache, and says how large the artifact is
    except Exception as error:  # noqa: BLE001 - kept and printed
        result.fail(name, f"{type(error).__name__}: {error}")
        return
    totals = json.loads((model.folder / "output.log").read_text())["totals"]
    contestants = field(totals["artifact_bytes"])
    del contestants["first"]
    # What `first` has not done already: the load-it-all way compiles in its first round.
    warm_up = "batch" in contestants
    rounds = context.rounds if model.size != "7B" else min(context.rounds, MOST_ROUNDS_OF_LARGEST)
    done = interleave(
        {key: race for key, (_, race) in contestants.items()}, rounds, warm_up=warm_up
    )
    for contestant, failure in done.errors.items():
        result.fail(f"{name}: {contestant}", failure)
    result.add(
        name,
        job.labels(model.size),
        weights=model.weights,
        source_bytes=model.nbytes,
        artifact_bytes=totals["artifact_bytes"],
        bits_per_weight=totals["bits_per_weight"],
        # A round that is not among the seconds is not among these either.
        processes={key: process.runs[warm_up:] for key, (process, _) in contestants.items()},
        seconds=done.seconds,
    )


def _folders(model: Model, job: Job, machine: dict[str, Any]) -> Field:
    folder, source = model.folder, model.folder / "model"
    target = str(folder / "target")

    def field(artifact_bytes: int) -> dict[str, Contestant]:
        found = {
            "first": _ours(model, job, str(source), str(folder / "out"), {}, ()),
            "ours": _ours(model, job, str(source), str(folder / "out"), {}),
            "move": _module(
                folder, ["benchmarks.mover", str(source), target, str(artifact_bytes)], {}
            ),
        }
        # Of the largest it is known that it needs the whole source at the least.
        if 3 * model.weights < 0.5 * machine["memory_bytes"] and job.method in BY_NAME:
            words = [str(source / MODEL), target, job.method, str(job.bits), str(job.group)]
            found["batch"] = _module(folder, ["benchmarks.batch", *words], _cache(folder))
        return {key: (process, process) for key, process in found.items()}

    return field


def _buckets(model: Model, job: Job, server: S3Server, source: str) -> Field:
    account = server.client_environment

    def afresh(process: Process) -> Contestant:
        """To a bucket of its own, which is gone afterwards with all that it took on the disk."""

        def race() -> float:
            bucket = server.make_bucket()
            try:
                return process(bucket)
            finally:
                server.drop_bucket(bucket)

        return process, race

    def field(artifact_bytes: int) -> dict[str, Contestant]:
        words = [f"s3://{source}/{MODEL}", "s3://{bucket}/target", str(artifact_bytes)]
        places = f"s3://{source}/", "s3://{bucket}/out"
        found = {
            "first": _ours(model, job, *places, account, ()),
            "ours": _ours(model, job, *places, account),
            "move": _module(model.folder, ["benchmarks.mover", *words], account),
        }
        if model.size != "7B":
            for name, part in SWITCHED_OFF.items():
                found[name] = _ours(model, job, *places, account, without=part)
        return {key: afresh(process) for key, process in found.items()}

    return field


def _upload(server: S3Server, bucket: str, shapes: dict[str, tuple[int, int]]) -> int:
    """Write a model to a bucket; its bytes."""
    from service.adapters.objects import S3Store

    store = S3Store(server.client, bucket)
    upload = store.create(MODEL)
    try:
        for piece in model_pieces(shapes):
            upload.write(piece)
        return upload.complete().size
    except BaseException:
        upload.abort()
        raise
    finally:
        store.close()


def _cache(folder: Path) -> dict[str, str]:
    return {"NUMBA_CACHE_DIR": str(folder / "numba")}


def _module(folder: Path, words: list[str], environment: dict[str, str]) -> Process:
    return Process(folder, [sys.executable, "-m", *words], environment)


def _ours(
    model: Model,
    job: Job,
    source: str,
    target: str,
    account: dict[str, str],
    limits: tuple[str, ...] = ("--max-memory", "500MiB"),
    without: str | None = None,
) -> Process:
    program = [str(Path(sys.executable).with_name("arrowquant"))]
    if without:
        program = [sys.executable, "-m", "benchmarks.without", without]
    command = [*program, "quantize", source, target, "--replace", "--json", *job.options()]
    command += ["--no-fallback", *limits]
    data = {"ARROWQUANT_DATA_DIR": str(model.folder / "data")}
    return Process(model.folder, command, data | _cache(model.folder) | account)


if __name__ == "__main__":
    from benchmarks.__main__ import alone

    alone("pipeline", s3=("pipeline_s3",))
