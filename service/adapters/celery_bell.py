"""The doorbell: an empty Celery message on Redis, or on files in a folder.

SQL is the truth, so ringing only has to be quick: it is tried once, gives up within two seconds,
and after a failure does not try again for a moment. The workers' own sweep finds what was not rung.
"""

from __future__ import annotations

import threading
import time
from functools import cached_property
from pathlib import Path
from ssl import CERT_REQUIRED
from typing import TYPE_CHECKING, Any, Final

from service import tracing
from service.domain.errors import ArrowQuantError
from service.domain.messages import QUEUE, RING_TASK

if TYPE_CHECKING:
    from celery import Celery

# Two seconds to connect, or to wait for an answer: a request must never hang on the doorbell.
TIMEOUT_S: Final = 2.0
# After a failure rings fail at once for this long, so that a dead broker slows nothing down.
QUIET_S: Final = 2.0

_WORKER: Final[dict[str, Any]] = {
    # A busy worker must not sit on rings that an idle one could answer.
    "worker_prefetch_multiplier": 1,
    # Allocators never give everything back: a fresh child now and then does.
    "worker_max_tasks_per_child": 64,
    # What was begun stays in SQL; a lost connection to the doorbell is no reason to stop work.
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Cancel and drain go through the ledger; remote control would only be one more way in.
    "worker_enable_remote_control": False,
    # The process sets up its own structured log.
    "worker_hijack_root_logger": False,
}


class CeleryBell:
    """Rings through the broker that the workers listen to."""

    def __init__(self, broker_url: str, data_dir: Path) -> None:
        self._settings = celery_settings(broker_url, data_dir)
        # One ring at a time: it takes less than a millisecond, and a hundred threads that each wait
        # for a dead broker would block all requests.
        self._lock = threading.Lock()
        self._quiet_until = 0.0

    def ring(self) -> None:
        """Say that there is work. Never blocks for long; raises broker_unavailable."""
        if not self._lock.acquire(timeout=TIMEOUT_S):
            raise _unavailable("another ring is waiting for it")
        try:
            if time.monotonic() < self._quiet_until:
                raise _unavailable("it did not answer a moment ago")
            self._send()
        finally:
            self._lock.release()

    def check(self) -> None:
        """Make one round trip. Raises broker_unavailable."""
        from kombu import Queue

        try:
            with self._app.connection_for_write(connect_timeout=TIMEOUT_S) as connection:
                # Unlike `connection.channel()`, this heeds max_retries.
                Queue(QUEUE, channel=connection.default_channel).queue_declare()
        except Exception as error:
            raise _unavailable(type(error).__name__) from error

    def close(self) -> None:
        """Let go of the connection."""
        if "_app" in self.__dict__:
            self._app.close()

    @cached_property
    def _app(self) -> Celery:
        # Celery takes a while to import, and who makes a key never rings.
        from celery import Celery

        app = Celery("arrowquant", set_as_current=False)
        app.conf.update(self._settings)
        app.conf.update(_impatient(self._settings["broker_transport_options"]))
        return app

    def _send(self) -> None:
        try:
            ids = tracing.traceparent()
            headers = {tracing.HEADER: ids} if ids else None
            self._app.send_task(
                RING_TASK, queue=QUEUE, ignore_result=True, retry=False, headers=headers
            )
        except Exception as error:
            self._quiet_until = time.monotonic() + QUIET_S
            raise _unavailable(type(error).__name__) from error


def celery_settings(broker_url: str, data_dir: Path) -> dict[str, Any]:
    """Every setting of Celery and kombu that is not their default, for the API and the workers.

    Makes the folders that the filesystem transport needs.
    """
    settings: dict[str, Any] = {
        # kombu warns of an address without a host, which files have none of.
        "broker_url": "filesystem://localhost/" if broker_url == "filesystem://" else broker_url,
        "broker_transport_options": _transport_options(broker_url, data_dir),
        # Workers outlive the broker: they wait for it at start and for ever after.
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        # One ring at a time per process (see CeleryBell), so one connection does.
        "broker_pool_limit": 2,
        "task_default_queue": QUEUE,
        # State is in SQL only: a result backend forgets, and reports unknown tasks as PENDING
        # (https://github.com/celery/celery/issues/4450).
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        # Nothing that could be unpickled is ever read from the broker.
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        # A ring is acknowledged before the work. With late acknowledgement Redis hands a message
        # out again after visibility_timeout while its task still runs
        # (https://github.com/celery/celery/issues/5935), and an OOM-killed child loses it anyway.
        # Leases in SQL bring unfinished work back, in seconds.
        "task_acks_late": False,
        # Publishing is tried once; celery would otherwise hang while the broker is down
        # (https://github.com/celery/celery/issues/4627).
        "task_publish_retry": False,
        **_WORKER,
    }
    if broker_url.startswith("redis"):
        # Only kombu's Redis transport can take a message only when a process is free for it.
        settings["worker_disable_prefetch"] = True
    if broker_url.startswith("rediss:") and "ssl_" not in broker_url:
        # kombu's own default for rediss:// is not to verify the server's certificate.
        settings["broker_use_ssl"] = {"ssl_cert_reqs": CERT_REQUIRED}
    return settings


def _transport_options(broker_url: str, data_dir: Path) -> dict[str, Any]:
    if broker_url.startswith("filesystem:"):
        # Writers and readers share one folder: what one puts in, the other takes out.
        queue, control = data_dir / "bell", data_dir / "bell-control"
        for folder in (queue, control):
            folder.mkdir(parents=True, exist_ok=True)
        return {
            "data_folder_in": str(queue),
            "data_folder_out": str(queue),
            "control_folder": str(control),
            # Seconds between two looks into the folder: cheap, and a person is waiting.
            "polling_interval": 0.25,
        }
    return {
        # A ring that a worker took and did not acknowledge (it died in between) rings again after
        # this. Safe to have short, since rings are acknowledged before the work starts.
        "visibility_timeout": 60,
        "socket_connect_timeout": TIMEOUT_S,
        # Longer than a rewrite of the append-only file may stall Redis.
        "socket_timeout": 15,
        "socket_keepalive": True,
        # An idle connection through NAT or a proxy dies silently; this finds out
        # (https://github.com/celery/celery/issues/8030).
        "health_check_interval": 25,
    }


def _impatient(transport_options: dict[str, Any]) -> dict[str, Any]:
    """What differs where a request waits for the ring."""
    options = {
        # Without a limit kombu connects again and again, sleeping 2, 4, 6... seconds.
        "max_retries": 0,
        **transport_options,
    }
    if "socket_timeout" in options:
        options["socket_timeout"] = TIMEOUT_S
    return {"broker_transport_options": options, "broker_connection_timeout": TIMEOUT_S}


def _unavailable(reason: str) -> ArrowQuantError:
    # The address may hold a password: it stays out of the text.
    return ArrowQuantError(
        "broker_unavailable",
        f"the broker cannot be reached: {reason}",
        "Jobs are still accepted, and begin within seconds once workers run.",
    )
