"""The Celery application: `celery -A workers.celery_app worker`.

The parent process only supervises. It imports neither numba nor pyarrow nor boto3 and opens no
connection: a forked child must not inherit thread pools or sockets. The child wires itself.
"""

from __future__ import annotations

import warnings
from typing import Any

from celery import Celery
from celery.exceptions import SecurityWarning
from celery.signals import (
    setup_logging,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_shutdown,
    worker_shutting_down,
)

from service.adapters.celery_bell import celery_settings
from service.logs import configure as configure_logs
from service.settings import Settings
from workers import drain, kernel_cache, supervision

# It warns root of messages that could be unpickled. Ours never are: accept_content is JSON alone.
warnings.filterwarnings("ignore", category=SecurityWarning)

settings = Settings.load()
kernel_cache.choose(settings.data_dir)
app = Celery("arrowquant", include=["workers.tasks"])
app.conf.update(celery_settings(settings.resolved_broker_url, settings.data_dir))
# One unit at a time in a process: a unit uses all the threads it was given.
app.conf.worker_concurrency = 1
app.steps["consumer"].add(supervision.Tick)


@setup_logging.connect
def _configure_logs(**_: Any) -> None:
    configure_logs(settings.log_level, settings.log_format)


@worker_init.connect
def _begin(**_: Any) -> None:
    supervision.begin(settings)


@worker_process_init.connect
def _open_workshop(**_: Any) -> None:
    from workers import tasks

    tasks.open_workshop()


@worker_process_shutdown.connect
def _close_workshop(**_: Any) -> None:
    from workers import tasks

    tasks.close_workshop()


@worker_shutting_down.connect
def _drain(**_: Any) -> None:
    drain.ask()


@worker_shutdown.connect
def _end(**_: Any) -> None:
    supervision.end()
