"""API keys, and answers kept for requests that come twice."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, select
from sqlalchemy import text as sql

from service.adapters.sql import SqlIdempotencyStore, SqlKeyRing, SqlLedger, make_engine, migrate
from service.adapters.sql.engine import MIGRATIONS, Database
from service.adapters.sql.tables import api_keys
from service.domain.access import ALL_SCOPES, TENANT_SCOPES, KeyRing, Scope
from service.domain.ports import IdempotencyStore, StoredResponse
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
    assert ring.list(after=first.id) == [second]
    assert ring.list(limit=1) == [first]
    assert (ring.get(first.id), ring.get(first.id, "acme")) == (first, first)
    assert ring.get(first.id, "other") is None


def test_a_key_says_what_it_allows(ring: KeyRing) -> None:
    _, text = ring.create("acme", "reader", frozenset({Scope.JOBS_READ}))
    found = ring.find(text)
    assert found is not None
    assert found.scopes == {Scope.JOBS_READ}
    assert ring.create("acme", "n")[0].scopes == TENANT_SCOPES
    everything, _ = ring.create("acme", "all", ALL_SCOPES)
    assert ring.get(everything.id) == everything


def test_a_key_expires(ring: KeyRing, clock: HandClock) -> None:
    until = clock.now() + timedelta(hours=1)
    key, text = ring.create("acme", "guest", TENANT_SCOPES, until)
    assert key.expire_time == until
    clock.move(3599)
    assert ring.find(text) is not None
    clock.move(1)
    assert ring.find(text) is None
    assert ring.rotate(key.id, timedelta(0)) is None


def test_the_last_use_is_noted_once_a_minute(ring: KeyRing, clock: HandClock) -> None:
    key, text = ring.create("acme", "n")

    def last_use() -> float | None:
        now = ring.get(key.id)
        assert now is not None
        if now.last_use_time is None:
            return None
        return (now.last_use_time - key.create_time).total_seconds()

    ring.find(text[:-1] + ("A" if text[-1] != "A" else "B"))
    assert last_use() is None
    for moved, noted in ((1, 1), (59, 1), (1, 61), (30, 61)):
        clock.move(moved)
        assert ring.find(text) is not None
        assert last_use() == noted


def test_a_rotated_key_has_a_new_secret_and_for_a_while_the_old(
    ring: KeyRing, clock: HandClock
) -> None:
    key, first = ring.create("acme", "n", frozenset({Scope.JOBS_READ}))
    assert ring.rotate(key.id, timedelta(hours=1), "rival") is None
    rotated = ring.rotate(key.id, timedelta(hours=1), "acme")
    assert rotated is not None
    again, second = rotated
    assert second != first
    assert second.startswith(f"aq_{key.id}_")
    assert again.grace_time == clock.now() + timedelta(hours=1)
    assert replace(again, grace_time=None) == key
    clock.move(3599)
    for text in (first, second):
        assert ring.find(text) is not None
    clock.move(1)
    assert ring.find(first) is None
    third = ring.rotate(key.id, timedelta(hours=1))
    assert third is not None
    assert ring.find(first) is None
    assert ring.find(second) is not None
    last = ring.rotate(key.id, timedelta(0))
    assert last is not None
    assert [ring.find(text) is None for text in (first, second, third[1], last[1])] == [
        True, True, True, False,
    ]  # fmt: skip
    ring.revoke(key.id)
    assert ring.rotate(key.id, timedelta(0)) is None
    assert ring.find(last[1]) is None


def test_a_key_of_another_tenant_cannot_be_revoked(ring: KeyRing) -> None:
    key, text = ring.create("acme", "n")
    assert not ring.revoke(key.id, "rival")
    assert ring.find(text) is not None
    assert ring.revoke(key.id, "acme")


@contextmanager
def migrated_to(url: str, revision: str) -> Iterator[Connection]:
    """A new database with the schema of an older version."""
    engine = make_engine(url)
    with Database(engine).write() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.upgrade(config, revision)
        yield connection
    engine.dispose()


def test_keys_from_before_there_were_scopes_keep_what_they_could_do(
    tmp_path: Path,
) -> None:
    url = f"sqlite:///{tmp_path}/old.db"
    with migrated_to(url, "0001") as connection:
        columns = "(id, tenant, name, sha256, create_time)"
        values = "('a', 't', 'n', 'x', '2026-01-01 00:00:00')"
        connection.execute(sql(f"INSERT INTO api_keys {columns} VALUES {values}"))
    migrate(url)
    engine = make_engine(url)
    (key,) = SqlKeyRing(engine, HandClock()).list()
    engine.dispose()
    assert key.scopes == TENANT_SCOPES


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
