"""API keys, and answers kept for requests that come twice."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from sqlalchemy import Engine, select

from service.adapters.sql import SqlIdempotencyStore, SqlKeyRing, SqlLedger
from service.adapters.sql.tables import api_keys
from service.domain.ports import IdempotencyStore, KeyRing, StoredResponse
from tests.contracts.ledgers import HandClock


@pytest.fixture
def ring(engine: Engine, clock: HandClock) -> KeyRing:
    return SqlKeyRing(engine, clock)


@pytest.fixture
def answers(engine: Engine, clock: HandClock) -> IdempotencyStore:
    return SqlIdempotencyStore(engine, clock)


def test_a_key_is_found_by_its_text_alone(ring: KeyRing, clock: HandClock) -> None:
    key, text = ring.create("acme", "laptop")
    other, _ = ring.create("acme", "cluster")
    assert text.startswith(f"aq_{key.id}_")
    assert (key.tenant, key.name, key.create_time) == ("acme", "laptop", clock.now())
    assert ring.find(text) == key
    swapped = text.replace(key.id, other.id)
    wrong = text[:-1] + ("A" if text[-1] != "A" else "B")
    for bad in (swapped, wrong, text[:-1], text + "x", text.upper(), f" {text}", f"{text}\n"):
        assert ring.find(bad) is None
    for bad in ("", "aq_", "aq__", "aq_\0_\0", "ключ", "aq_" + "a" * 12 + "_" + "b" * 43):
        assert ring.find(bad) is None


def test_only_a_hash_is_stored(ring: KeyRing, engine: Engine) -> None:
    _, text = ring.create("acme", "laptop")
    with engine.connect() as connection:
        (row,) = connection.execute(select(api_keys)).all()
    assert text.split("_", 2)[2] not in str(row)


def test_a_revoked_key_opens_nothing(ring: KeyRing, clock: HandClock) -> None:
    key, text = ring.create("acme", "laptop")
    clock.move(5)
    assert ring.revoke(key.id)
    assert not ring.revoke(key.id)
    assert not ring.revoke("unknown")
    assert ring.find(text) is None
    assert ring.list() == [replace(key, revoke_time=clock.now())]


def test_keys_are_listed_by_tenant(ring: KeyRing, clock: HandClock) -> None:
    first, _ = ring.create("acme", "a")
    clock.move(1)
    second, _ = ring.create("other", "b")
    assert ring.list() == [first, second]
    assert ring.list("other") == [second]


def test_an_answer_is_given_again(answers: IdempotencyStore) -> None:
    this = ("acme", "/v1/jobs", "k1")
    assert answers.begin(*this, "f1") is None
    assert answers.begin(*this, "f1") == StoredResponse("f1", None, {}, b"")
    answers.finish(*this, 202, {"location": "/v1/jobs/1"}, b"\x00\xff")
    stored = StoredResponse("f1", 202, {"location": "/v1/jobs/1"}, b"\x00\xff")
    assert answers.begin(*this, "f1") == stored
    assert answers.begin(*this, "f2") == stored  # the caller compares fingerprints
    answers.forget(*this)  # only what is in flight can be forgotten
    assert answers.begin(*this, "f1") == stored
    for new in (("b", this[1], this[2]), (this[0], "/x", this[2]), (*this[:2], "k2")):
        assert answers.begin(*new, "f1") is None


def test_a_forgotten_key_is_new(answers: IdempotencyStore) -> None:
    assert answers.begin("acme", "/v1/jobs", "k", "f1") is None
    answers.forget("acme", "/v1/jobs", "k")
    assert answers.begin("acme", "/v1/jobs", "k", "f2") is None


def test_the_key_of_a_request_that_died_is_free_after_a_minute(
    answers: IdempotencyStore, clock: HandClock
) -> None:
    this = ("acme", "/v1/jobs", "k")
    assert answers.begin(*this, "f1") is None
    clock.move(60)
    assert answers.begin(*this, "f1") is not None
    clock.move(1)
    assert answers.begin(*this, "f2") is None
    assert answers.begin(*this, "f2") == StoredResponse("f2", None, {}, b"")


def test_one_of_many_equal_requests_begins(answers: IdempotencyStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: answers.begin("acme", "/", "k", "f"), range(24)))
    assert found.count(None) == 1


def test_answers_are_forgotten_after_two_days(
    answers: IdempotencyStore, engine: Engine, clock: HandClock
) -> None:
    ledger = SqlLedger(engine, clock)
    assert answers.begin("acme", "/", "k", "f") is None
    answers.finish("acme", "/", "k", 200, {}, b"")
    clock.move(47 * 3600)
    assert ledger.sweep() == 0
    assert answers.begin("acme", "/", "k", "f") is not None
    clock.move(3600)
    assert ledger.sweep() == 1
    assert answers.begin("acme", "/", "k", "f") is None
