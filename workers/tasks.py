"""The one Celery task. Its message says only that there is work."""

from __future__ import annotations

import contextlib
from functools import cache

import structlog
from celery import shared_task

from service.domain.errors import ArrowQuantError
from service.domain.messages import RING_TASK
from service.settings import Settings
from service.wiring import wire
from workers.workshop import Workshop

log = structlog.get_logger(__name__)


@cache
def _workshop() -> Workshop:
    return Workshop(wire(Settings.load()))


def open_workshop(settings: Settings) -> None:
    """In a new pool process: take back what a killed predecessor on this host was holding, and
    ring for it, since the message that started it is gone."""
    deps = wire(settings)
    released = Workshop(deps).release_dead()
    log.info("workshop_open", released=released)
    if deps.ledger.has_work():
        with contextlib.suppress(ArrowQuantError):
            deps.bell.ring()


@shared_task(name=RING_TASK)
def work() -> None:
    """Answer the bell: work until nothing is left to claim."""
    _workshop().run()
