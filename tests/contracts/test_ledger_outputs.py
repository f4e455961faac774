"""Several outputs of a job in the ledger: each has its tensors, levels and parts; a unit has all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from service.domain.errors import ArrowQuantError
from service.domain.job import JobState, PartRow, UnitKind
from tests.contracts.ledgers import RESOLVED, Bench, part, piece, tensor, unit, worker

OUTPUTS = {"outputs": [{"id": name, "recipe": {}} for name in ("int8", "int2")]}
PLACE = {"output": {"connection": "lab", "prefix": "out/"}}


def refused(code: str) -> Any:
    return pytest.raises(ArrowQuantError, match=f"^{code}:")


def _planned(bench: Bench) -> str:
    """Two units, the tensor 1 in both, two outputs."""
    job = bench.submit(resolved=OUTPUTS, request=PLACE)
    rows = [replace(tensor(i), output=n) for n in (0, 1) for i in (0, 1, 2)]
    bench.ledger.plan_done(bench.take(), RESOLVED | OUTPUTS, rows, [unit(0, 0, 1), unit(1, 1, 2)])
    return job.id


def _part(seq: int, output: int) -> PartRow:
    return replace(part(seq), output=output, key=f"{output}/{seq}")


def test_a_unit_is_done_with_its_last_output(bench: Bench) -> None:
    job_id = _planned(bench)
    claim = bench.take(UnitKind.QUANTIZE)
    assert claim.todo == {0: {}, 1: {}}
    assert bench.ledger.get_job(job_id).progress.tensors_total == 6
    assert bench.ledger.unit_done(claim, _part(0, 1), {})
    assert bench.ledger.unit_done(claim, _part(0, 1), {})  # its answer was lost
    assert bench.ledger.unit_todo(claim) == {0: {}}
    assert bench.ledger.get_job(job_id).progress.units_done == 0
    assert bench.ledger.unit_done(claim, _part(0, 0), {})
    assert bench.ledger.unit_todo(claim) == {}
    progress = bench.ledger.get_job(job_id).progress
    assert (progress.units_done, progress.bytes_written) == (1, 60)
    assert bench.ledger.parts(job_id) == [_part(0, 0), _part(0, 1)]


def test_a_lost_unit_goes_on_with_what_is_missing(bench: Bench) -> None:
    _planned(bench)
    claim = bench.take(UnitKind.QUANTIZE)
    assert bench.ledger.unit_done(claim, _part(0, 0), {})
    bench.clock.move(60)
    again = bench.take(UnitKind.QUANTIZE)
    assert (again.seq, again.todo) == (0, {1: {}})


def test_escalation_leaves_other_outputs_alone(bench: Bench) -> None:
    job_id = _planned(bench)
    first, second = bench.take(UnitKind.QUANTIZE), bench.take(UnitKind.QUANTIZE)
    for output in (0, 1):
        assert bench.ledger.unit_done(first, _part(0, output), {})
    assert bench.ledger.escalate(second, 1, 4, 8, {"bits": 4}, 1)
    assert bench.ledger.unit_todo(second) == {0: {}, 1: {1: 8}}
    assert bench.ledger.parts(job_id) == [_part(0, 0)]
    again = bench.take(UnitKind.QUANTIZE)
    assert (again.seq, again.todo) == (0, {1: {1: 8}})
    kept, moved = (bench.ledger.tensors(job_id, output=n)[1] for n in (0, 1))
    assert (kept.history, moved.history) == ([], [{"bits": 4}])


def test_a_part_stored_in_between_is_taken_back(bench: Bench) -> None:
    """The other unit's holder has stored an output's part and is still busy with the next one."""
    _planned(bench)
    first, second = bench.take(UnitKind.QUANTIZE), bench.take(UnitKind.QUANTIZE)
    assert bench.ledger.unit_done(first, _part(0, 1), {})
    assert bench.ledger.escalate(second, 1, 4, 8, {}, 1)
    assert bench.ledger.unit_done(first, _part(0, 0), {})
    assert bench.ledger.unit_todo(first) == {1: {1: 8}}  # still held: nobody else may claim it
    assert bench.ledger.claim(worker("w2")) is None
    assert bench.ledger.unit_done(first, _part(0, 1), {}) is False
    assert bench.ledger.unit_done(first, _part(0, 1), {1: 8})
    assert bench.ledger.unit_todo(first) == {}


def test_measurements_of_outputs_do_not_mix(bench: Bench) -> None:
    _planned(bench)
    first, second = bench.take(UnitKind.QUANTIZE), bench.take(UnitKind.QUANTIZE)
    bench.ledger.unit_errors(first, [piece(1)], 0)
    assert bench.ledger.unit_errors(second, [piece(1, value=2.0)], 1) == {}
    found = bench.ledger.unit_errors(second, [piece(1, value=3.0)], 0)
    assert found == {1: [piece(1), piece(1, value=3.0)]}


def test_a_changed_part_is_made_again_alone(bench: Bench) -> None:
    job_id = _planned(bench)
    for _ in range(2):
        claim = bench.take(UnitKind.QUANTIZE)
        for output in (0, 1):
            assert bench.ledger.unit_done(claim, _part(claim.seq, output), {})
    publish = bench.take(UnitKind.PUBLISH)
    bench.ledger.reopen_unit(publish, 1, "missing", 1)
    assert bench.ledger.parts(job_id) == [_part(0, 0), _part(1, 0), _part(0, 1)]
    again = bench.take(UnitKind.QUANTIZE)
    assert (again.seq, again.todo) == (1, {1: {}})


def test_every_output_has_one_writer(bench: Bench) -> None:
    job_id = _planned(bench)
    alone = {"output": {"connection": "lab", "prefix": "out/int2/"}}
    with refused("output_in_use"):
        bench.submit(request=alone)
    bench.ledger.cancel_job(job_id)
    bench.drain()
    assert bench.ledger.get_job(job_id).state is JobState.CANCELLED
    other = bench.submit(request=alone)
    with refused("output_in_use"):
        bench.ledger.retry_job(job_id)
    bench.ledger.cancel_job(other.id)
    bench.ledger.retry_job(job_id)
    with bench.engine.connect() as connection:
        taken = connection.execute(text("SELECT job_id FROM places")).scalars().all()
    assert taken == [job_id, job_id]


def test_what_was_read_is_counted_over_all_claims(bench: Bench) -> None:
    job_id = _planned(bench)
    claim = bench.take(UnitKind.QUANTIZE)
    bench.ledger.heartbeat(claim, 50, bytes_read=70)
    bench.ledger.heartbeat(claim, 100, bytes_read=120)
    assert bench.ledger.get_job(job_id).progress.bytes_read == 120
    bench.clock.move(60)
    again = bench.take(UnitKind.QUANTIZE)
    bench.ledger.heartbeat(again, 100, bytes_read=110)
    progress = bench.ledger.get_job(job_id).progress
    assert (progress.bytes_read, progress.bytes_done) == (230, 100)
