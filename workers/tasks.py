"""The one Celery task. Its message says only that there is work."""

from __future__ import annotations

from functools import cache

from celery import shared_task

from service.domain.messages import RING_TASK
from service.settings import Settings
from service.wiring import wire
from workers.workshop import Workshop


@cache
def _workshop() -> Workshop:
    return Workshop(wire(Settings.load()))


def open_workshop(settings: Settings) -> None:
    """In a new pool process: take back what a killed predecessor on this host was holding, and
    ring for it, since the message that started it is gone."""
    deps = wire(settings)
    if Workshop(deps).release_dead() or deps.ledger.has_work():
        deps.bell.ring()


@shared_task(name=RING_TASK)
def work() -> None:
    """Answer the bell: work until nothing is left to claim."""
    _workshop().run()
