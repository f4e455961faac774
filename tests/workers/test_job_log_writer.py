"""From the log of a worker to the logs of jobs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence

import pytest
import structlog

from service import logs, tracing
from service.domain.errors import ArrowQuantError
from service.domain.job_log import LogLine, LogPage, LogQuery
from workers.job_log import JobLogWriter

ID = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{ID}-b7ad6b7169203331-01"


class Store:
    """Keeps lines, or is away."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, LogLine]] = []
        self.away = False
        self.written = threading.Event()

    def append(self, job_id: str, lines: Sequence[LogLine]) -> None:
        if self.away:
            raise ArrowQuantError("database_unavailable", "gone")
        self.lines += [(job_id, line) for line in lines]
        self.written.set()

    def read(self, query: LogQuery) -> LogPage:
        raise NotImplementedError

    def events(self, job_id: str) -> list[str]:
        return [line.event for owner, line in self.lines if owner == job_id]


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def logging_as_json() -> Iterator[None]:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    logs.configure("info", "json")
    yield
    logs.send_to(None)
    root.handlers[:] = before
    root.setLevel(level)
    structlog.reset_defaults()


def said(event: str, job_id: str = "job_1", **fields: object) -> dict[str, object]:
    return {"event": event, "job_id": job_id, "level": "info", **fields}


@pytest.mark.usefixtures("logging_as_json")
def test_every_line_on_a_job_is_taken_also_from_threads_and_libraries(store: Store) -> None:
    writer = JobLogWriter(store)
    logs.send_to(writer)
    log = structlog.get_logger("a")
    log.info("before")  # on no job
    with (
        structlog.contextvars.bound_contextvars(job_id="job_1", unit="quantize:3", tenant="acme"),
        tracing.span("unit", parent=PARENT),
    ):
        log.info("tensor_done", tensor="a.weight", bits=4, password="hunter2")
        thread = threading.Thread(target=logs.in_context(lambda: log.warning("in_a_thread")))
        thread.start()
        thread.join()
        logging.getLogger("library").warning("slow store %s", "https://u:hunter2@s3/")
        log.debug("too much")
        try:
            raise ValueError("/srv/secret/path")
        except ValueError:
            log.exception("unit_crashed")
    writer.flush()
    assert store.events("job_1") == [
        "tensor_done",
        "in_a_thread",
        "slow store https://[redacted]@s3/",
        "unit_crashed",
    ]
    assert {owner for owner, _ in store.lines} == {"job_1"}
    lines = [line for _, line in store.lines]
    assert all(line.unit == "quantize:3" and line.trace_id == ID for line in lines)
    assert (lines[0].tensor, lines[0].data) == (
        "a.weight",
        {"bits": 4, "password": "[redacted]"},
    )
    assert [line.level for line in lines] == ["info", "warning", "warning", "error"]
    # Where the service's files are is none of a tenant's business.
    assert "/srv/secret" not in repr(store.lines)
    assert "hunter2" not in repr(store.lines)


def test_lines_are_written_without_being_asked_for(store: Store) -> None:
    writer = JobLogWriter(store, period_s=0.01)
    writer.start()
    writer(said("one"))
    assert store.written.wait(20)
    writer(said("two"))
    writer.stop()
    assert store.events("job_1") == ["one", "two"]


def test_without_the_database_lines_wait_and_the_oldest_are_given_up(store: Store) -> None:
    writer = JobLogWriter(store, waiting=5)
    store.away = True
    for number in range(4):
        writer(said(str(number)))
    writer.flush()
    for number in range(4, 8):
        writer(said(str(number)))
    writer.flush()
    assert store.lines == []
    store.away = False
    writer.flush()
    assert store.events("job_1") == ["lines_lost", "3", "4", "5", "6", "7"]
    assert store.lines[0][1].data == {"lines": 3}


def test_jobs_do_not_mix(store: Store) -> None:
    writer = JobLogWriter(store)
    for job_id, event in (("job_1", "a"), ("job_2", "b"), ("job_1", "c")):
        writer(said(event, job_id))
    writer.flush()
    assert (store.events("job_1"), store.events("job_2")) == (["a", "c"], ["b"])


def test_names_that_no_encoding_has(store: Store) -> None:
    writer = JobLogWriter(store)
    writer(said("x", tensor="a\ud800b\0", where={"\udfff": ["\ud800"]}))
    writer.flush()
    [(_, line)] = store.lines
    repr(line).encode()
    assert "\0" not in (line.tensor or "")
