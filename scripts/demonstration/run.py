"""The demonstration from start to end."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from arrowquant.errors import ArrowQuantError
from scripts.demonstration import jobs, show
from scripts.demonstration.jobs import WIDTHS, Made
from scripts.demonstration.measure import Bench, Row
from scripts.demonstration.processes import Failed
from scripts.demonstration.service import Service
from scripts.demonstration.store import MODELS, Store

RESULT = "result.json"
# What a run makes in its folder and the next one replaces. Compiled kernels stay (numba/).
OURS = ("store", "server", "artifacts", RESULT, "store.log", "server.log")


def run(folder: Path, model: Path, console: Console, *, keep: bool = False) -> None:
    """Do it all in a folder. Raises Failed, or ArrowQuantError of an artifact that cannot be read.

    Every program that it starts has ended when it returns or raises.
    model  the folder with model.safetensors, config.json and tokenizer.json
    keep   leave the service up at the end until interrupted
    """
    started = time.monotonic()
    isolate()
    with lock(folder):
        for name in OURS:
            remove(folder / name)
        with ExitStack() as programs:
            service, made = serve_and_make(programs, model, folder, console)
            bench = Bench(model)
            rows = measure(bench, made, console)
            source_bytes = made[0].job["summary"]["totals"]["source_bytes"]
            result = {
                "model": {"name": bench.source.parent.parent.name, "source_bytes": source_bytes},
                "sentences": len(bench.sentences.texts),
                "paraphrase_original": bench.paraphrase,
                "compiled": service.compiles,
                "widths": [row.as_dict() for row in rows],
                "seconds": round(time.monotonic() - started, 1),
                "machine": machine(),
            }
            text = json.dumps(result, indent=2) + "\n"
            (folder / RESULT).write_text(text, encoding="utf-8")
            show.result(console, rows, source_bytes, bench.paraphrase, compiled=service.compiles)
            show.where_next(console, [one.folder for one in made], bench.source, folder / RESULT)
            if keep:
                show.stay(console, service.url, service.key)
                threading.Event().wait()
    console.print(f"\nDone in {time.monotonic() - started:.0f} s; all is stopped.", highlight=False)


def serve_and_make(
    programs: ExitStack, model: Path, folder: Path, console: Console
) -> tuple[Service, list[Made]]:
    """Start the store and the service, put the model into the one and three jobs to the other."""
    store = Store(folder / "store")
    programs.callback(store.discard)
    programs.enter_context(store.program(folder))
    store.upload(model / "model.safetensors", MODELS, f"{jobs.PREFIX}/model.safetensors")
    console.print(f"Object store: SeaweedFS on {store.url}, with the model in it", highlight=False)
    service = Service(folder / "server", store)
    server = programs.enter_context(service.program(folder))
    console.print(f"Service:      `arrowquant serve` on {service.url}\n", highlight=False)
    client = programs.enter_context(service.client())
    try:
        made = [jobs.make(client, width, folder / "artifacts", console) for width in WIDTHS]
    except ArrowQuantError as error:
        raise server.failed(str(error)) from error
    return service, made


def measure(bench: Bench, made: Sequence[Made], console: Console) -> list[Row]:
    """Check every artifact and put it to use. Raises Failed if one is not good enough."""
    console.print("\nVerified, by every digest and against the source:")
    rows = []
    with ThreadPoolExecutor(2) as pool:
        for one, row in zip(made, pool.map(bench.row, made), strict=True):
            console.print(
                f"  {one.width.name}: {row.tensors} tensors, none missing", highlight=False
            )
            rows.append(row)
    return rows


def machine() -> dict[str, Any]:
    """What it was measured on."""
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg(),
        "memory_bytes": psutil.virtual_memory().total,
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("arrowquant", "numba", "numpy", "pyarrow")},
    }


def isolate() -> None:
    """Forget the caller's own servers, keys and proxies: this talks to this machine only."""
    for name in list(os.environ):
        if name.startswith(("ARROWQUANT_", "AWS_")):
            del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Hold the folder against a second run. Raises Failed."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failed(f"another demonstration runs in {folder}") from None
        yield


def remove(path: Path) -> None:
    """A file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
