"""Start a worker in a container: put the image's kernels where Numba looks, then become Celery, or
a pilot (`python -m workers`) if the first argument is --drain.

The compiled kernels of the image are read-only, and Numba uses no folder that it cannot write to.
So they are copied (a few MB) to the writable folder on which `workers.kernel_cache` decides, and
the processor that they are made for is named to Numba. On a host that lacks its instructions, or
with NUMBA_CPU_NAME=native, kernels are compiled for the host at their first use instead.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from pathlib import Path

IMAGE = Path("/opt/kernels")
# One unit at a time in one child: a unit uses all the threads it was given.
CELERY = (
    *("-m", "celery", "-A", "workers.celery_app", "worker"),
    *("--pool", "prefork", "--concurrency", "1"),
    *("--without-gossip", "--without-mingle", "--hostname", "worker@%h"),
)


PILOT = ("-m", "workers")


def main() -> None:
    """Prepare, then give this process to the worker, which gets the signals."""
    _choose_kernels()
    program = PILOT if sys.argv[1:2] == ["--drain"] else CELERY
    command = [sys.executable, *program, *sys.argv[1:]]
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


def _choose_kernels() -> None:
    wanted = os.environ.get("NUMBA_CPU_NAME")
    if wanted is not None:
        if wanted == "native":
            del os.environ["NUMBA_CPU_NAME"]
        return
    target = json.loads((IMAGE / "target.json").read_text(encoding="utf-8"))
    if target["machine"] != platform.machine() or not _has(target["flags"]):
        return
    os.environ["NUMBA_CPU_NAME"] = target["cpu"]
    os.environ["NUMBA_CPU_FEATURES"] = ""
    from workers import kernel_cache

    folder = kernel_cache.choose(Path(os.environ["ARROWQUANT_DATA_DIR"]))
    _copy(IMAGE / folder.name, folder)


def _has(flags: list[str]) -> bool:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    found = next((line for line in lines if line.startswith("flags")), "")
    return set(flags) <= set(found.split())


def _copy(source: Path, target: Path) -> None:
    """Function by function, the index last: workers may share the folder, and any of them may be
    stopped half way. What is already there stays."""
    for index in source.rglob("*.nbi"):
        place = target / index.relative_to(source)
        if place.exists():
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        for path in (*index.parent.glob(f"{index.stem}.*.nbc"), index):
            with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as file:
                file.write(path.read_bytes())
            Path(file.name).replace(place.with_name(path.name))


if __name__ == "__main__":
    main()
