"""Carrying webhook messages: take what is due from the outbox, send it, note what came of it.

Every API process has a courier. They share the outbox in SQL, where a message that one of them has
taken is leased to it: one that dies is replaced when the lease ends, and the receiver may then get
the message twice, with the same id.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import structlog

from service.domain.errors import ArrowQuantError
from service.domain.ports import Clock
from service.domain.webhooks import Errand, Outbox, Outcome, Schedule, Sender

log = structlog.get_logger(__name__)

PERIOD_S: Final = 1.0
FORGET_EVERY_S: Final = 3600.0
# How long messages under way may still take when the process is told to stop.
GRACE_S: Final = 3.0
# The receiver's own word on when to come again is taken with these.
MAY_WISH: Final = (429, 503)


class Courier:
    """A thread beside the API. Sends up to `at_once` messages at a time, each in a thread of its
    own, at most half of them to endpoints that fail.

    open_secrets  from the sealed secrets of an errand to those to sign with
    keep          how long deliveries stay in the log
    chance        uniform in [0, 1)
    """

    def __init__(
        self,
        outbox: Outbox,
        sender: Sender,
        open_secrets: Callable[[Errand], list[str]],
        clock: Clock,
        schedule: Schedule,
        *,
        at_once: int = 16,
        keep: timedelta = timedelta(days=30),
        period_s: float = PERIOD_S,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._outbox, self._sender, self._open = outbox, sender, open_secrets
        self._clock, self._schedule, self._chance = clock, schedule, chance
        self._at_once, self._keep, self._period_s = at_once, keep, period_s
        self._changed = threading.Condition()
        # By delivery and fence. Whoever removes an errand from here has the last word on it.
        self._under_way: dict[tuple[str, int], Errand] = {}
        self._stopping = False
        self._forget_at = 0.0
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)

    def start(self) -> None:
        """Begin to carry messages."""
        self._thread.start()

    def stop(self) -> None:
        """Carry no more. What is under way gets a moment; the rest goes back to the outbox."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join()
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, GRACE_S)
            left = list(self._under_way.values())
            self._under_way.clear()
        for errand in left:
            try:
                self._outbox.release(errand)
            except ArrowQuantError as error:
                log.warning("delivery_not_released", delivery=errand.id, error=str(error))

    def carry_all(self) -> None:
        """Carry until nothing is due and nothing under way."""
        while self._fill() or self._under_way:
            with self._changed:
                self._changed.wait_for(lambda: not self._under_way)

    def _run(self) -> None:
        while not self._stopping:
            self._look()
            with self._changed:
                # Until something ends or a moment has passed; at once if told to stop meanwhile.
                if not self._stopping:
                    self._changed.wait(self._period_s)

    def _look(self) -> None:
        try:
            self._fill()
            self._forget()
        except ArrowQuantError as error:
            # The database is away; it comes back, and so does this.
            log.warning("courier_failed", error=str(error))

    def _fill(self) -> int:
        """Take as much as there is and as fits; how much that was."""
        number = 0
        while (room := self._at_once - len(self._under_way)) > 0 and not self._stopping:
            with self._changed:
                failing = sum(errand.failing for errand in self._under_way.values())
            taken = self._outbox.claim(room, failing=2 * failing < self._at_once)
            if not taken:
                break
            number += len(taken)
            with self._changed:
                self._under_way |= {(errand.id, errand.fence): errand for errand in taken}
            for errand in taken:
                # Daemons: a receiver that says nothing must not keep the process from ending.
                threading.Thread(
                    target=self._carry, args=(errand,), name="delivery", daemon=True
                ).start()
        return number

    def _carry(self, errand: Errand) -> None:
        try:
            outcome = self._attempt(errand)
            with self._changed:
                ours = (errand.id, errand.fence) in self._under_way
            if ours:
                self._report(errand, outcome)
        except ArrowQuantError as error:
            # Not noted: when the lease ends the message is sent once more.
            log.warning("delivery_not_noted", delivery=errand.id, error=str(error))
        finally:
            with self._changed:
                self._under_way.pop((errand.id, errand.fence), None)
                self._changed.notify_all()

    def _attempt(self, errand: Errand) -> Outcome:
        try:
            secrets = self._open(errand)
        except ArrowQuantError as error:
            log.error("webhook_secret_unreadable", endpoint=errand.endpoint_id, error=str(error))
            return Outcome(self._clock.now(), 0, None, "secret_unreadable")
        return self._sender.send(errand, secrets)

    def _report(self, errand: Errand, outcome: Outcome) -> None:
        after = None
        if not (outcome.ok or outcome.gone):
            after = self._schedule.next_time(
                self._clock.now(),
                errand.since,
                errand.tries,
                self._chance(),
                outcome.retry_after_s if outcome.status in MAY_WISH else None,
            )
        noted = self._outbox.finish(errand, outcome, after)
        log.info(
            "webhook_sent" if outcome.ok else "webhook_failed",
            delivery=errand.id,
            endpoint=errand.endpoint_id,
            about=errand.event.value,
            attempt=errand.attempt,
            status=outcome.status,
            error=outcome.error,
            duration_ms=outcome.duration_ms,
            noted=noted,
        )

    def _forget(self) -> None:
        if time.monotonic() >= self._forget_at:
            self._forget_at = time.monotonic() + FORGET_EVERY_S
            self._outbox.forget(self._clock.now() - self._keep)
