"""Batches of jobs that are as small as a job can be."""

from __future__ import annotations

from sqlalchemy import Engine, insert

from service.adapters.sql import SqlBatches, SqlLedger
from service.adapters.sql.webhook_tables import endpoints
from service.domain.batch import BatchLine, BatchRecord, NewBatch
from service.domain.ids import new_id
from service.domain.ports import NewJob
from service.domain.webhooks import HookEvent
from tests.contracts.ledgers import LEASE_S, MAX_ATTEMPTS, HandClock

# In the tests; the real one would only make more jobs of the same.
CHUNK = 7


class BatchBench:
    """A ledger of batches beside one of jobs."""

    def __init__(self, engine: Engine, clock: HandClock) -> None:
        self.engine, self.clock = engine, clock
        self.ledger = SqlLedger(engine, clock, LEASE_S, MAX_ATTEMPTS)
        self.batches = SqlBatches(engine, clock, self.ledger)

    def new(self, tenant: str = "acme", window_s: int | None = None) -> NewBatch:
        return NewBatch(self._id("batch"), tenant, "night", {"team": "x"}, window_s)

    def lines(self, batch: NewBatch, count: int, first: int = 1) -> list[BatchLine]:
        return [self.line(batch, number) for number in range(first, first + count)]

    def line(self, batch: NewBatch, number: int, output: str = "") -> BatchLine:
        place = {"connection": "out", "prefix": output or f"{batch.id}/{number}/"}
        job = NewJob(
            id=self._id("job"),
            tenant=batch.tenant,
            name=f"n{number}",
            labels={"line": str(number)},
            priority=0,
            request={"source": {"connection": "lab", "prefix": "m/"}, "output": place},
            resolved={"recipe": {"bits": 4}},
            max_runtime_s=None,
            batch_id=batch.id,
        )
        return BatchLine(number, f"c{number}", job)

    def accept(self, count: int = 3, tenant: str = "acme", **more: int) -> BatchRecord:
        batch = self.new(tenant, **more)
        with self.batches.stage(batch) as stage:
            stage.add(self.lines(batch, count))
            return stage.accept(count)

    def work_off(self, batch_id: str) -> None:
        """All that was asked of its jobs."""
        while self.batches.advance(batch_id):
            pass

    def _id(self, prefix: str) -> str:
        self.clock.move(0.001)
        return new_id(prefix, int(self.clock.now().timestamp() * 1000))


def listen(engine: Engine, tenant: str, wanted: list[HookEvent]) -> None:
    """An endpoint that wants these events."""
    now = HandClock().now()
    with engine.begin() as connection:
        connection.execute(
            insert(endpoints).values(
                id=new_id("wh"),
                tenant=tenant,
                url="https://hooks.example/",
                description="",
                events=[event.value for event in wanted],
                secret=b"sealed",
                create_time=now,
                update_time=now,
            )
        )
