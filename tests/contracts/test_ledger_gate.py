"""Escalation: tensors that miss the gate are made again at the next width, in all their units."""

from __future__ import annotations

from dataclasses import replace

from service.domain.job import EventType, PieceError, TensorState, UnitKind
from tests.contracts.ledgers import Bench, part, piece, tensor, unit, worker

# Tensor 1 has rows in three units, tensor 0 and 2 in one each.
SPREAD = [unit(0, 0, 1), unit(1, 1), unit(2, 1, 2)]


def test_errors_come_together_when_every_unit_has_measured(bench: Bench) -> None:
    bench.plan(SPREAD)
    first, second, third = (bench.take() for _ in range(3))
    sums = [piece(1, value=float(n)) for n in range(3)]
    assert bench.ledger.unit_errors(first, [piece(0), sums[0]]) == {0: [piece(0)]}
    assert bench.ledger.unit_errors(third, [piece(2), sums[2]]) == {2: [piece(2)]}
    assert bench.ledger.unit_errors(second, [sums[1]]) == {1: sums}
    # Whoever asks again, say after a crash, gets the same answer.
    assert bench.ledger.unit_errors(second, [sums[1]]) == {1: sums}
    assert bench.ledger.unit_errors(first, []) == {0: [piece(0)], 1: sums}


def test_error_sums_are_kept_to_the_last_bit(bench: Bench) -> None:
    bench.plan([unit(0)])
    odd = PieceError(0, 4, 0.1 + 0.2, 1e-300, -1 / 3, 2.0**80, float("inf"), 2**40, 2**41)
    odd = replace(odd, group_sums=(0.1 + 0.2, 5e-324, float("inf"), 2.0**80))
    assert bench.ledger.unit_errors(bench.take(), [odd]) == {0: [odd]}


def test_escalation_reopens_the_other_units_and_keeps_this_claim(bench: Bench) -> None:
    job = bench.plan(SPREAD)
    done, mine = bench.take(), bench.take()
    bench.finish(done)
    high = bench.ledger.get_job(job.id).progress.bytes_done
    entry = {"bits": 4, "sqnr_db": 12.5, "cosine": 0.9}
    assert bench.ledger.escalate(mine, 1, 4, 8, entry)
    assert not bench.ledger.escalate(mine, 1, 4, 8, entry)
    assert bench.ledger.unit_todo(mine) == {0: {1: 8}}
    bench.ledger.heartbeat(mine)
    progress = bench.ledger.get_job(job.id).progress
    assert (progress.units_done, progress.bytes_written) == (0, 0)
    assert progress.bytes_done == high
    assert bench.ledger.parts(job.id) == []
    again, third = bench.take(), bench.take()
    assert (again.seq, again.attempt, again.todo) == (done.seq, 0, {0: {1: 8}})
    assert (third.seq, third.todo) == (2, {0: {1: 8}})
    assert bench.ledger.claim(worker()) is None
    assert bench.ledger.tensors(job.id)[1].history == [entry]


def test_a_part_at_an_old_width_is_not_taken(bench: Bench) -> None:
    bench.plan(SPREAD)
    first, second, third = (bench.take() for _ in range(3))
    assert bench.ledger.escalate(first, 1, 4, 8, {})
    assert bench.ledger.unit_done(second, part(1), {}) is False
    bench.ledger.heartbeat(second)  # still claimed
    assert bench.ledger.unit_done(second, part(1), bench.ledger.unit_todo(second)[0]) is True
    assert bench.ledger.escalate(third, 1, 8, 0, {})
    assert bench.ledger.unit_done(first, part(0), {1: 8}) is False
    assert bench.ledger.unit_done(first, part(0), {1: 0}) is True
    assert bench.ledger.unit_done(third, part(2), {1: 0}) is True
    assert bench.take().seq == 1


def test_errors_of_an_old_width_do_not_count(bench: Bench) -> None:
    bench.plan(SPREAD)
    first, second, third = (bench.take() for _ in range(3))
    for claim in (first, second):
        assert bench.ledger.unit_errors(claim, [piece(1)]) == {}
    assert 1 in bench.ledger.unit_errors(third, [piece(1)])
    assert bench.ledger.escalate(third, 1, 4, 8, {})
    assert bench.ledger.unit_errors(third, [piece(1, 8)]) == {}
    assert bench.ledger.unit_errors(first, [piece(1, 4)]) == {}
    assert bench.ledger.unit_errors(first, [piece(1, 8)]) == {}
    assert bench.ledger.unit_errors(second, [piece(1, 8)]) == {1: [piece(1, 8)] * 3}


def test_a_tensor_kept_raw_after_the_ladder(bench: Bench) -> None:
    job = bench.plan(SPREAD)
    claim = bench.take()
    tried = [{"bits": 4, "sqnr_db": 9.0}, {"bits": 8, "sqnr_db": 19.0}]
    assert bench.ledger.escalate(claim, 1, 4, 8, tried[0])
    assert bench.ledger.escalate(claim, 1, 8, 0, tried[1])
    assert not bench.ledger.escalate(claim, 1, 8, 0, tried[1])
    row = replace(tensor(1), state=TensorState.FALLBACK, codec="raw", bits=0)
    bench.ledger.tensors_done(claim, [row])
    expected = replace(row, history=tried)
    assert bench.ledger.tensors(job.id, state="FALLBACK") == [expected]
    (event,) = (e for e in bench.history(job.id) if e.type is EventType.TENSOR)
    assert event.data["history"] == tried
    assert bench.ledger.get_job(job.id).progress.tensors_fallback == 1


def test_levels_outlive_crash_and_retry(bench: Bench) -> None:
    job = bench.plan(SPREAD)
    assert bench.ledger.escalate(bench.take(), 1, 4, 8, {})
    bench.ledger.cancel_job(job.id)
    bench.finish(bench.take(UnitKind.CLEANUP))
    bench.ledger.retry_job(job.id)
    bench.plan_done(bench.take(UnitKind.PLAN), SPREAD)
    claims = bench.drain()
    assert [c.todo for c in claims if c.kind is UnitKind.QUANTIZE] == [{0: {1: 8}}] * 3


def test_publishing_waits_for_reopened_units(bench: Bench) -> None:
    bench.plan(SPREAD)
    first, second, third = (bench.take() for _ in range(3))
    bench.finish(first)
    bench.finish(second)
    assert bench.ledger.escalate(third, 1, 4, 8, {})
    assert bench.ledger.unit_done(third, part(2), {1: 8})
    kinds = [(claim.kind.value, claim.seq) for claim in bench.drain()]
    assert kinds == [("quantize", 0), ("quantize", 1), ("publish", 0)]
