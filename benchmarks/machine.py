"""What a measurement was made on and with."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil


def describe() -> dict[str, Any]:
    """Processor, memory, load and versions, now."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": _cpu_model(),
        "vectors": _vectors(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {
            name: version(name)
            for name in ("arrowquant", "numba", "llvmlite", "numpy", "pyarrow", "boto3", "celery")
        },
    }


def _cpu_model() -> str:
    return _cpu_info("model name") or platform.processor() or "?"


def _vectors() -> str | None:
    """The widest vectors that the processor has, of those that the targets name; None: not told."""
    flags = _cpu_info("flags", "Features").split()
    known = {"avx512f": "AVX-512", "avx2": "AVX2", "asimd": "NEON"}
    return next((name for flag, name in known.items() if flag in flags), None)


def _cpu_info(*keys: str) -> str:
    """What Linux says of the first processor under one of these keys."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((text.strip() for key, _, text in _pairs(lines) if key in keys), "")


def _pairs(lines: list[str]) -> list[tuple[str, str, str]]:
    return [
        (key.strip(), sign, text) for key, sign, text in (line.partition(":") for line in lines)
    ]
