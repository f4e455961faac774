"""Connections of tenants and their secrets, on both databases."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, text

from service.adapters.sql.connections import SqlConnections
from service.adapters.sql.secrets import SqlSecrets
from service.adapters.sql.webhooks import SqlWebhooks
from service.adapters.vault import AesGcmVault
from service.domain.connections import S3Place, StoredConnection
from service.domain.vault import Resealed
from service.domain.webhooks import Endpoint
from tests.contracts.ledgers import Bench, HandClock
from tests.contracts.objects import code_of

OLD, NEW = (base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2))
PLACE = S3Place("https://s3.example.com:443", "us-east-1", "bucket", ("a/", "b/"), True)
SECRET = b"hunter2-hunter2-hunter2"

Make = Callable[..., StoredConnection]


@pytest.fixture
def book(engine: Engine) -> SqlConnections:
    return SqlConnections(engine)


@pytest.fixture
def make(clock: HandClock) -> Make:
    def made(tenant: str = "acme", name: str = "models", **changes: Any) -> StoredConnection:
        now = clock.now()
        values: dict[str, Any] = {
            "id": f"con_{tenant}_{name}",
            "place": PLACE,
            "credentials": "stored",
            "reference": None,
            "sealed": b"\x01sealed",
            "version": 1,
            "create_time": now,
            "update_time": now,
            "credentials_time": now,
        }
        return StoredConnection(tenant=tenant, name=name, **(values | changes))

    return made


def test_what_is_kept_comes_back(book: SqlConnections, make: Make) -> None:
    stored = make()
    granted = make(
        name="by-grant",
        place=S3Place(None, "eu-west-1", "b2", ("",)),
        credentials="env",
        reference="team",
        sealed=None,
    )
    book.add(stored)
    book.add(granted)
    assert book.find("acme", "models") == stored
    assert book.list("acme") == [granted, stored]
    assert "sealed" not in repr(stored)


def test_tenants_have_names_of_their_own(book: SqlConnections, make: Make) -> None:
    ours, theirs = make(), make(tenant="other", place=replace(PLACE, bucket="theirs"))
    book.add(ours)
    book.add(theirs)
    assert code_of(lambda: book.add(make(id="con_x"))) == "name_in_use"
    assert book.find("other", "models") == theirs
    assert book.find("third", "models") is None
    assert not book.remove("third", "models")
    assert book.remove("acme", "models")
    assert not book.remove("acme", "models")
    assert book.list("other") == [theirs]


def test_of_two_changes_at_once_one_holds(book: SqlConnections, make: Make) -> None:
    old = make()
    book.add(old)
    first = replace(old, version=2, sealed=b"first")
    assert book.replace(old, first)
    assert not book.replace(old, replace(old, version=2, sealed=b"second"))
    assert book.find("acme", "models") == first
    assert book.remove("acme", "models")
    assert not book.replace(first, replace(first, version=3))


@pytest.mark.parametrize("side", ["source", "output"])
def test_what_jobs_use_stays(book: SqlConnections, make: Make, bench: Bench, side: str) -> None:
    old = make(name="mod_els")
    book.add(old)
    request = {
        "source": {"connection": "other", "prefix": ""},
        "output": {"connection": "out", "prefix": side},
    }
    request[side] = {"connection": "mod_els", "prefix": "x/"}
    job = bench.submit(request=request, labels={"connection": "labelled"})
    assert code_of(lambda: book.remove("acme", "mod_els")) == "connection_in_use"
    moved = replace(old, version=2, place=replace(PLACE, bucket="elsewhere"))
    assert code_of(lambda: book.replace(old, moved)) == "connection_in_use"
    # Credentials may change under running jobs: that is what a rotation is.
    rotated = replace(old, version=2, sealed=b"new")
    assert book.replace(old, rotated)
    # Other names, and other tenants' jobs, are in nobody's way.
    for name in ("modXels", "mod_els2", "labelled", "x/"):
        other = make(name=name, id=f"con_{name}")
        book.add(other)
        assert book.remove("acme", name)
    book.add(make(tenant="rival", name="mod_els"))
    assert book.remove("rival", "mod_els")
    bench.ledger.cancel_job(job.id)
    assert book.replace(rotated, replace(moved, version=3))
    assert book.remove("acme", "mod_els")


def test_one_name_of_two_tenants_is_two_outputs(bench: Bench) -> None:
    request = {"output": {"connection": "out", "prefix": "x/"}}
    bench.submit(request=request)
    assert code_of(lambda: bench.submit(tenant="other", request=request)) == "output_in_use"
    bench.submit(tenant="other", request=request, output_root="other/out")
    again = {"tenant": "other", "request": request, "output_root": "other/out"}
    assert code_of(lambda: bench.submit(**again)) == "output_in_use"


def _endpoint(clock: HandClock, vault: AesGcmVault) -> Endpoint:
    now, context = clock.now(), ("webhook", "acme", "wh_1")
    return Endpoint(
        id="wh_1",
        tenant="acme",
        url="https://hook.example.com",
        description="",
        events=(),
        disabled=None,
        secret=vault.seal(context, b"whsec_1"),
        old_secret=vault.seal(context, b"whsec_0"),
        old_secret_until=now,
        failing_since=None,
        create_time=now,
        update_time=now,
    )


def test_a_change_of_keys_reaches_every_secret(
    engine: Engine, book: SqlConnections, make: Make, clock: HandClock
) -> None:
    old = AesGcmVault([OLD])
    for tenant in ("acme", "other"):
        plain = make(tenant=tenant)
        book.add(replace(plain, sealed=old.seal(plain.context, SECRET)))
    book.add(make(name="granted", credentials="ambient", sealed=None))
    hooks = SqlWebhooks(engine, clock)
    hooks.create(_endpoint(clock, old))

    both = SqlSecrets(engine, AesGcmVault([NEW, OLD]))
    assert both.reseal() == Resealed(4, 0)
    assert both.reseal() == Resealed(0, 0)
    new = AesGcmVault([NEW])
    for tenant in ("acme", "other"):
        found = book.find(tenant, "models")
        assert found is not None
        assert found.version == 1  # the store that is open goes on being the right one
        assert new.open(found.context, found.sealed or b"") == SECRET
    hook = hooks.get("acme", "wh_1")
    assert new.open(("webhook", "acme", "wh_1"), hook.secret) == b"whsec_1"
    assert new.open(("webhook", "acme", "wh_1"), hook.old_secret or b"") == b"whsec_0"


def test_a_lost_key_holds_up_no_other_secret(
    engine: Engine, book: SqlConnections, make: Make
) -> None:
    lost, kept = make(name="lost"), make(name="kept")
    book.add(replace(lost, sealed=AesGcmVault([OLD]).seal(lost.context, SECRET)))
    other = base64.b64encode(bytes([3]) * 32).decode()
    book.add(replace(kept, sealed=AesGcmVault([other]).seal(kept.context, SECRET)))
    assert SqlSecrets(engine, AesGcmVault([NEW, other])).reseal() == Resealed(1, 1)


def test_rows_that_were_swapped_open_nothing(
    engine: Engine, book: SqlConnections, make: Make
) -> None:
    """Who may write to the database cannot make another tenant's connection use the victim's keys."""
    vault = AesGcmVault([NEW])
    victim, rival = make(), make(tenant="rival")
    book.add(replace(victim, sealed=vault.seal(victim.context, SECRET)))
    book.add(replace(rival, sealed=vault.seal(rival.context, b"own")))
    with engine.begin() as connection:
        stolen = "(SELECT sealed FROM connections WHERE tenant = 'acme')"
        connection.execute(text(f"UPDATE connections SET sealed = {stolen} WHERE tenant = 'rival'"))
    found = book.find("rival", "models")
    assert found is not None
    assert found.sealed is not None
    sealed = found.sealed
    assert code_of(lambda: vault.open(found.context, sealed)) == "secret_unreadable"


def test_the_database_holds_nothing_in_the_clear(
    engine: Engine, book: SqlConnections, make: Make
) -> None:
    plain = make()
    book.add(replace(plain, sealed=AesGcmVault([NEW]).seal(plain.context, SECRET)))
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM connections")).mappings().all()
    shown = json.dumps([dict(row) for row in rows], default=repr)
    assert "hunter2" not in shown
    assert base64.b64encode(SECRET).decode() not in shown
