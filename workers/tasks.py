"""The one Celery task. Its message says only that there is work.

Celery's parent imports this module and then forks: whatever brings threads or sockets is imported
in the child, when it opens its workshop.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import structlog
from celery import Task, shared_task

from service import tracing
from service.domain.errors import ArrowQuantError
from service.domain.messages import RING_TASK
from service.settings import Settings
from workers import drain

if TYPE_CHECKING:
    from workers.lookout import Lookout
    from workers.workshop import Workshop

log = structlog.get_logger(__name__)


_endings: list[Callable[[], None]] = []


@cache
def workshop() -> Workshop:
    """This process's workshop."""
    from service.wiring import wire
    from workers import pulse, telling
    from workers.presence import Presence
    from workers.workshop import Workshop

    deps = wire(Settings.load())
    _endings.append(telling.begin(deps))
    made = Workshop(deps, progress=pulse.of_pool_process().busy)
    # Whoever drains this process drains its successors too: they share the flag of their parent.
    presence = Presence(deps.fleet, made.worker, deps.settings.lease_s, drain.asked, drain.ask)
    presence.start()
    _endings.append(presence.stop)
    return made


@cache
def lookout() -> Lookout:
    """This process's own look for work."""
    from workers import pulse
    from workers.lookout import Lookout

    return Lookout(_work, pulse.of_pool_process())


def _work(stop: Callable[[], bool]) -> None:
    workshop().run(stop=lambda: stop() or drain.asked())


def open_workshop() -> None:
    """In a new pool process: take back what a killed predecessor on this host was holding, and
    ring for it, since the message that started it is gone."""
    try:
        log.info("workshop_open", released=workshop().release_dead())
        workshop().ring_if_needed()
    except ArrowQuantError as error:
        # The database is down: the bell will ring again when it is back.
        log.warning("workshop_waits", error=str(error))
    lookout().start()


def close_workshop() -> None:
    """In a pool process that ends: finish the unit in hand."""
    lookout().stop()
    for end in reversed(_endings):
        end()


@shared_task(name=RING_TASK, bind=True)
def work(self: Task[[], None]) -> None:
    """Answer the bell: work until nothing is left to claim."""
    parent = self.request.get(tracing.HEADER)
    with tracing.span("work", parent=parent, kind=tracing.CONSUMER):
        try:
            lookout().answer(stop=drain.asked)
        except ArrowQuantError as error:
            # The bell rings again when it is back.
            log.warning("ledger_unreachable", error=str(error))
