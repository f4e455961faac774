"""Taking a batch in, and steering it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, Self

from service.domain.batch import (
    BatchCounts,
    BatchLedger,
    BatchLine,
    BatchRecord,
    BatchStage,
    BatchState,
    Doing,
    NewBatch,
)
from service.domain.errors import ArrowQuantError, FieldError
from service.domain.ports import Bell, Clock, ObjectStores
from service.domain.recipe_book import RecipeBook
from service.domain.webhooks import Webhooks
from service.usecases.batch_lines import LineChecks
from service.usecases.paging import page_position, page_size, page_token
from service.usecases.submit import ring

# Bad lines told in one answer; the rest are counted.
MOST_TOLD: Final = 100
# How long a request goes on with what was asked of all jobs; the sweep does the rest.
PATIENCE_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Line:
    """A line as it came: its number from 1 and its bytes, or None where there were too many."""

    number: int
    text: bytes | None


class Intake:
    """A batch on its way in: every line is checked, and nothing is queued before all are good.

    Use it as a context; without `finish` nothing of it stays.
    """

    def __init__(
        self,
        new: NewBatch,
        batches: BatchLedger,
        stores: ObjectStores,
        webhooks: Webhooks,
        recipes: RecipeBook,
        clock: Clock,
        max_line_bytes: int,
    ) -> None:
        self._new, self._batches, self._clock = new, batches, clock
        self._max_line_bytes = max_line_bytes
        self._checks = LineChecks(new.tenant, new.id, stores, webhooks, recipes)
        self._errors: list[FieldError] = []
        self._bad = _Lines()
        self._total = 0
        self._open = ExitStack()
        self._stage: BatchStage | None = None

    def __enter__(self) -> Self:
        self._stage = self._open.enter_context(self._batches.stage(self._new))
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()

    def feed(self, lines: Sequence[Line]) -> None:
        """Check lines, and lay the good ones aside as long as all were good."""
        good: list[BatchLine] = []
        for line in lines:
            self._total += 1
            found = self._check(line)
            if isinstance(found, BatchLine):
                good.append(found)
            else:
                self._refuse(found)
        if not self._bad.count and self._stage is not None:
            self._stage.add(good)

    def finish(self, *, validate_only: bool = False) -> BatchRecord:
        """Queue all of it. Raises invalid_batch with the lines that are bad."""
        stage = self._stage
        if stage is None:
            raise AssertionError("finish outside of its context")
        if not self._total:
            raise ArrowQuantError(
                "invalid_batch", "there are no lines", 'A line is {"custom_id": …, "body": {…}}.'
            )
        self._refuse(self._checks.sources.run())
        if not self._bad.count:
            self._refuse([_taken(number) for number in stage.taken()])
        if self._bad.count:
            raise self._refused()
        if validate_only:
            return self._preview()
        for nbytes, numbers in self._checks.sources.sizes:
            stage.size(nbytes, numbers)
        return stage.accept(self._total)

    def _check(self, line: Line) -> BatchLine | list[FieldError]:
        if line.text is not None:
            return self._checks.check(line.number, line.text)
        detail = f"the line has more than {self._max_line_bytes} bytes"
        return [FieldError("", detail, line.number, "payload_too_large")]

    def _refuse(self, errors: Sequence[FieldError]) -> None:
        for error in errors:
            self._bad.add(error.line or 0)
            if len(self._errors) < MOST_TOLD:
                self._errors.append(error)

    def _refused(self) -> ArrowQuantError:
        self._errors.sort(key=lambda error: error.line or 0)
        first = self._errors[0]
        more = f" (and {self._bad.count - 1} more bad lines)" if self._bad.count > 1 else ""
        place = f"{first.pointer}: " if first.pointer else ""
        return ArrowQuantError(
            "invalid_batch",
            f"line {first.line}: {place}{first.detail}{more}",
            "Nothing was queued. Correct the lines and send the whole batch again.",
            {"bad_lines": self._bad.count, "lines": self._total},
            tuple(self._errors),
        )

    def _preview(self) -> BatchRecord:
        new, now = self._new, self._clock.now()
        return BatchRecord(
            id=new.id,
            tenant=new.tenant,
            name=new.name,
            labels=new.labels,
            state=BatchState.VALIDATING,
            attempt=1,
            counts=BatchCounts(self._total),
            window_s=new.window_s,
            create_time=now,
            update_time=now,
            cancel_time=None,
            expire_time=None,
            end_time=None,
        )


class _Lines:
    """A set of line numbers as bits: a batch may have tens of thousands of bad ones."""

    def __init__(self) -> None:
        self._bits = bytearray()
        self.count = 0

    def add(self, number: int) -> None:
        place, bit = divmod(number, 8)
        self._bits.extend(bytes(max(0, place + 1 - len(self._bits))))
        if not self._bits[place] >> bit & 1:
            self._bits[place] |= 1 << bit
            self.count += 1


def _taken(number: int) -> FieldError:
    detail = "another job that has not ended writes to the same output"
    return FieldError("/body/output/prefix", detail, number, "output_in_use")


@dataclass(frozen=True, slots=True)
class Steered:
    """A batch after something was asked of it, and why the workers could not be told, if so."""

    batch: BatchRecord
    unrung: ArrowQuantError | None


def steer(batches: BatchLedger, bell: Bell, batch_id: str, tenant: str, doing: Doing) -> Steered:
    """Ask something of all jobs of a batch, and do as much of it as a request has time for."""
    batches.ask(batch_id, tenant, doing)
    deadline = time.monotonic() + PATIENCE_S
    while batches.advance(batch_id) and time.monotonic() < deadline:
        pass
    return Steered(batches.get(batch_id, tenant), ring(bell))


def list_batches(
    batches: BatchLedger,
    tenant: str,
    states: Sequence[BatchState],
    size: int | None,
    token: str | None,
) -> tuple[Sequence[BatchRecord], str | None]:
    """A page of batches, newest first, and the token of the next one."""
    filters = {"tenant": tenant, "list": "batches", "states": sorted(set(states))}
    limit = page_size(size)
    before = page_position(token, filters, str) if token else None
    found = batches.list(tenant, states, before, limit + 1)
    if len(found) <= limit:
        return found, None
    return found[:limit], page_token(found[limit - 1].id, filters)
