"""`python -m workers.alive`: ends with 0 if this machine's worker makes progress. A probe.

What it finds is for whoever restarts workers: a lost lease costs a unit, a process that hangs with a
lease that it renews costs the job. It reads files and asks the broker only if the worker seems deaf.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from workers.pulse import CONSUMER

# Looks are seconds apart; a tile takes a second, but a store that is away is tried for minutes.
IDLE_S: Final = 60.0
BUSY_S: Final = 900.0


def problem(folder: Path, broker_answers: Callable[[], bool] | None = None) -> str:
    """What is wrong with the worker of a run folder, or nothing."""
    limits = {".idle": IDLE_S, ".busy": BUSY_S}
    now = time.time()
    consumer = 0.0
    for file in sorted(folder.glob("*.*")):
        limit = limits.get(file.suffix)
        try:
            age = now - file.stat().st_mtime
        except OSError:
            continue  # idle has just become busy
        if file.name == CONSUMER:
            consumer = age
        elif limit is not None and age > limit:
            return f"{file.name}: no progress for {age:.0f} s"
    # While the broker is away it waits for it, which no restart would change.
    if consumer > IDLE_S and (broker_answers or _broker_answers)():
        return f"{CONSUMER}: has not listened for {consumer:.0f} s, and the broker answers"
    return ""


def _broker_answers() -> bool:
    from service.adapters.celery_bell import CeleryBell
    from service.domain.errors import ArrowQuantError
    from service.settings import Settings

    settings = Settings.load()
    bell = CeleryBell(settings.resolved_broker_url, settings.data_dir)
    try:
        bell.check()
    except ArrowQuantError:
        return False
    finally:
        bell.close()
    return True


def _running(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except PermissionError:
        return True
    except (ValueError, ProcessLookupError):
        return False
    return True


def main() -> int:
    """Look at every worker that runs here; there is one in a container."""
    data = os.environ.get("ARROWQUANT_DATA_DIR")
    if not data:
        from service.settings import Settings

        data = str(Settings.load().data_dir)
    found = [f for f in Path(data, "workers").glob("*") if _running(f.name)]
    problems = [text for folder in found if (text := problem(folder))]
    if not found:
        problems.append("no worker runs here")
    for text in problems:
        sys.stderr.write(text + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
