"""Run a command and note what the kernel says of it: `python -m benchmarks.peak FILE COMMAND...`

A process of its own and a small one, because Linux counts the memory of whoever starts a program
into that program's peak.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def main() -> None:
    """Run, wait, write status, seconds and peak RSS in bytes to FILE."""
    began = time.monotonic()
    status = subprocess.run(sys.argv[2:], check=False).returncode
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    measured = {
        "status": status,
        "seconds": time.monotonic() - began,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_rss_bytes": used.ru_maxrss * 1024,
    }
    Path(sys.argv[1]).write_text(json.dumps(measured))


if __name__ == "__main__":
    main()
